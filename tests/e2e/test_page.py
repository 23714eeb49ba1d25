"""The report of a run: its numbers are those of the predictions, and nothing in it comes from elsewhere or runs."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Elements
from refusals import refused
from sklearn.metrics import log_loss, roc_auc_score

from llmcf_cli.cli.audit import find_run
from llmcf_cli.cli.stages import run_stage
from llmcf_cli.core.errors import StoreError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.features.batch import encode_rows, to_batch
from llmcf_cli.rec.bundle.bundle import load_bundle
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.input.examples import ExampleBank
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.rec.train.predict import score
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.stages.look.page.cases import KINDS, find_cases
from llmcf_cli.stages.look.page.charts import intervals, lines, ticks
from llmcf_cli.stages.look.page.content import gather
from llmcf_cli.stages.look.page.lineage import MOST, draw, everything, label_of
from llmcf_cli.stages.look.page.render import html, write_page
from llmcf_cli.stages.look.runs import past_runs
from llmcf_cli.stages.steps.evaluate import Comparison, EvaluateOutput
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.stages.steps.train_rec import TrainRecOutput
from llmcf_cli.store.artifacts import ArtifactStore
from llmcf_cli.store.open import connect_read, read_parquet

RECIPE = """\
extends: planted/base
name: small
dataset: {source: {type: planted, seed: 1, users: 120, items: 150, ratings: 2400}}
cot: {sample: {fraction: 0.3}}
rec:
  compare: [none, text, ict]
  variants:
    - {name: random examples, set: {match.search: random}, control_of: ict}
  baselines: [popularity]
  seeds: [1, 2]
  fit: {batch_size: 256, learning_rate: 2.0e-3, epochs: 2, patience: 1}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, request):
    """A finished run, and what its command printed last."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "small.yaml").write_text(RECIPE)
    run_stage("evaluate", str(folder / "small.yaml"), (), folder / "artifacts", False, (), None)
    return folder


@pytest.fixture(scope="module")
def run(made):
    (last,) = (manifest.parent for manifest in (made / "artifacts" / "evaluate").glob("*/manifest.json"))
    return run_of_folder(last)


@pytest.fixture(scope="module")
def page(run):
    return gather(run)


def test_a_run_leaves_its_report_and_the_command_writes_the_same(made, run):
    (left,) = (made / "artifacts" / "report").iterdir()
    text = left.read_text()
    assert write_page(run, made / "again.html").read_text() == text
    by_recipe = find_run(str(made / "small.yaml"), (), made / "artifacts", None)
    assert write_page(by_recipe, made / "third.html").read_text() == text
    assert find_run(run.key[:8], (), made / "artifacts", None).key == run.key


def test_the_page_is_sound_and_alone(page):
    text = html(page)
    found = Elements(text)
    assert len(text) < 2_000_000
    assert not {"script", "link", "iframe", "object", "img", "form"} & {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags if any(name.startswith("on") or name in ("src", "action") for name in a)]
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in found.tags if tag == "a"]
    assert links
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in found.tags if tag == "svg")
    assert "url(" not in text
    assert "//" not in re.sub(r"<!doctype.*?>", "", "".join(a.get("href", "") for _, a in found.tags))
    assert set(ids) >= {"verdict", "arms", "differences", "slices", "calibration", "cases", "data", "audit", "lineage"}


def test_what_comes_from_data_is_no_markup(page):
    evil = '</title><script>alert(1)</script>"onload="x\x1b[31m'
    case = page.cases.cases[0]
    row = replace(case.shown.query, item=evil, history=(evil,), user_id=evil)
    examples = tuple(replace(e, cot=evil, row=replace(e.row, item=evil)) for e in case.shown.examples)
    shown = replace(case.shown, query=row, examples=examples)
    arms = [arm | {"arm": evil, "meaning": evil} for arm in page.comparison.arms]
    hostile = replace(
        page, comparison=replace(page.comparison, recipe=evil, arms=arms),
        cases=replace(page.cases, arm=evil, cases=(replace(case, shown=shown, scores={evil: 0.5}),)),
        values=intervals(evil, evil, [(evil, 0.5, 0.4, 0.6, ())]),
        curves=lines(evil, evil, evil, {evil: [(1.0, 0.5)]}),
    )  # fmt: skip
    found = Elements(html(hostile))
    assert "script" not in {tag for tag, _ in found.tags}
    assert not [a for _, a in found.tags if "onload" in a]
    assert "\x1b" not in html(hostile)
    assert any("<script>" in text for text in found.text)


def predictions(run, arm, seed):
    made = next(p for p in run.predicted if (p.arm, p.seed) == (arm, seed)).made
    return read_parquet(PredictOutput(made.folder).predictions, ["sample_id", "label", "logit"])


def test_tables_have_the_measures_of_the_predictions(run, page):
    text = " ".join(Elements(html(page)).text)
    for arm in ("none", "text", "ict"):
        stored = [predictions(run, arm, seed) for seed in (1, 2)]
        mean = np.mean([roc_auc_score(one["label"].to_numpy(), one["logit"].to_numpy()) for one in stored])
        assert f"{mean:.4f}" in text


def test_calibration_is_that_of_the_predictions(run, page):
    stored = predictions(run, "text", 1)
    share = 1 / (1 + np.exp(-stored["logit"].to_numpy().astype(float)))
    label = stored["label"].to_numpy()
    rows = [row for row in page.bins.rows if row[0] == "text"]
    assert sum(int(row[4].replace(",", "")) for row in rows) == len(label)
    for row in rows:
        inside = np.floor(share * 10) == np.floor(float(row[1]) * 10)
        assert float(row[2]) == pytest.approx(label[inside].mean(), abs=1e-3)


def test_cases_are_extremes_a_draw_and_cold_users(run, page):
    cases = page.cases
    stored = {arm: [predictions(run, arm, seed) for seed in (1, 2)] for arm in (cases.arm, cases.reference)}
    ids = stored[cases.arm][0]["sample_id"].to_numpy()
    label = stored[cases.arm][0]["label"].to_numpy()

    def loss(arm, place):
        shares = [1 / (1 + np.exp(-float(one["logit"][place].as_py()))) for one in stored[arm]]
        return np.mean([log_loss([label[place]], [share], labels=[0, 1]) for share in shares])

    gains = np.array([loss(cases.reference, n) - loss(cases.arm, n) for n in range(len(ids))])
    place = {sample: n for n, sample in enumerate(ids.tolist())}
    for case in cases.cases:
        assert case.gain == pytest.approx(gains[place[case.shown.query.sample_id]], abs=1e-5)
        assert case.shown.query.split == "test"
        assert case.kind != "cold" or not case.shown.query.history
    of = {kind: [case.gain for case in cases.cases if case.kind == kind] for kind in KINDS}
    assert of["gain"] == pytest.approx(sorted(gains, reverse=True)[:3], abs=1e-5)
    assert of["loss"] == pytest.approx(sorted(gains)[:3], abs=1e-5)
    assert len(of["random"]) == 3
    assert len({case.shown.query.sample_id for case in cases.cases}) == len(cases.cases)


def test_what_a_case_owes_is_what_the_model_answers_without_it(run):
    """By the served scorer's bundle in plain steps: every example masked, given the mean vector, or the other label."""
    found = find_cases(run, Ranking(RankingConfig()), "ict", ["none", "text"])
    reading = [p.made for p in run.predicted if p.arm == "ict"]
    models = [load_bundle(TrainRecOutput(made.need("train-rec").folder).bundle).model for made in reading]
    database = IngestOutput(next(reading[0].below("ingest")).folder).database

    def answer(model, case, cot, label, keep):
        """The probability, by a bank of just this case's examples."""
        bank = model.resources.get("examples")
        ids = [e.row.sample_id for e in case.shown.examples]
        at = np.array([bank.samples.sample_id_N.tolist().index(one) for one in ids])
        rows = bank.samples.take(at)
        rows = replace(rows, label_N=np.array(label, np.float32))
        own = ExampleBank(rows, np.stack(cot), bank.k, None, {n: v[at] for n, v in bank.rows.items()})
        other = model.with_items(model.resources.holding(examples=own)).eval()
        with connect_read(database) as con:
            sample = con.sql(f"SELECT * FROM sample WHERE sample_id = {case.shown.query.sample_id}").to_arrow_table()
        index = np.full((1, bank.k), -1, np.int32)
        index[0, : len(ids)] = np.where(keep, np.arange(len(ids)), -1)
        batch = to_batch(encode_rows(sample, model.resources.spec.history_length), inputs={"examples": index})
        return 1 / (1 + np.exp(-float(score(other, batch, 1)[0])))

    assert found.counterfactual
    assert any(abs(e.reasoning) > 1e-6 and abs(e.label) > 1e-6 for case in found.cases for e in case.owed.examples)
    for case in found.cases[:4]:
        banks = [model.resources.get("examples") for model in models]
        ids = [e.row.sample_id for e in case.shown.examples]
        assert len(case.owed.examples) == len(ids)
        at = [banks[0].samples.sample_id_N.tolist().index(one) for one in ids]
        cot, label = [banks[0].cot_ET[e] for e in at], [e.row.label for e in case.shown.examples]
        mean = banks[0].cot_ET.mean(0)
        everything_ = np.ones(len(ids), bool)

        def over_seeds(case, *given):
            return np.mean([answer(model, case, *given) for model in models])

        whole = over_seeds(case, cot, label, everything_)
        assert whole == pytest.approx(case.scores["ict"], abs=1e-5)
        assert case.owed.without == pytest.approx(over_seeds(case, cot, label, ~everything_), abs=1e-5)
        for k, owed in enumerate(case.owed.examples):
            only = np.arange(len(ids)) == k
            gone = over_seeds(case, cot, label, ~only)
            vague = over_seeds(case, [mean if n else c for n, c in zip(only, cot, strict=True)], label, everything_)
            either = np.mean([
                over_seeds(case, cot, [y if n else own for n, own in zip(only, label, strict=True)], everything_)
                for y in (0, 1)
            ])  # fmt: skip
            assert owed.whole == pytest.approx(whole - gone, abs=1e-5)
            assert owed.reasoning == pytest.approx(whole - vague, abs=1e-5)
            assert owed.label == pytest.approx(whole - either, abs=1e-5)


def test_an_arm_without_examples_owes_nothing_to_any(run):
    found = find_cases(run, Ranking(RankingConfig()), "text", ["none"])
    assert found.cases
    assert not found.counterfactual


def test_a_model_that_answers_otherwise_than_it_did_is_told(run, tmp_path):
    root = tmp_path / "artifacts"
    shutil.copytree(run.store.root, root)
    (last,) = (manifest.parent for manifest in (root / "evaluate").glob("*/manifest.json"))
    moved = run_of_folder(last)
    file = PredictOutput(next(p for p in moved.predicted if p.arm == "ict").made.folder).predictions
    table = pq.read_table(file)
    logit = pa.array(table["logit"].to_numpy() + np.float32(0.5))
    pq.write_table(table.set_column(table.column_names.index("logit"), table.schema.field("logit"), logit), file)
    with refused("predictions-unfit", StoreError):
        find_cases(moved, Ranking(RankingConfig()), "ict", ["none"])


def test_the_verdict_says_what_the_tests_say(run, page):
    found = from_json(Comparison, run.last.manifest.report)
    tones = {s.text.split("“")[2].split("”")[0]: s.tone for s in page.verdict if s.text.count("“") == 2}
    arm = page.cases.arm
    told = {row[0]: row[1:4] for row in page.controls.rows}
    (control,) = found.controls
    assert told["ict − random examples"][:2] == [f"{control['gain']:+.4f}", f"{control['control_gain']:+.4f}"]
    for d in found.differences:
        pair = {d["arm"], d["reference"]}
        if arm in pair and (other := (pair - {arm}).pop()) in tones:
            certain = d["p_value"] < 0.05 and (d["p_value_seeds"] is None or d["p_value_seeds"] < 0.05)
            gain = d["difference"] * (1 if d["arm"] == arm else -1)
            assert tones[other] == ("open" if not certain else "good" if gain > 0 else "bad")


def test_the_drawing_has_every_artifact_and_what_it_was_made_from(run, page):
    made = everything(run.last)
    assert {a.label for a in page.artifacts} == {label_of(one) for one in made}
    assert len(made) > MOST
    stages = {(need.manifest.stage, one.manifest.stage) for one in made for need in one.needs.values()}
    assert {box.title for box in page.drawing.boxes} == {one.manifest.stage for one in made}
    assert (len(page.drawing.boxes), len(page.drawing.paths)) == (len({a.label.split("[")[0] for a in page.artifacts}),
                                                                  len(stages))  # fmt: skip
    few = everything(run.matches[0])
    drawing = draw(run.matches[0])
    assert (len(drawing.boxes), len(drawing.paths)) == (len(few), sum(len(one.needs) for one in few))
    assert EvaluateOutput(run.last.folder).metrics.is_file()


def test_runs_say_what_changed(made, run, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    capsys.readouterr()
    overrides = ("rec.compare=[none]", "rec.variants=[]", "rec.seeds=[1]", "rec.backbone.hidden=[8]", "seed=5")
    run_stage("evaluate", str(folder / "small.yaml"), overrides, folder / "artifacts", False, (), None)
    found, others = past_runs(ArtifactStore(folder / "artifacts"))
    assert others == 0
    assert [one.recipe for one in found] == ["small", "small"]
    assert found[0].changed is None
    assert found[0].key == run.key[:16]
    changed = found[1].changed
    assert "− match" in changed
    assert "− train-rec[ict seed=2]" in changed
    assert "rec.backbone.hidden[0] 64 → 8" in changed
    assert "seed 2024 → 5" in changed
    assert len(changed) == len(set(changed))
    assert set(found[1].values) == {"popularity", "none"}


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_all_words_and_series_stand_out_in_light_and_dark(page):
    colours = dict(re.findall(r"--([\w]+): light-dark\(([^)]+)\)", html(page)))
    pairs = {name: [part.strip() for part in both.split(",")] for name, both in colours.items()}
    for name in ("ink", "soft", "good", "bad", "open", "link", "s0", "s1", "s2", "s3", "s4", "s5"):
        for side in (0, 1):
            for ground in ("paper", "panel"):
                light, dark = sorted((luminance(pairs[name][side]), luminance(pairs[ground][side])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, side, ground)


@pytest.mark.parametrize(("low", "high"), [(0.71, 0.76), (-0.11, 0.03), (1, 30), (0.5, 0.5), (0, 1e-7)])
def test_marks_of_an_axis_are_round_and_within(low, high):
    found = ticks(low, high)
    assert found
    assert len(found) <= 7
    assert all(low - 1e-12 <= value <= high + 1e-12 or low == high for value in found)
