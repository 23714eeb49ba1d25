"""A hint that is followed to the letter leads to a right result: what it names is set, and ingest runs again."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.preview import look
from llmcf_cli.plugin import registry

ROWS = [(f"u{n % 4}", f"i{n}", n % 5 + 1, 1_577_836_800 + 100_000 * n) for n in range(40)]


def section(folder, **source):
    columns = {"rating": "rating", "time": "time"}
    return {
        "source": {"type": "csv", "interactions": str(folder / "r.csv"), "columns": columns, **source},
        "label": "rating", "split": "leave_one_out",
    }  # fmt: skip


def write(folder, time=str, rating=str, header="user_id,item_id,rating,time", encoding="utf-8", rows=ROWS):
    lines = [header, *(f'{u},{i},"{rating(r)}","{time(t)}"' for u, i, r, t in rows)]
    (folder / "r.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


def followed(hint, settings):
    """The settings, with what a hint says set."""
    found = re.search(r"""(?:set )?dataset\.([\w.]+): (\{.*\}|'(?:[^']|'')*'|"[^"]+"|[^\s,;]+)""", hint)
    assert found, f"names no setting: {hint}"
    *path, last = found[1].split(".")
    below = settings
    for key in path:
        below = below.setdefault(key, {})
    below[last] = yaml.safe_load(found[2])
    return settings


def us_date(t):
    return datetime.fromtimestamp(t, UTC).strftime("%m/%d/%Y %H:%M:%S")


def german_date(t):
    moment = datetime.fromtimestamp(t, UTC)
    return f"{moment.day}.{moment.month}.{moment.year} {moment:%H:%M:%S}"


@pytest.mark.parametrize(
    ("time", "encoding"),
    [
        (us_date, "utf-8"), (german_date, "utf-8"), (lambda t: t * 1000, "utf-8"), (lambda t: t * 10**6, "utf-8"),
        (lambda t: f"{t}000000000", "utf-8"), (str, "utf-16"),
    ],
)  # fmt: skip
def test_times_and_encodings(run, tmp_path, time, encoding):
    write(tmp_path, time, encoding=encoding)
    settings = section(tmp_path)
    with pytest.raises(DataError) as caught:
        run(settings)
    result = run(followed(caught.value.hint, settings))
    assert sorted(int(row["time"]) for row in result["interaction"]) == [t for *_, t in ROWS]
    seen = look(registry().get("source", "csv").config().model_validate(section(tmp_path)["source"]), Path)
    assert [problem.hint for problem in seen.wrong] == [caught.value.hint], "a look says the same"


def test_a_delimiter(run, tmp_path):
    write(tmp_path)
    path = tmp_path / "r.csv"
    path.write_text(path.read_text().replace(",", ";"))
    settings = section(tmp_path)
    with pytest.raises(DataError) as caught:
        run(settings)
    assert run(followed(caught.value.hint, settings)).report.steps[0].kept == len(ROWS)


@pytest.mark.parametrize(("stays", "title"), [("first", "one"), ("last", "two")])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "amazon2014", "recbole"])
def test_rows_of_one_item_that_differ(run, tmp_path, kind, stays, title):
    write(tmp_path)
    items = [("i0", "one"), ("i1", "same"), ("i0", "two"), ("i1", "same")]
    settings = section(tmp_path)
    if kind == "csv":
        (tmp_path / "i.csv").write_text("item_id,title\n" + "".join(f"{i},{t}\n" for i, t in items))
        settings["source"]["items"] = str(tmp_path / "i.csv")
    elif kind in ("jsonl", "parquet"):
        table = pa.table(dict(zip(("user_id", "item_id", "rating", "time"), zip(*ROWS, strict=True), strict=True)))
        names = pa.table({"item_id": [i for i, _ in items], "title": [t for _, t in items]})
        for file, rows in (("r", table), ("i", names)):
            if kind == "parquet":
                pq.write_table(rows, tmp_path / f"{file}.parquet")
            else:
                (tmp_path / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows.to_pylist())))
        settings["source"] |= {
            "type": kind,
            "interactions": str(tmp_path / f"r.{kind}"),
            "items": str(tmp_path / f"i.{kind}"),
        }
    elif kind == "amazon2014":
        names = ("reviewerID", "asin", "overall", "unixReviewTime")
        (tmp_path / "r.json").write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS))
        (tmp_path / "m.json").write_text("\n".join(str({"asin": i, "title": t}) for i, t in items))
        settings["source"] = {"type": kind, "reviews": str(tmp_path / "r.json"), "metadata": str(tmp_path / "m.json")}
    else:
        lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *("\t".join(map(str, r)) for r in ROWS)]
        (tmp_path / "d.inter").write_text("\n".join(lines))
        (tmp_path / "d.item").write_text("item_id:token\ttitle:token\n" + "".join(f"{i}\t{t}\n" for i, t in items))
        settings["source"] = {"type": kind, "path": str(tmp_path)}
    with refused("ids-conflict", DataError, names="1") as caught:
        run(settings)
    chosen = followed(caught.value.hint, settings)
    chosen["conflicts"]["items"] = stays
    result = run(chosen)
    assert {row["item_id"]: row["text"] for row in result["item"]}["i0"] == title
    assert f"the {stays} is kept" in result.step("read items").reason


def test_a_blank_first_line_is_skipped_and_told(run, tmp_path):
    write(tmp_path)
    path = tmp_path / "r.csv"
    path.write_text("\n" + path.read_text())
    report = run(section(tmp_path)).report
    assert report.steps[0].kept == len(ROWS)
    assert "1 blank lines" in report.notes[0].message


@pytest.mark.parametrize(
    ("spoil", "kept"),
    [
        (lambda line: "," + line.partition(",")[2], 20), (lambda line: line.replace('"4"', '""'), 36),
        (lambda line: line.replace('"4"', '"four"'), 36), (lambda line: re.sub('"(.)"', r'"\1,5"', line), 40),
    ],
)  # fmt: skip
def test_rows_that_are_unusable_for_one_cause(run, tmp_path, spoil, kept):
    """The cause is named, and what leaves such rows out or mends them; never to allow more of them."""
    write(tmp_path)
    path = tmp_path / "r.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *(spoil(line) if n % 2 else line for n, line in enumerate(lines))]))
    settings = section(tmp_path)
    with refused("rows-unusable", DataError) as caught:
        run(settings)
    assert "max_bad_rows" not in caught.value.hint
    assert run(followed(caught.value.hint, settings)).report.interactions == kept
