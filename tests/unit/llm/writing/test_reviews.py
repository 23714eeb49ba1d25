"""Verdicts on chains of thought: kept by text, counted, and never read from a file that is something else."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from sklearn.metrics import accuracy_score, cohen_kappa_score

from llmcf_cli.core.errors import DataError
from llmcf_cli.llm.writing.reviews import (
    Agreement,
    Review,
    Verdict,
    agreement,
    digest_of,
    read_reviews,
    without_dropped,
    write_reviews,
)


def verdict(text: str, said: Verdict, note: str = "") -> Review:
    return Review.now({"text": text, "sample_id": 3}, said, note)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30))
def test_agreement_is_scikit_learns(texts):
    """Of each text: whether it was read, whether somebody keeps it, whether the judge did."""
    rows = [{"text": f"text {place}", "kept": judge} for place, (_, _, judge) in enumerate(texts)]
    reviews = {
        digest_of(row["text"]): verdict(row["text"], Verdict.keep if people else Verdict.drop)
        for row, (read, people, _) in zip(rows, texts, strict=True) if read
    }  # fmt: skip
    found = agreement(rows, reviews)
    people = [kept for read, kept, _ in texts if read]
    judge = [kept for read, _, kept in texts if read]
    assert found.texts == len(people)
    if not people:
        assert (found.share, found.kappa) == (None, None)
        return
    assert found.share == pytest.approx(accuracy_score(judge, people))
    if len(set(people)) == len(set(judge)) == 2:
        assert found.kappa == pytest.approx(cohen_kappa_score(judge, people))
    else:
        assert found.kappa is None


def test_kappa_of_a_known_table():
    """The example of Cohen's kappa in textbooks: 20, 5, 10, 15."""
    assert Agreement(20, 15, 5, 10).kappa == pytest.approx(0.4)


def test_reviews_come_back(tmp_path):
    made = [verdict("a", Verdict.keep), verdict("b\u202e", Verdict.drop, "x" * 5000)]
    write_reviews(made, tmp_path / "deep" / "r.parquet")
    found = read_reviews(tmp_path / "deep" / "r.parquet")
    assert found == {one.text_sha256: one for one in made}
    assert len(found[digest_of("b\u202e")].note) == 2000
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["r.parquet"]


def test_dropped_texts_are_left_out_and_strange_verdicts_counted(tmp_path):
    file = tmp_path / "r.parquet"
    write_reviews([verdict("b", Verdict.drop), verdict("c", Verdict.keep), verdict("z", Verdict.drop)], file)
    cots = pa.table({"sample_id": [1, 2, 3, 4], "text": ["a", "b", "c", "b"]})
    left, dropped, unknown = without_dropped(cots, file)
    assert (left["sample_id"].to_pylist(), dropped, unknown) == ([1, 3], 2, 1)
    with refused("reviews-none-left", DataError):
        without_dropped(cots.slice(1, 1), file)


def test_what_is_no_table_of_reviews_is_refused(tmp_path):
    file = tmp_path / "r.parquet"
    pq.write_table(pa.table({"a": [1]}), file)
    with refused("reviews-format", DataError):
        read_reviews(file)
    file.write_bytes(b"PAR1 no")
    with refused("file-format", DataError):
        read_reviews(file)
    with refused("path-missing", DataError):
        read_reviews(tmp_path / "none")
    wrong = [Review("0" * 64, "perhaps", "", "", 1)]  # type: ignore[arg-type]
    write_reviews(wrong, file)
    with refused("reviews-format", DataError, names="perhaps"):
        read_reviews(file)
