"""The page of a replay says what its rows say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from llmcf_cli.rec.measure.ranking import AUC, LogLoss
from llmcf_cli.stages.look.page.render import html
from llmcf_cli.stages.replay.page import gather_replay, write_replay_page
from llmcf_cli.stages.replay.record import differences

DAY = 86_400_000_000


def rows_of(auc: dict[str, list[float]], note: str = "") -> list[dict]:
    return [
        {"arm": arm, "window": number + 1, "first": number * DAY, "last": (number + 1) * DAY, "samples": 40,
         "auc": value, "logloss": 1 - value, "texts": 2, "calls": 2, "prompt_tokens": 10, "new_tokens": 5,
         "seconds": 3.0 * (arm != "stale"), "bytes": 1_000_000, "note": note if arm == "full" and number == 2 else ""}
        for arm, values in auc.items() for number, value in enumerate(values)
    ]  # fmt: skip


VALUES = {"stale": [0.60, 0.59, 0.58, 0.55], "full": [0.60, 0.66, 0.67, 0.66], "popular": [0.5, 0.52, 0.5, 0.51]}


@pytest.mark.parametrize(("measure", "word"), [(AUC(), "better than"), (LogLoss(), "better than")])
def test_the_verdict_is_that_of_the_test_over_windows(measure, word):
    """Less logloss is better, more AUC is."""
    rows = rows_of(VALUES)
    found = [*differences(rows, measure.name, "popular")]
    page = gather_replay("shop", rows, measure, found)
    tested = ttest_rel(VALUES["full"], VALUES["popular"])
    assert tested.pvalue < 0.05
    against = next(s for s in page.verdict if "“popular”" in s.text)
    assert against.tone == "good"
    assert word in against.text
    assert f"{tested.pvalue:.3f}" in against.text or "< 0.001" in against.text
    assert page.windows == 4
    calls = next(s for s in page.verdict if "calls" in s.text)
    assert "24 calls" in calls.text


def test_seconds_add_up_and_what_failed_is_told():
    rows = rows_of(VALUES, note="it <b>broke</b>")
    page = gather_replay("shop", rows, AUC(), [*differences(rows, "auc", "popular")])
    full = next(line for line in page.spent.lines if line.label == "full")
    assert full.told == "full: 1 → 3.0000, 2 → 6.0000, 3 → 9.0000, 4 → 12.0000"
    quality = next(line for line in page.quality.lines if line.label == "stale")
    assert quality.told.endswith(f"4 → {VALUES['stale'][3]:.4f}")
    assert page.verdict[-1].tone == "bad"
    text = html(page)
    assert "it &lt;b&gt;broke" in text
    assert "<b>broke" not in text
    assert f"{np.mean(VALUES['full']):.4f}" in text


def test_one_window_has_no_interval(tmp_path):
    rows = rows_of({arm: values[:1] for arm, values in VALUES.items()})
    page = gather_replay("shop", rows, AUC(), [*differences(rows, "auc", "popular")])
    assert page.gaps is None
    assert {s.tone for s in page.verdict} <= {"open", "plain"}
    write_replay_page(page, tmp_path / "replay.html")
    assert "script" not in (tmp_path / "replay.html").read_text()
