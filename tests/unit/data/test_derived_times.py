"""Derived times against Python's zoneinfo: a zone is applied once, whoever names it, the clocks' changes included."""

import csv
import datetime as dt
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.errors import RecipeError

BERLIN = ZoneInfo("Europe/Berlin")
LOCAL = [
    dt.datetime(2024, 3, 31, 1, 59, 59), dt.datetime(2024, 3, 31, 3, 0), dt.datetime(2024, 7, 1, 0, 30),
    dt.datetime(2024, 10, 27, 1, 0), dt.datetime(2024, 10, 27, 2, 30), dt.datetime(2024, 10, 27, 3, 0),
    dt.datetime(2024, 12, 24, 18, 0), dt.datetime(2025, 1, 1, 0, 0), dt.datetime(2025, 2, 1, 0, 0),
]  # fmt: skip
"""Both changes of the clocks: 02:30 on 2024-10-27 was shown twice, and is read as the first (fold 0)."""


def _section(folder, derive, zone, kind="csv", **columns):
    return {
        "source": {"type": kind, "interactions": str(folder / f"events.{kind}"), "columns": {
            "user": "user", "item": "item", "time": "at", **columns, **({"time_zone": zone} if zone else {}),
        }},
        "derive": {"interactions": derive}, "label": {"type": "implicit"},
        "split": {"type": "global_time", "validation": 0.3, "test": 0.3},
    }  # fmt: skip


def _write(folder, texts):
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "written"])
        rows.writerows([f"u{n % 3}", f"i{n}", text] for n, text in enumerate(texts))


def _instants(result):
    ids = result.ids("item")
    found = {int(ids[row["item_row"]][1:]): int(row["time"] * 10**6) for row in result["interaction"]}
    return [dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=found[n]) for n in sorted(found)]


def _said(result):
    return " ".join(step.reason for step in result.report.steps)


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ('time(written, "%d/%m/%Y %H:%M:%S")', "Europe/Berlin"),
        ('time(written, "day_first")', "Europe/Berlin"),
        ('time(written, "day_first", "Europe/Berlin")', None),
        ('time(written, "day_first", "Europe/Berlin")', "Europe/Berlin"),
        ('time(written, "day_first", "Europe/Berlin")', "America/New_York"),
        ('time(time(written, "day_first"))', "Europe/Berlin"),
    ],
)
def test_a_local_time_is_shifted_once(tmp_path, run, expression, zone):
    _write(tmp_path, [local.strftime("%d/%m/%Y %H:%M:%S") for local in LOCAL])
    result = run(_section(tmp_path, {"at": expression}, zone))
    assert _instants(result) == [local.replace(tzinfo=BERLIN).astimezone(dt.UTC) for local in LOCAL]
    assert ": 1 times occur twice" in _said(result)


def test_times_with_their_own_zone_are_not_shifted_again(tmp_path, run):
    own = dt.timezone(dt.timedelta(hours=-7))
    zones = [own if n % 2 else BERLIN for n in range(len(LOCAL))]
    texts = [local.isoformat() + ("-07:00" if zone is own else "") for local, zone in zip(LOCAL, zones, strict=True)]
    _write(tmp_path, texts)
    result = run(_section(tmp_path, {"at": "time(written)"}, "Europe/Berlin"))
    wanted = [local.replace(tzinfo=zone).astimezone(dt.UTC) for local, zone in zip(LOCAL, zones, strict=True)]
    assert _instants(result) == wanted


@pytest.mark.parametrize("typed", ["naive", "zoned"])
@pytest.mark.parametrize("expression", ["written", "time(written)", 'if(item = "i0", time(written), written)'])
def test_typed_columns_are_shifted_once_if_at_all(tmp_path, run, typed, expression):
    instants = [local.replace(tzinfo=BERLIN).astimezone(dt.UTC) for local in LOCAL]
    kind, values = (pa.timestamp("us"), LOCAL) if typed == "naive" else (pa.timestamp("us", "UTC"), instants)
    table = pa.table({
        "user": [f"u{n % 3}" for n in range(len(LOCAL))], "item": [f"i{n}" for n in range(len(LOCAL))],
        "written": pa.array(values, kind),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "events.parquet")
    result = run(_section(tmp_path, {"at": expression}, "Europe/Berlin", "parquet"))
    assert _instants(result) == instants


def test_a_filter_compares_instants(tmp_path, run):
    _write(tmp_path, [local.isoformat() for local in LOCAL])
    section = _section(tmp_path, {"at": "time(written)"}, "Europe/Berlin")
    section["filter"] = {"interactions": 'at >= time("2024-03-31T01:00:00Z")'}  # 03:00 in Berlin
    found = _instants(run(section))
    assert found == [local.replace(tzinfo=BERLIN).astimezone(dt.UTC) for local in LOCAL[1:]]


def test_digits_below_the_microsecond_and_gaps_are_counted(tmp_path, run):
    texts = [local.isoformat() + ".123456789" for local in LOCAL] + ["2024-03-31T02:30:00"]  # never shown in Berlin
    _write(tmp_path, texts)
    result = run(_section(tmp_path, {"at": "time(written)"}, "Europe/Berlin") | {"max_bad_rows": 0.2})
    wanted = [local.replace(tzinfo=BERLIN).astimezone(dt.UTC) + dt.timedelta(microseconds=123456) for local in LOCAL]
    assert _instants(result) == wanted
    assert f": {len(LOCAL)} times had digits below the microsecond" in _said(result)
    assert "time(written) has no result for 1 row" in _said(result)


def test_a_zone_for_times_that_have_one_is_refused(tmp_path, run):
    _write(tmp_path, [local.isoformat() for local in LOCAL])
    derive = {"read": "time(written)", "at": 'time(read, null, "Europe/Berlin")'}
    with pytest.raises(RecipeError) as error:
        run(_section(tmp_path, derive, None))
    (problem,) = error.value.problems
    assert str(problem.where) == "dataset.derive.interactions.at"
    assert problem.code == "expression-invalid"
