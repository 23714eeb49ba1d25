"""Every kind of bad input: what is dropped and counted, what stops with a message that names the place."""

from __future__ import annotations

import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError, RecipeError, StoreError

GOOD = [
    ("u1", "a", 5.0, 1),
    ("u1", "b", 2.0, 2),
    ("u1", "c", 4.0, 3),
    ("u2", "a", 1.0, 2),
    ("u2", "c", 5.0, 4),
]


def write(tmp_path, rows, name="r.csv"):
    path = tmp_path / name
    path.write_text("user_id,item_id,rating,time\n" + "\n".join(rows) + "\n")
    return path


def section(path, **more):
    source = {"type": "csv", "interactions": str(path), "columns": {"rating": "rating", "time": "time"}}
    return {"source": source, "label": "rating", "split": "leave_one_out"} | more


GOOD_LINES = [",".join(map(str, row)) for row in GOOD]


def test_missing_file(run, tmp_path):
    write(tmp_path, GOOD_LINES, "ratings.csv")
    with pytest.raises(DataError) as caught:
        run(section(tmp_path / "rating.csv"))
    assert str(caught.value.where) == str(tmp_path / "rating.csv")
    assert 'did you mean "ratings.csv"' in caught.value.what
    assert caught.value.hint


def test_missing_column(run_rows):
    with pytest.raises(DataError) as caught:
        run_rows(GOOD, source={"columns": {"user": "user", "position": "t", "rating": "ratin"}})
    assert 'no columns "user" (did you mean "user_id"?), "ratin" (did you mean "rating"?)' in caught.value.what
    assert str(caught.value.where).endswith("interactions.parquet")
    assert caught.value.allowed == ("user_id", "item_id", "rating", "t")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (",a,3,9", "no user id"), ("  ,a,3,9", "no user id"), ("u9,,3,9", "no item id"),
        ("u9,a,great,9", "the rating is not a number"), ("u9,a,nan,9", "no rating"),
        ("u9,a,,9", "no rating"), ("u9,a,3,", "no time"), ("u9,a,3,yesterday", "the time is not in the format"),
        ("u9,a,3,inf", "the time is not in the format"), ("nan,a,3,9", "no user id"),
        ("u9,\u00a0,3,9", "no item id"), ("u9,a,3,1e13", "the time is not in the years 1900 to 2199"),
        ("u9,a,inf,9", "the rating is not a number"), ("u9,a,3,2020-01-01 EST", "the time has an unknown time zone"),
    ],
)  # fmt: skip
def test_bad_values_are_dropped_and_shown(run, tmp_path, line, problem):
    path = write(tmp_path, [*GOOD_LINES, line])
    result = run(section(path, max_bad_rows=0.2))
    step = result.step("check values")
    assert (step.kept, step.dropped, step.reason.endswith(": 1")) == (5, 1, True)
    assert step.samples[0].startswith(problem)
    assert len(result["interaction"]) == 5
    with pytest.raises(DataError) as caught:
        run(section(path))
    assert "1 of 6 rows (16.7%) are unusable" in caught.value.what
    assert step.samples[0] in caught.value.what


@pytest.mark.parametrize("line", ["u9,a,3", "u9,a,3,9,extra", 'u9,"a"b,3,9'])
def test_unparsable_lines(run, tmp_path, line):
    path = write(tmp_path, [*GOOD_LINES[:3], line, *GOOD_LINES[3:]])
    step = run(section(path, max_bad_rows=0.2)).step("read interactions")
    assert (step.kept, step.dropped) == (5, 1)
    assert step.samples[0].startswith("r.csv:5: ")
    with refused("rows-unusable", DataError):
        run(section(path))


def test_at_most_five_samples(run, tmp_path):
    path = write(tmp_path, [*GOOD_LINES, *(f"u{n},a,bad,1" for n in range(9))])
    assert len(run(section(path, max_bad_rows=1)).step("check values").samples) == 5


def test_rating_may_miss_where_no_label_needs_it(run, tmp_path):
    path = write(tmp_path, [*GOOD_LINES, "u9,a,,9"])
    assert run(section(path, label="implicit")).step("check values").dropped == 0


def test_duplicates(run_rows):
    result = run_rows([*GOOD, GOOD[0], ("u1", "a", 3.0, 1), ("u1", "a", 1.0, 9)])
    step = result.step("drop duplicates")
    assert (step.kept, step.dropped) == (6, 2)
    assert [r["rating"] for r in result["interaction"] if r["user_row"] == 1 and r["item_row"] == 1] == [
        5.0,
        1.0,
    ]


def test_item_rows(run_rows):
    items = [{"item_id": "a", "name": "A"}, {"item_id": "a", "name": "A"}, {"item_id": "b", "name": " "}]
    result = run_rows(GOOD, items=items)
    assert result.step("read items").dropped == 1
    assert [row["text"] for row in result["item"]] == ["A", "", ""]
    assert result.report.texts[0].blank == 2
    with refused("ids-conflict", DataError, names="(?s)1 .*a: "):
        run_rows(GOOD, items=[*items, {"item_id": "a", "name": "B"}])
    with refused("rows-unusable", DataError, names="1"):
        run_rows(GOOD, items=[{"item_id": None, "name": "A"}, {"item_id": "b", "name": "B"}])


def test_k_core_is_stable(run_rows):
    # dropping item z leaves u3 with one event, whose drop leaves item c with one
    rows = [*GOOD, ("u2", "b", 1.0, 9), ("u3", "z", 5.0, 1), ("u3", "c", 2.0, 2)]
    result = run_rows(rows, k_core={"user": 2, "item": 2})
    assert [row["user_id"] for row in result["user"]] == ["u1", "u2"]
    assert [row["item_id"] for row in result["item"]] == ["a", "b", "c"]
    assert result.step("k-core").dropped == 2


def test_nothing_left_names_the_step(run_rows, run, tmp_path):
    with refused("data-empty", DataError, names='"k-core".*5'):
        run_rows(GOOD, k_core={"user": 50, "item": 0})
    path = write(tmp_path, [",a,3,1"])
    with refused("data-empty", DataError, names='"check values"'):
        run(section(path, max_bad_rows=1))


def test_empty_file(run, tmp_path, run_rows):
    with refused("data-empty", DataError):
        run_rows([])
    path = tmp_path / "empty.csv"
    path.write_text("")
    with refused("data-empty", DataError):
        run(section(path))


def test_damaged_parquet(run, tmp_path):
    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1 this is none PAR1")
    source = {"type": "parquet", "interactions": str(path), "columns": {"time": "t"}}
    with refused("file-unreadable", DataError) as caught:
        run(section(path, source=source))
    assert str(caught.value.where) == str(path)


def test_labels_and_splits_that_do_not_fit(run_rows):
    with refused("label-one-class", DataError):
        run_rows(GOOD, label={"type": "rating", "positive_from": 6})
    with refused("label-one-class", DataError):
        run_rows(GOOD, label={"type": "rating", "positive_from": 1})
    with refused("split-clock", DataError) as caught:
        run_rows(GOOD, order="position", split="global_time")
    assert "leave_one_out" in caught.value.hint
    with refused("split-impossible", DataError, names="2"):
        run_rows([(u, i, r, t % 2) for u, i, r, t in GOOD], split="global_time")
    with refused("split-impossible", DataError):
        run_rows(GOOD[3:])
    with refused("negatives-none", DataError):
        run_rows([("u1", item, None, 0) for item in "abc"], label="implicit")  # all at once: nothing is left to draw


def test_unknown_template_variable(run_rows):
    with pytest.raises(RecipeError) as caught:
        run_rows(GOOD, items=[{"item_id": "a", "title": "A"}], text={"item": "{{titel}}"})
    assert 'dataset.text.item: unknown variable "titel"; did you mean "title"?' in str(caught.value)


def test_hostile_names(run_rows):
    items = [{"item_id": "a", 'x"; DROP TABLE clean; --': "v'", "it's": ["p", "q"], "Item_Row": "7"}]
    hostile = {'x"; DROP TABLE clean; --': "categorical", "it's": "multi", "Item_Row": "categorical"}
    result = run_rows(GOOD, items=items, features={"item": hostile})
    assert result["item"][0]["text"] == "v', p, q, 7"
    assert list(result["item"][0])[3:] == ['x"; DROP TABLE clean; --', "it's", "Item_Row_"]


def test_full_disk_or_memory(run_rows, monkeypatch):
    from llmcf_cli.data import ingest as module

    monkeypatch.setattr(module, "MEMORY_LIMIT", 1_000_000)
    with refused("memory-full", StoreError):
        run_rows([(f"u{n}", f"i{n % 977}", 5.0 - n % 5, n) for n in range(30_000)])


def test_users_are_drawn_by_the_seed_with_all_their_events(run_rows):
    rows = [(f"u{user}", f"i{(user + event) % 7}", 3 + event, event) for user in range(40) for event in range(3)]
    found = run_rows(rows, max_users=10)
    assert found.report.users == 10
    assert found.step("sample users").dropped == 90
    assert set(found.ids("user").values()) == set(run_rows(rows[::-1], max_users=10).ids("user").values())
    assert found.report.interactions == 30
    more = run_rows(rows, max_users=20)
    assert set(found.ids("user").values()) < set(more.ids("user").values())
    assert "sample users" not in [step.name for step in run_rows(rows).report.steps]


def test_a_fixed_cut_reads_times_as_the_data_or_in_iso(run_rows):
    rows = [(f"u{n % 3}", f"i{n}", float(1 + n % 5), 1_700_000_000_000 + n * 1000) for n in range(9)]
    source = {"columns": {"rating": "rating", "time": "t", "time_format": "milliseconds", "time_zone": "Europe/Berlin"}}
    written = {
        "validation_from": [1_700_000_003_000, "2023-11-14T22:13:23Z", "2023-11-14 23:13:23"],
        "test_from": [1_700_000_006_000, "2023-11-15T00:13:26+02:00", "2023-11-14T23:13:26"],
    }
    for first, second in zip(*written.values(), strict=True):
        split = {"type": "fixed_cut", "validation_from": first, "test_from": second}
        result = run_rows(rows, source=source, split=split)
        assert [(c.split, c.positive + c.negative) for c in result.report.samples] == [
            ("train", 3), ("validation", 3), ("test", 3)
        ]  # fmt: skip
        assert (result.report.cuts.validation_from, result.report.cuts.test_from) == (
            1_700_000_003_000_000, 1_700_000_006_000_000,
        )  # fmt: skip
        meta = {row["key"]: row["value"] for row in result["meta"]}
        assert (meta["cut.validation_from"], meta["cut.test_from"]) == ("1700000003000000", "1700000006000000")


@pytest.mark.parametrize(
    ("first", "second", "key", "code"),
    [
        ("soon", 6, "validation_from", "cut-invalid"), (4, "2024-13-01", "test_from", "cut-invalid"),
        ("1970-01-01T00:00:06Z", 4, "test_from", "cut-order"), (100, 200, "validation_from", "cut-outside"),
        (1, 4, "validation_from", "cut-outside"), (4, "5.0000001", "test_from", "cut-invalid"),
    ],
)  # fmt: skip
def test_fixed_cuts_that_cannot_be(run_rows, first, second, key, code):
    rows = [(f"u{n % 3}", f"i{n}", float(1 + n % 5), 1 + n) for n in range(9)]
    with refused(code, DataError) as error:
        run_rows(rows, split={"type": "fixed_cut", "validation_from": first, "test_from": second})
    assert str(error.value.where) == f"dataset.split.{key}"


def test_a_fixed_cut_needs_a_clock(run_rows):
    rows = [(f"u{n % 3}", f"i{n}", float(1 + n % 5), 1 + n) for n in range(9)]
    with refused("split-clock", DataError) as error:
        run_rows(rows, order="position", split={"type": "fixed_cut", "validation_from": 4, "test_from": 6})
    assert str(error.value.where) == "dataset.split"
    with pytest.raises(ValueError, match="not later than validation_from"):
        run_rows(rows, split={"type": "fixed_cut", "validation_from": 6, "test_from": 6})
