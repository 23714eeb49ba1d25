"""The comparison: means over seeds, tested differences, honest notes, files that people look at."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.core.text import markdown as md
from llmcf_cli.rec.measure.base import Truth, measured
from llmcf_cli.rec.measure.compare import (
    ArmRun,
    control_rows,
    difference_rows,
    few_users,
    main_differences,
    markdown,
    mean_text,
    notes,
    rows,
    slice_rows,
    summarise,
    warnings,
)
from llmcf_cli.rec.measure.plots import plot
from llmcf_cli.rec.measure.ranking import AUC, CalibrationError, GroupAUC, LogLoss
from llmcf_cli.rec.measure.slices import parts_of

LABEL = (np.random.default_rng(0).random(400) < 0.5).astype(np.float32)
TRUTH = Truth(LABEL, np.arange(400) % 20)
MEASURES = (AUC(), LogLoss(), GroupAUC(), CalibrationError())


def run(arm: str, seed: int, strength: float) -> ArmRun:
    rng = np.random.default_rng([seed, len(arm)])
    logit = (strength * (LABEL - 0.5) + rng.normal(size=400)).astype(np.float32)
    metrics = measured(MEASURES, logit, TRUTH)
    return ArmRun(
        arm=arm,
        meaning=f"what {arm} is",
        seed=seed,
        metrics=metrics,
        validation=metrics,
        curve=[0.5, 0.6],
        seconds_per_epoch=1.5,
        parameters=10,
        peak_memory=int(5e6),
        slices={"new users": 0.5 + seed / 100},
        prediction_N=logit,
    )


@pytest.fixture
def runs():
    return [run(arm, seed, s) for arm, s in (("none", 0.5), ("text", 1.0), ("ict", 1.0)) for seed in (1, 2, 3)]


@pytest.fixture
def report(runs):
    found = {
        "recipe": "r", "backbone": "deepfm", "monitor": "auc", "test_samples": 400,
        "slices": {"new users": 7, "unmeasured": 3}, "failed": {"broken": "it broke"},
        "small_slices": {"unmeasured": {"positive samples": 1, "negative samples": 2}}, "least": 50,
        **summarise(runs, TRUTH, MEASURES, ("none", "text", "absent")),
    }  # fmt: skip
    return {**found, "notes": notes(found)}


def test_tests_are_over_users_and_few_of_them_are_warned_of(report):
    assert report["test_users"] == 20
    assert "over the users of the test split" in report["notes"][1]
    assert "20 users" in few_users(report)[0]
    assert few_users({**report, "test_users": 500}) == []
    assert "400 samples of 20 users" in markdown(report)


def test_a_slice_of_all_samples_is_left_out_and_told():
    some, all_ = np.arange(4) < 2, np.ones(4, bool)
    kept, told = parts_of({"new users": some, "short histories": all_})
    assert list(kept) == ["new users"]
    assert "short histories" in told[0]
    assert parts_of({"new users": some})[1] == []


def test_means_and_spread_are_over_seeds(runs, report):
    values = [r.metrics["auc"] for r in runs if r.arm == "text"]
    assert report["arms"][1]["measures"]["auc"] == {"mean": np.mean(values), "sd": np.std(values, ddof=1), "n": 3}
    assert mean_text(report["arms"][1]["measures"]["auc"]) == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_every_arm_is_tested_against_both_references_on_pooled_logits(runs, report):
    pairs = [(d["reference"], d["arm"]) for d in report["differences"]]
    assert pairs == [("none", "text"), ("none", "ict"), ("text", "ict")]
    pooled = {a: np.mean([r.prediction_N for r in runs if r.arm == a], axis=0) for a in ("none", "ict")}
    expected = roc_auc_score(LABEL, pooled["ict"]) - roc_auc_score(LABEL, pooled["none"])
    assert report["differences"][1]["difference"] == pytest.approx(expected)


def test_differences_are_significant_only_by_every_test_that_was_made(runs, report):
    titles, cells = difference_rows(report, report["differences"])
    assert titles == ["arms", "difference", "95 % interval", "p (DeLong)", "p (seeds)", "significant"]
    for row, d in zip(cells, report["differences"], strict=True):
        assert row[:2] == [f"{d['arm']} − {d['reference']}", f"{d['difference']:+.4f}"]
        assert row[-1] == ("yes" if d["p_value"] < 0.05 and d["p_value_seeds"] < 0.05 else "no")
    by_one_test = {**report["differences"][0], "p_value": 0.001, "p_value_seeds": 0.2}
    assert difference_rows(report, [by_one_test])[1][0][-3:] == ["0.001", "0.200", "no"]
    one = summarise([r for r in runs if r.seed == 1], TRUTH, MEASURES, ("none", "text"))
    assert "p (seeds)" not in difference_rows(one, one["differences"])[0]
    certain = {**one["differences"][0], "p_value": 1e-9}
    assert difference_rows(one, [certain])[1][0][-2:] == ["< 0.001", "yes"]


def test_notes_warn_about_one_seed(runs, report):
    assert not any("one seed" in note for note in notes(report))
    assert any("one seed" in note for note in notes(summarise(runs[::3], TRUTH, MEASURES, ("none",))))


def test_differences_are_tested_over_seeds_too(runs, report):
    from scipy.stats import ttest_rel

    auc = {arm: [r.metrics["auc"] for r in runs if r.arm == arm] for arm in ("none", "ict")}
    difference = report["differences"][1]
    assert difference["p_value_seeds"] == pytest.approx(ttest_rel(auc["ict"], auc["none"]).pvalue)
    assert difference["mean_difference"] == pytest.approx(np.mean(auc["ict"]) - np.mean(auc["none"]))


def test_an_arm_without_seeds_is_compared_with_the_mean_of_the_others(runs):
    fixed = next(r for r in runs if r.arm == "ict")
    others = [r for r in runs if r.arm == "none"]
    found = summarise([*others, fixed], TRUTH, MEASURES, ("none",))["differences"][0]
    assert found["mean_difference"] == pytest.approx(fixed.metrics["auc"] - np.mean([r.metrics["auc"] for r in others]))


def test_relative_improvement_is_over_the_first_reference(report):
    none, text, _ = report["arms"]
    assert none["relative_improvement"] == 0
    expected = (text["measures"]["auc"]["mean"] - 0.5) / (none["measures"]["auc"]["mean"] - 0.5) - 1
    assert text["relative_improvement"] == pytest.approx(expected)


def test_there_is_no_relative_improvement_over_chance(runs):
    turned = [replace(r, metrics={**r.metrics, "auc": 1 - r.metrics["auc"]}) for r in runs]
    found = summarise(turned, TRUTH, MEASURES, ("none",))
    assert found["arms"][0]["measures"]["auc"]["mean"] < 0.5
    assert all(arm["relative_improvement"] is None for arm in found["arms"])


def test_there_is_no_relative_improvement_over_what_may_be_chance(runs):
    near = [replace(r, metrics={**r.metrics, "auc": 0.5 + 1e-4}) if r.arm == "none" else r for r in runs]
    found = summarise(near, TRUTH, MEASURES, ("none",))
    assert found["arms"][0]["measures"]["auc"]["mean"] > 0.5
    assert all(arm["relative_improvement"] is None for arm in found["arms"])


def test_tables_show_what_some_arm_has(report):
    titles, cells = rows(report)
    assert titles[:3] == ["arm", "AUC ↑", "logloss ↓"]
    assert cells[0][titles.index("peak MB")] == "5"
    assert cells[0][titles.index("s/epoch")] == "1.50"
    bare = {**report, "arms": [{**arm, "seconds_per_epoch": None} for arm in report["arms"]]}
    assert "s/epoch" not in rows(bare)[0]
    assert slice_rows(report) == (
        ["arm", "new users, n = 7"],
        [[arm, "0.5200 ± 0.0100"] for arm in ("none", "text", "ict")],
    )


def test_an_arm_that_failed_is_named_with_its_reason(report):
    assert "- broken: it broke" in markdown(report)


def test_markdown_has_a_row_per_arm(report):
    lines = markdown(report).splitlines()
    main = lines[: lines.index("Differences of AUC, with 95 % intervals over the users of the test split:")]
    assert all(f"| {arm} − none | " in markdown(report) for arm in ("text", "ict"))
    found = [line.split(" | ")[0] for line in main if line.startswith(("| none", "| text", "| ict"))]
    assert found == ["| none", "| text", "| ict"]
    assert all(f"- {md(note)}" in markdown(report) for note in report["notes"])


def test_a_metric_that_is_undefined_is_a_dash(report):
    measures = {name: value for name, value in report["arms"][0]["measures"].items() if name != "gauc"}
    assert mean_text(measures.get("gauc")) == "–"
    arm = {**report["arms"][0], "measures": measures}
    assert "| – |" in markdown({**report, "arms": [arm, *report["arms"][1:]]})


def test_plots_are_a_picture_and_a_page_that_needs_no_network(runs, report, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    png, page = plot(report, runs, tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = page.read_text()
    assert "seed 3" in text
    assert 'src="http' not in text


MARKUP = ["$x^^$ a", "_hidden", "<a href='https://example.org'>x</a>", "a|b `c` *d* $e$", "\x1b[2Jé\u202eb", "a\nb"]


@pytest.mark.parametrize("name", MARKUP)
def test_names_with_markup_are_drawn_and_told_as_they_are(tmp_path, name):
    """Formulas of matplotlib, labels that it hides, HTML that plotly reads, Markdown, control characters."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    runs = [run(arm, seed, 1.0) for arm in ("none", name) for seed in (1, 2)]
    found = {
        "recipe": "r", "backbone": "deepfm", "monitor": "auc", "test_samples": 400, "slices": {"new users": 7},
        "failed": {name: name}, "small_slices": {}, "least": 50, "warnings": [name],
        **summarise(runs, TRUTH, MEASURES, ("none",)),
    }  # fmt: skip
    found["notes"] = [*notes(found), name]
    png, page = plot(found, runs, tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    data = page.read_text().rpartition("Plotly.newPlot")[2]
    assert not any(one in data for one in ("<a", r"\u003ca", "\x1b", "\u202e"))
    told = markdown(found)
    assert not any(one in told for one in ("<a", "\x1b", "\u202e", "a|b", " `c`", " *d*"))
    assert len(told.splitlines()) == len(markdown({**found, "failed": {"x": "x"}}).splitlines())


def test_a_screen_shows_all_differences_or_those_from_the_last_reference():
    pairs = [(reference, f"arm {n}") for reference in ("none", "text") for n in range(4)]
    report = {"references": ["none", "text"], "differences": [{"reference": r, "arm": a} for r, a in pairs]}
    assert [d["arm"] for d in main_differences(report)] == [f"arm {n}" for n in range(4)]
    assert {d["reference"] for d in main_differences(report)} == {"text"}
    few = {**report, "differences": report["differences"][1:7]}
    assert main_differences(few) == few["differences"]


def test_an_arms_gain_stands_beside_its_controls(runs):
    """Gains over the last reference that is neither of the two, nor another arm's control."""
    arms = {"none": 0.5, "text": 0.7, "ict": 1.0, "shuffled": 0.8, "ict + signals": 1.2, "text + signals": 1.1}
    runs = [run(arm, seed, strength) for arm, strength in arms.items() for seed in (1, 2)]
    controls = {"shuffled": "ict", "text + signals": "ict + signals", "absent": "ict"}
    found = summarise(runs, TRUTH, MEASURES, ("none", "text", "text + signals"), controls)["controls"]
    assert [(c["arm"], c["control"], c["reference"]) for c in found] == [
        ("ict", "shuffled", "text"), ("ict + signals", "text + signals", "text"),
    ]  # fmt: skip
    auc = {a: roc_auc_score(LABEL, np.mean([r.prediction_N for r in runs if r.arm == a], axis=0)) for a in arms}
    assert found[0]["gain"] == pytest.approx(auc["ict"] - auc["text"])
    assert found[0]["control_gain"] == pytest.approx(auc["shuffled"] - auc["text"])
    assert found[0]["share"] == pytest.approx(found[0]["control_gain"] / found[0]["gain"])
    assert found[0]["from_control"]["difference"] == pytest.approx(auc["ict"] - auc["shuffled"])


def test_there_is_no_share_of_a_gain_that_may_be_none():
    arms = {"text": 1.0, "ict": 1.0, "shuffled": 1.0}
    runs = [run(arm, seed, strength) for arm, strength in arms.items() for seed in (1, 2)]
    report = summarise(runs, TRUTH, MEASURES, ("text",), {"shuffled": "ict"})
    assert report["controls"][0]["share"] is None
    titles, cells = control_rows(report)
    assert titles[:4] == ["arms", "gain over text", "the control's", "share"]
    assert cells[0][0] == "ict − shuffled"
    assert cells[0][3] == "–"


def test_a_gain_is_positive_where_less_is_better():
    arms = {"text": 0.5, "ict": 2.0, "shuffled": 0.5}
    runs = [run(arm, seed, strength) for arm, strength in arms.items() for seed in (1, 2)]
    found = summarise(runs, TRUTH, (LogLoss(), AUC()), ("text",), {"shuffled": "ict"})["controls"][0]
    assert found["gain"] > 0
    assert 0 <= abs(found["share"]) < 0.5


def test_a_baseline_above_the_arm_to_serve_is_told():
    served = [run("none", seed, 1.0) for seed in (1, 2)]
    strong, weak = (replace(run(name, 1, strength), curve=()) for name, strength in (("best", 3.0), ("worst", -1.0)))
    for monitor in (AUC(), LogLoss()):
        found = warnings([*served, strong, weak], MEASURES, "none", monitor)
        told = [text for text in found if "baseline" in text]
        better = monitor.sign * strong.validation[monitor.name] > monitor.sign * np.mean(
            [run.validation[monitor.name] for run in served]
        )
        assert [text.split(":")[0] for text in told] == ["best"] * bool(better)
    assert not [text for text in warnings([*served, strong], MEASURES, None, AUC()) if "baseline" in text]


def test_a_measure_says_how_many_decimals_it_is_shown_with():
    """And one of an earlier version, which does not, has four."""
    value = {"mean": 451.77, "sd": 1.26, "n": 3}
    arm = {"arm": "a", "measures": {"x": value, "y": value}, "validation": None}
    report = {
        "arms": [arm], "references": [], "measures": [{"name": "x", "heading": "x", "title": "x", "digits": 1},
                                                      {"name": "y", "heading": "y", "title": "y"}],
    }  # fmt: skip
    titles, cells = rows(report)
    shown = dict(zip(titles, cells[0], strict=True))
    assert (shown["x"], shown["y"]) == ("451.8 ± 1.3", "451.7700 ± 1.2600")
