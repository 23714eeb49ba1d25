"""What is kept of a check that found nothing wrong, and what makes it ask again."""

import os

import pytest

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.place import Place
from llmcf_cli.stages import remembered as module
from llmcf_cli.stages.remembered import remembered

PLACE = Place(file="r.yaml", line=3, path=("dataset", "text"))


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A check of a file, and how often it was made."""
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path / "cache"))
    data, calls = tmp_path / "data.csv", []
    data.write_text("a,b\n")

    def ask(about="columns", *, wrong=(), files=None):
        def check():
            calls.append(about)
            return list(wrong), [
                LlmcfError("a note", code="columns-unchecked", where=PLACE, allowed=("x",), hint="see")
            ]

        return remembered(about, files or [data, tmp_path / "data.item"], check)

    return ask, calls, data


def told(found):
    return [(note.what, note.code, note.where, note.allowed, note.hint) for note in found[1]]


def test_an_answer_is_kept_with_its_notes(asked):
    ask, calls, _ = asked
    assert told(ask()) == told(ask()) == [("a note", "columns-unchecked", PLACE, ("x",), "see")]
    assert calls == ["columns"]


def test_what_is_wrong_is_asked_again(asked):
    ask, calls, _ = asked
    for _ in range(2):
        assert [one.what for one in ask(wrong=[LlmcfError("bad")])[0]] == ["bad"]
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["content", "same size", "new file", "question", "folder", "code"])
def test_whatever_changes_asks_again(asked, change, monkeypatch, tmp_path):
    ask, calls, data = asked
    ask()
    if change == "content":
        data.write_text("a,b,c\n")
    elif change == "same size":
        before = data.stat().st_mtime_ns
        data.write_text("a;b\n")
        os.utime(data, ns=(before, before))  # as a copying tool may; the time of the inode's change tells
    elif change == "new file":
        (tmp_path / "data.item").write_text("item\n")
    elif change == "folder":
        monkeypatch.chdir(tmp_path)
    elif change == "code":
        monkeypatch.setattr(module, "__version__", "another")
    ask("others" if change == "question" else "columns")
    assert len(calls) == 2


def test_damaged_answers_and_folders_that_cannot_be_written_are_asked_again(asked, tmp_path, monkeypatch):
    ask, calls, _ = asked
    ask()
    (kept,) = (tmp_path / "cache" / "checked").iterdir()
    kept.write_text("[{")
    assert told(ask())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path / "file" / "below"))
    assert told(ask())
    assert len(calls) == 3


def test_no_more_than_some_answers_are_kept(asked, tmp_path, monkeypatch):
    ask, _, _ = asked
    monkeypatch.setattr(module, "_KEPT", 3)
    for number in range(6):
        ask(number)
    assert len(list((tmp_path / "cache" / "checked").iterdir())) == 3
