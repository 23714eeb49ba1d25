"""A shop's own tables: what is wrong is found whatever else is, and what is printed mends it to the letter."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.preview import look
from llmcf_cli.plugin import registry

EVENTS = [(f"u{n % 6}", f"i{n % 5}", n % 28 + 1, n // 28 + 1) for n in range(60)]


def lines(name="Übung"):
    return [f"{u};{i};{day:02}.{month:02}.2025;{name}" for u, i, day, month in EVENTS]


@pytest.fixture
def shop(tmp_path):
    """Orders in `orders.csv`, items in `items.csv`, and the `dataset` that reads them."""

    def make(orders=None, items=None, encoding="utf-8", **columns):
        head = "customer;code;day;what"
        (tmp_path / "orders.csv").write_text("\n".join([head, *(orders or lines())]) + "\n", encoding=encoding)
        source = {
            "type": "csv", "delimiter": ";", "interactions": str(tmp_path / "orders.csv"),
            "columns": {"user": "customer", "item": "code", "time": "day", **columns},
        }  # fmt: skip
        if items is not None:
            (tmp_path / "items.csv").write_text("\n".join(items) + "\n", encoding=encoding)
            source["items"] = str(tmp_path / "items.csv")
        return {"source": source, "label": {"type": "implicit"}, "split": "leave_one_out"}

    return make


def seen(settings, **more):
    source = settings["source"]
    return look(registry().get("source", source["type"]).config().model_validate(source), Path, **more)


def follow(settings, hint, *, key=None):
    """The settings with the first thing that a hint says to set, or the first below `dataset.KEY`."""
    form = rf"dataset\.({re.escape(key) if key else ''}[\w.]*): ('(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;]+)"
    found = re.search(form, hint)
    assert found, hint
    *path, last = found[1].split(".")
    below = settings
    for step in path:
        below = below.setdefault(step, {})
    below[last] = yaml.safe_load(found[2])
    return settings


def test_a_look_tells_what_cannot_be_decoded(shop, run):
    settings = shop(encoding="cp1252")
    with pytest.raises(DataError) as caught:
        run(settings)
    notes = [note for note in seen(settings).notes if note.hint == caught.value.hint]
    assert len(notes) == 1
    assert str(len(EVENTS)) in notes[0].what
    settings = follow(settings, caught.value.hint)
    assert not [note for note in seen(settings).notes if "dataset.source.encoding" in note.hint]


@pytest.mark.parametrize("form", [None, "month_first"])
def test_a_header_in_the_midst_changes_no_hint(shop, run, form):
    told = []
    for orders in (lines("x"), [*lines("x")[:30], "customer;code;day;what", *lines("x")[30:]]):
        settings = shop(orders, **({} if form is None else {"time_format": form}))
        with pytest.raises(DataError) as caught:
            run(settings)
        told.append(follow(settings, caught.value.hint)["source"]["columns"]["time_format"])
    assert told == ["day_first", "day_first"]
    result = run({**settings, "max_bad_rows": 0.1})
    assert result.report.interactions == len(EVENTS)
    assert result.step("read interactions").dropped == 1


def test_times_that_are_all_of_another_format_are_an_alarm(shop, run):
    result = run({**shop(time_format="month_first"), "max_bad_rows": 0.9})
    alarm = next(alarm for alarm in result.report.alarms if alarm.code == "other_format")
    settings = follow(shop(time_format="month_first"), alarm.remedy)
    assert settings["source"]["columns"]["time_format"] == "day_first"
    right = run(settings).report
    assert right.interactions == len(EVENTS)
    assert "other_format" not in {alarm.code for alarm in right.alarms}


PRICES = ["12,50 €", "1.299,00 €", "k. A.", "7,00\u00a0€", "3 €"]


def priced(shop, **more):
    items = ["code;title;price", *(f"i{n};title {n};{price}" for n, price in enumerate(PRICES))]
    return {**shop(lines("x"), items, time_format="day_first"), **more}


def test_the_hint_of_a_price_reads_its_values(shop, run):
    settings = priced(shop, features={"item": {"price": "numeric"}})
    with pytest.raises(DataError) as caught:
        run(settings)
    result = run(follow(settings, caught.value.hint))
    assert [row["price"] for row in result["item"]] == [12.5, 1299.0, None, 7.0, 3.0]


def test_a_derived_column_with_a_files_name_fails_with_a_remedy_that_holds(shop, run):
    source = 'number(replace(replace(replace(price, "€", ""), ".", ""), ",", "."))'
    settings = priced(shop, features={"item": {"price": "numeric"}}, derive={"items": {"price": source}})
    with pytest.raises(DataError) as caught:
        run(settings)
    assert "'k. A.'" in caught.value.what, "the value of the file"
    result = run(follow(settings, caught.value.hint))
    assert [row["price"] for row in result["item"]] == [12.5, 1299.0, None, 7.0, 3.0]
    left = run(follow(settings, caught.value.hint, key="filter"))
    assert [row["price"] for row in left["item"]] == [12.5, 1299.0, None, 7.0, 3.0], "the item has no row any more"
    assert left.step("read items").kept == len(PRICES) - 1


@pytest.mark.parametrize(
    "there", [None, 'code != "i1"', "code != 'i1'\nand day is not null", "code = 'i2' or code = 'i3'"]
)
def test_a_filter_that_is_there_stays(shop, run, there):
    orders = [line.partition(";")[2] if n % 2 else line for n, line in enumerate(lines("x"))]
    orders = [line if line.count(";") == 3 else f";{line}" for line in orders]
    settings = shop(orders, time_format="day_first")
    if there is not None:
        settings["filter"] = {"interactions": there}
    with pytest.raises(DataError) as caught:
        run(settings)
    kept = {None: "i0 i1 i2 i3 i4", "code = 'i2' or code = 'i3'": "i2 i3"}.get(there, "i0 i2 i3 i4").split()
    result = run(follow(settings, caught.value.hint))
    want = {(u, i) for n, (u, i, *_) in enumerate(EVENTS) if n % 2 == 0 and i in kept}
    users, items = result.ids("user"), result.ids("item")
    assert {(users[row["user_row"]], items[row["item_row"]]) for row in result["interaction"]} == want


def test_items_without_a_row_are_named_by_their_events(shop, run):
    orders = [*lines("x"), *(f"u{n % 6};SHIPPING;{n % 28 + 1:02}.{n // 28 + 1:02}.2025;x" for n in range(40))]
    result = run(shop(orders, ["code;title", "i1;one", "unused;none"], time_format="day_first"))
    join = next(join for join in result.report.joins if join.entity == "item")
    assert (join.unjoined, join.examples[0], join.events[0]) == (5, "SHIPPING", 40)
    assert join.listed == ("unused",)


def test_ids_that_differ_only_in_case_are_counted_and_can_be_made_one(shop, run):
    orders = [line.replace("i1", "I1") if n % 2 else line for n, line in enumerate(lines("x"))]
    settings = shop(orders, time_format="day_first") | {"k_core": {"user": 1, "item": 1}}
    result = run(settings)
    (similar,) = result.report.similar
    assert (similar.entity, similar.ids, similar.different, similar.examples) == ("item", 2, 1, (("I1", "i1"),))
    alarm = next(alarm for alarm in result.report.alarms if alarm.code == "similar_ids")
    assert not run(follow(settings, alarm.remedy)).report.similar


def test_the_rule_of_train_negatives_is_measured_against_chance(run_rows):
    """Users and items that are drawn often make the rule far from .5 on data in which nothing tells anything."""
    rng = np.random.default_rng(3)
    share = 1 / np.arange(1, 61)
    rows = [
        (f"u{u:03}", f"i{i}", 1.0, int(rng.integers(10_000)))
        for u in range(250) for i in rng.choice(60, size=rng.integers(4, 14), p=share / share.sum())
    ]  # fmt: skip
    label = {"type": "implicit", "negatives": "popularity", "per_positive": 2}
    split = {"type": "global_time", "validation": 0.2, "test": 0.1}
    source = {"columns": {"time": "t"}}
    report = run_rows(rows, label=label, split=split, source=source, repeats="keep").report
    rule = next(rule for rule in report.rules if rule.code == "train_negative")
    assert abs(rule.auc - rule.expected) < 0.05
    assert "train_negative" not in {alarm.code for alarm in report.alarms}


def test_tables_of_different_formats(shop, run, tmp_path):
    settings = shop(encoding="cp1252", time_format="day_first")
    objects = [{"code": f"i{n}", "title": f"tïtle {n}"} for n in range(5)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, objects)))
    settings["source"]["items"] = str(tmp_path / "items.jsonl")
    with pytest.raises(DataError) as caught:
        run(settings)
    follow(settings, caught.value.hint)
    assert settings["source"]["type"] == "tables"
    settings["source"]["formats"] = {"interactions": {"delimiter": settings["source"].pop("delimiter")}}
    with pytest.raises(DataError) as caught:
        run(settings)
    result = run(follow(settings, caught.value.hint))
    assert [row["text"] for row in result["item"]] == [f"tïtle {n}" for n in range(5)]
    assert result.report.interactions == len(EVENTS)
