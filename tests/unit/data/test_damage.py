"""What keeps a text file from being read, and what an ingest says about it."""

import gzip

import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.tabular.damage import LONGEST, find_damage

HEADER = "user_id,item_id,rating,time\n"
ROWS = [f"u{n % 5},i{n % 7},{n % 5 + 1},{n}\n" for n in range(200)]


@pytest.mark.parametrize(
    ("content", "encoding", "line", "said"),
    [
        (b"a\nb\nc\r\nd\n", "utf-8", 3, r"lines end in \n up to here and in \r\n from here on"),
        (b"a\r\nb\n", "latin-1", 2, r"lines end in \r\n up to here and in \n from here on"),
        (b"a\nb\n\xfcc\n", "utf-8", 3, "is not utf-8: the byte 0xfc"),
        (b"a\nb\0\n", "utf-8", 2, "NUL bytes"),
        ("a\nb\n".encode("utf-16"), "utf-8", 1, "is utf-16, not utf-8"),
        (b"a\nb\n", "utf-16", 1, "is not utf-16"),
        (b"a\n" + b"b" * (LONGEST + 1), "utf-8", 2, "a line of more than 2,000,000 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["file.csv", "file.csv.gz"])
def test_the_first_damage_is_found_with_its_line(tmp_path, content, encoding, line, said, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = find_damage(path, encoding)
    assert found.line == line
    assert said in found.what


@pytest.mark.parametrize(
    ("content", "encoding"),
    [(b"", "utf-8"), (b"a\nb", "utf-8"), (b"a\r\nb\r\n", "utf-8"), ("ü\nb\n".encode(), "utf-8"),
     ("ü\n".encode("latin-1"), "latin-1"), ("ü\nb\n".encode("utf-16"), "utf-16"),
     (b"a" * LONGEST, "utf-8")],
)  # fmt: skip
def test_whole_files_have_none(tmp_path, content, encoding):
    (tmp_path / "file.csv").write_bytes(content)
    assert find_damage(tmp_path / "file.csv", encoding) is None


def section(path, **source):
    source = {"type": "csv", "interactions": str(path), "columns": {"rating": "rating", "time": "time"}} | source
    return {"source": source, "label": "rating", "split": "leave_one_out"}


@pytest.mark.parametrize(
    ("content", "line", "said", "hint"),
    [
        (("".join([HEADER, *ROWS])).encode("utf-16"), 1, "is utf-16", "dataset.source.encoding"),
        (HEADER.replace("time", "timé").encode("latin-1"), 1, "is not utf-8: the byte 0xe9", "dataset.source.encoding"),
        ("".join([HEADER, *ROWS]).replace(",", ";").encode(), 1, "only one column", 'dataset.source.delimiter: ";"'),
    ],
)
def test_an_ingest_says_what_to_change(run, tmp_path, content, line, said, hint):
    path = tmp_path / "r.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        run(section(path))
    assert str(caught.value.where) == f"{path}:{line}"
    assert said in caught.value.what
    assert hint in caught.value.hint
    assert "Error:" not in str(caught.value)


def test_lines_that_end_in_two_ways_are_read_alike(run, tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes((HEADER + "".join(ROWS) + "".join(ROWS).replace("\n", "\r\n")).encode())
    report = run(section(path)).report
    assert report.steps[0].kept == 2 * len(ROWS)
    assert [note.message for note in report.notes if "line endings differ" in note.message]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda row: row.replace("\n", ",x\n"), "more than 4 columns: 'u0,i5"),
     (lambda row: row[:4] + "\n", "fewer than 4"),
     (lambda row: '"' + row, "a quote that is not closed"), (lambda row: "ü" + row, "not utf-8")],
)  # fmt: skip
def test_lines_that_do_not_parse_are_dropped_and_shown(run, tmp_path, spoil, said):
    path = tmp_path / "r.csv"
    path.write_bytes("".join([HEADER, *ROWS[:40], spoil(ROWS[40]), *ROWS[41:]]).encode("latin-1"))
    with refused("rows-unusable", DataError) as caught:
        run({**section(path), "max_bad_rows": 0.0})
    assert said in caught.value.what
    assert max(map(len, caught.value.what.splitlines())) < 300, "a long line is cut"
    result = run({**section(path), "max_bad_rows": 0.9})
    assert said.partition(":")[0] in result.step("read interactions").samples[0]
