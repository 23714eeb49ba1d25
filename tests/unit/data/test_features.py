"""`dataset.features`, `derive` and `filter` from files to the tables of ingest, counted again in plain Python."""

from __future__ import annotations

import csv

import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError
from llmcf_cli.data.ingest import ingest
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import connect_read

ITEMS = [
    {"id": f"i{n}", "title": f"Item {n}", "brand": "ab"[n % 2], "price": price, "tags": tags, "same": "x"}
    for n, (price, tags) in enumerate(
        [("$1.5", "u|v|w"), ("2", ""), ("", "u"), ("$4", "v|v"), ("nan", "w|u"), ("8", " u | ")]
    )
]  # fmt: skip
EVENTS = [
    {"invoice": f"{'C' if n % 7 == 0 else ''}{n}", "u": f"{n % 5}.0", "i": f"i{n * 7 % 6}", "qty": str(n % 4 - 1),
     "at": f"{n % 28 + 1:02}/01/2020 10:{n % 60:02}"}
    for n in range(120)
]  # fmt: skip


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def run(tmp_path, items=ITEMS, events=EVENTS, source=None, **settings):
    columns = {"user": "u", "item": "i", "time": "at", "time_format": "day_first"}
    section = DatasetSection.model_validate({
        "source": {
            "type": "csv", "interactions": write(tmp_path / "e.csv", events), "items": write(tmp_path / "i.csv", items),
            "columns": columns, "item_key": "id", "multi": ["tags"], **(source or {}),
        },
        "label": {"type": "implicit"}, "split": {"type": "leave_one_out"}, "limits": {"per_class": 0}, **settings,
    })  # fmt: skip
    out = tmp_path / f"{len(list(tmp_path.iterdir()))}.duckdb"
    report = ingest(section, locate=lambda path: tmp_path / path, seed=1, out=out)
    return report, connect_read(out)


def columns(con, table):
    found = {row[0]: row[1] for row in con.execute(f'DESCRIBE "{table}"').fetchall()}
    fixed = ("item_row", "item_id", "user_row", "user_id", "text")
    return {name: kind for name, kind in found.items() if name not in fixed}


FEATURES = {"item": {"brand": "categorical", "tags": {"kind": "multi", "max_values": 2}, "cost": "numeric"}}
DERIVE = {"items": {"cost": 'number(replace(price, "$", ""))'}}


def test_without_features_they_are_the_ids_and_the_columns_of_lists(tmp_path):
    report, con = run(tmp_path)
    assert columns(con, "item") == {"tags": "VARCHAR[]"}
    assert [(f.name, f.kind) for f in report.features] == [("tags", "multi")]
    assert con.execute("SELECT count(*) FROM item WHERE text LIKE 'Item %'").fetchone() == (6,)  # texts use any column
    report, con = run(tmp_path, features={})
    assert columns(con, "item") == {}
    assert report.features == ()


def test_features_have_the_types_of_their_kinds_and_are_counted(tmp_path):
    report, con = run(tmp_path, features=FEATURES, derive=DERIVE)
    assert columns(con, "item") == {"brand": "VARCHAR", "tags": "VARCHAR[]", "cost": "DOUBLE"}
    costs = dict(con.execute("SELECT item_id, cost FROM item").fetchall())
    assert costs == {"i0": 1.5, "i1": 2, "i2": None, "i3": 4, "i4": None, "i5": 8}
    text = con.execute("SELECT text FROM item WHERE item_id = 'i5'").fetchone()[0]
    assert text == "Item 5, b, 8, u, x"  # the column price, not the feature cost
    brand, tags, cost = sorted(report.features, key=lambda f: ["brand", "tags", "cost"].index(f.name))
    assert (brand.distinct, brand.missing, brand.most_frequent, brand.most_frequent_share) == (2, 0, "a", 0.5)
    assert (tags.distinct, tags.missing, tags.cut) == (3, 1 / 6, 1)
    assert (tags.most_frequent, tags.most_frequent_share) == ("u", 4 / 6)
    assert (cost.distinct, cost.missing, cost.not_numbers) == (4, 2 / 6, 0)
    assert len(tags.warnings) == 1


def test_doubtful_features_are_warned_of(tmp_path):
    features = {"item": {"same": "categorical", "title": "categorical"}}
    report, _ = run(tmp_path, features=features)
    warned = {f.name: f.warnings for f in report.features}
    assert len(warned["same"]) == len(warned["title"]) == 1
    prices = [{**item, "price": "7"} for item in ITEMS]
    report, _ = run(tmp_path, items=prices, features={"item": {"price": "numeric"}})
    assert report.features[0].warnings == ("the same value everywhere",)


def test_values_that_are_no_numbers_are_counted_and_too_many_stop(tmp_path):
    with refused("feature-numbers", DataError, names=r"2.*4.*\$1\.5") as error:
        run(tmp_path, features={"item": {"price": "numeric"}})
    assert str(error.value.where) == "dataset.features.item.price"
    report, con = run(tmp_path, features={"item": {"price": "numeric"}}, max_bad_rows=0.5)
    (price,) = report.features
    assert (price.not_numbers, price.examples, price.missing) == (2, ("$1.5", "$4"), 4 / 6)
    assert con.execute("SELECT count(price) FROM item").fetchone() == (2,)


@pytest.mark.parametrize(
    ("features", "code"),
    [
        ({"item": {"brant": "categorical"}}, "feature-unknown"), ({"item": {"tags": "numeric"}}, "feature-kind"),
        ({"item": {"brand": "multi"}}, "feature-kind"), ({"user": {"age": "numeric"}}, "feature-unknown"),
    ],
)  # fmt: skip
def test_features_must_fit_the_columns(tmp_path, features, code):
    with refused(code, RecipeError):
        run(tmp_path, features=features)


@pytest.mark.parametrize(
    "feature", [{"kind": "multi", "buckets": 3}, {"kind": "numeric", "buckets": 3}, {"kind": "numbers"}, "number",
                {"kind": "categorical", "max_values": 2}, {"kind": "multi", "max_values": 0}],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(feature):
    with pytest.raises(ValueError):
        DatasetSection.model_validate({"source": "csv", "features": {"item": {"x": feature}}})


def test_derived_columns_may_have_any_meaning_and_filters_are_counted(tmp_path):
    derive = {"interactions": {"who": "split(u, '.', 1)", "stars": "number(qty) + 1", "when": 'time(at, "day_first")'}}
    where = {"interactions": 'not starts_with(invoice, "C") and stars > 0', "items": 'brand = "a"'}
    source = {"columns": {"user": "who", "item": "i", "time": "when", "rating": "stars"}}
    report, con = run(tmp_path, derive=derive, filter=where, source=source)
    kept = [e for e in EVENTS if not e["invoice"].startswith("C") and int(e["qty"]) + 1 > 0]
    steps = {step.name: step for step in report.steps}
    assert (steps["derive interactions"].kept, steps["derive interactions"].dropped) == (120, 0)
    assert (steps["filter interactions"].kept, steps["filter interactions"].dropped) == (len(kept), 120 - len(kept))
    assert (steps["filter items"].kept, steps["filter items"].dropped) == (3, 3)
    assert steps["read interactions"].kept == len(kept)
    found = con.execute(
        'SELECT user_id, item_id, rating FROM interaction JOIN "user" USING (user_row) JOIN item USING (item_row)'
    ).fetchall()
    first = {}
    for e in sorted(kept, key=lambda e: (e["at"][3:5], e["at"][:2], e["at"][11:])):  # repeats: first
        first.setdefault((e["u"][0], e["i"]), int(e["qty"]) + 1.0)
    assert sorted(found) == sorted((*pair, stars) for pair, stars in first.items())


def test_operations_that_fail_too_often_stop_and_the_remedies_work(tmp_path):
    events = [{**e, "qty": "many" if n % 10 == 0 else e["qty"]} for n, e in enumerate(EVENTS)]
    derive = {"interactions": {"stars": "number(qty)"}}
    with refused("derivation-failed", DataError, names=r"12.*120.*'many'") as error:
        run(tmp_path, events=events, derive=derive)
    assert str(error.value.where) == "dataset.derive.interactions.stars"
    report, _ = run(tmp_path, events=events, derive=derive, filter={"interactions": "number(qty) is not null"})
    assert next(step for step in report.steps if step.name == "filter interactions").dropped == 12
    run(tmp_path, events=events, derive={"interactions": {"stars": "coalesce(number(qty), 1)"}})
    report, _ = run(tmp_path, events=events, derive=derive, max_bad_rows=0.1)
    assert any("many" in note.message for note in report.notes)


def test_a_filter_that_leaves_nothing_and_a_table_that_is_not_there_are_said(tmp_path):
    with refused("data-empty", DataError):
        run(tmp_path, filter={"interactions": 'invoice = "none"'})
    with refused("table-missing", LlmcfError):
        run(tmp_path, filter={"users": "age > 3"})
