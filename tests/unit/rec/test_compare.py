"""The comparison: means over seeds, tested differences, honest notes, files that people look at."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.rec.compare import ArmRun, markdown, mean_text, notes, plot, summarise
from llmcf_cli.rec.metrics import ranking_metrics

LABEL = (np.random.default_rng(0).random(400) < 0.5).astype(np.float32)
USER = np.arange(400) % 20


def run(arm: str, seed: int, strength: float) -> ArmRun:
    rng = np.random.default_rng([seed, len(arm)])
    logit = (strength * (LABEL - 0.5) + rng.normal(size=400)).astype(np.float32)
    metrics = ranking_metrics(LABEL, logit, USER)
    return ArmRun(
        arm=arm,
        meaning=f"what {arm} is",
        seed=seed,
        metrics=metrics,
        validation=metrics,
        curve=[0.5, 0.6],
        epochs=2,
        seconds_per_epoch=1.5,
        parameters=10,
        logit_N=logit,
    )


@pytest.fixture
def runs():
    return [run(arm, seed, s) for arm, s in (("none", 0.5), ("text", 1.0), ("ict", 1.0)) for seed in (1, 2, 3)]


@pytest.fixture
def report(runs):
    found = {"recipe": "r", "backbone": "deepfm", "test_samples": 400, **summarise(runs, LABEL)}
    return {**found, "notes": notes(found)}


def test_means_and_spread_are_over_seeds(runs, report):
    values = [r.metrics["auc"] for r in runs if r.arm == "text"]
    assert report["arms"][1]["auc"] == {"mean": np.mean(values), "sd": np.std(values, ddof=1), "n": 3}
    assert mean_text(report["arms"][1]["auc"]) == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_every_arm_is_tested_against_both_references_on_pooled_logits(runs, report):
    pairs = [(d["reference"], d["arm"]) for d in report["differences"]]
    assert pairs == [("none", "text"), ("none", "ict"), ("text", "ict")]
    pooled = {a: np.mean([r.logit_N for r in runs if r.arm == a], axis=0) for a in ("none", "ict")}
    expected = roc_auc_score(LABEL, pooled["ict"]) - roc_auc_score(LABEL, pooled["none"])
    assert report["differences"][1]["difference"] == pytest.approx(expected)


def test_notes_say_what_is_significant_and_warn_about_one_seed(runs):
    one = summarise([r for r in runs if r.seed == 1], LABEL)
    text = "\n".join(notes(one))
    assert "one seed" in text
    assert text.count("significant") == 3
    for difference in one["differences"]:
        sure = difference["p_value"] < 0.05
        line = next(x for x in notes(one) if x.startswith(f"{difference['arm']} − {difference['reference']}"))
        assert line.endswith(", significant") == sure


def test_markdown_has_a_row_per_arm(report):
    lines = markdown(report).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith(("| none", "| text", "| ict"))] == [
        "| none",
        "| text",
        "| ict",
    ]
    assert all(note in markdown(report) for note in report["notes"])


def test_a_metric_that_is_undefined_is_a_dash(report):
    arm = {key: value for key, value in report["arms"][0].items() if key != "gauc"}
    assert mean_text(arm.get("gauc")) == "–"
    assert "| – |" in markdown({**report, "arms": [arm]})


def test_plots_are_a_picture_and_a_page_that_needs_no_network(runs, report, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    png, page = plot(report, runs, tmp_path)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = page.read_text()
    assert "ict, seed 3" in text
    assert 'src="http' not in text
