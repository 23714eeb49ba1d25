"""Progress: the silent and the plain backend."""

import re

import pytest

from llmcf_cli.core.progress import SILENT, Pace, PlainProgress


def test_silence(capsys):
    with SILENT.task("work", 3, "row") as task:
        task.advance()
        task.skip(1)
        task.note("loss 1")
    SILENT.say("nothing")
    assert capsys.readouterr() == ("", "")


def test_plain_lines_tell_amount_rate_and_what_is_left(capsys):
    progress = PlainProgress(every=0.0)
    with progress.task("embed", 1000, "row", done=500) as task:
        task.advance(100)
        task.note("loss 0.41")
        task.advance(400)
    progress.say("done")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"embed: 600/1,000 row, [\d,]+\.\d row/s, [\d,]+ s left", lines[0])
    assert re.fullmatch(r"embed: 1,000/1,000 row, [\d,]+\.\d row/s · loss 0\.41", lines[-2])
    assert lines[-1] == "done"


def test_plain_lines_are_spaced_and_the_last_one_always_comes(capsys):
    with PlainProgress(every=3600).task("read", None, "row") as task:
        for _ in range(1000):
            task.advance()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("read: 1,000 row, ")
    assert "left" not in line


def test_an_error_in_the_work_passes_through():
    with pytest.raises(ValueError, match="inside"), PlainProgress().task("read", 1, "row"):
        raise ValueError("inside")


def test_what_was_done_before_counts_as_done_but_not_in_the_rate(monkeypatch):
    now = iter([100.0, 110.0, 110.0, 110.0, 110.0])
    monkeypatch.setattr("llmcf_cli.core.progress.time.monotonic", lambda: next(now))
    pace = Pace(1000)
    pace.skip(900)
    pace.advance(20)
    assert pace.done == 920
    assert pace.rate == 2
    assert pace.left == 40
    assert pace.words("row") == "2.0 row/s"


def test_a_slow_rate_is_told_as_time(monkeypatch):
    now = iter([0.0, 8.0])
    monkeypatch.setattr("llmcf_cli.core.progress.time.monotonic", lambda: next(now))
    pace = Pace(10)
    pace.advance(2)
    assert pace.words("samples") == "4.0 s each"


@pytest.mark.parametrize("total", [None, 5])
def test_nothing_is_left_where_the_end_is_unknown_or_reached(total):
    pace = Pace(total)
    pace.advance(5)
    assert pace.left is None
