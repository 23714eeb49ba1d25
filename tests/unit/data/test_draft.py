"""A first recipe says what the tables are: as a person who knows them would write it, or it asks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.draft.asking import Decisions, UnclearError
from llmcf_cli.data.draft.files import tables_of
from llmcf_cli.data.draft.recipe import draft
from llmcf_cli.data.draft.words import ITEM, USER, says
from llmcf_cli.recipe.load import load_recipe

START = 1_500_000_000


def made(folder, *names, ask=None, **answers):
    """The draft for files of a folder, and its recipe loaded."""
    out = folder / "made.yaml"
    given = {f"--{option.replace('_', '-')}": answer for option, answer in answers.items()}
    found = draft([folder / name for name in names], out, Decisions(given, ask))
    out.write_text(found.text)
    return found, load_recipe(out).recipe.dataset


def ingested(run, section, folder):
    """What ingest counts of a section whose files are in the folder."""
    plain = section if isinstance(section, dict) else section.model_dump(mode="json")
    source = {key: str(folder / value) if key in ("interactions", "items", "users", "reviews", "metadata") and value
              else value for key, value in plain["source"].items()}  # fmt: skip
    report = run({"label": plain["label"], "split": plain["split"], "repeats": "first", "source": source,
                  "filter": plain.get("filter") or {}}).report  # fmt: skip
    return report.users, report.items, report.interactions, report.samples, report.repeats


def events(rng, rows=80, users=9, items=12):
    """User, item, rating and seconds, each pair once, so that nothing hangs on ties."""
    pairs = rng.choice(users * items, min(rows, users * items), replace=False)
    times = START + rng.choice(40_000_000, len(pairs), replace=False)
    return [
        (f"u{p // items}", f"i{p % items}", int(rng.integers(1, 6)), int(t)) for p, t in zip(pairs, times, strict=True)
    ]


WRITTEN = {
    "seconds": (lambda t: t, None),
    "milliseconds": (lambda t: t * 1000, "milliseconds"),
    "iso": (lambda t: f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M:%S}", None),
    "day_first": (lambda t: f"{datetime.fromtimestamp(t, UTC):%d/%m/%Y %H:%M:%S}", "day_first"),
    "month_first": (lambda t: f"{datetime.fromtimestamp(t, UTC):%m/%d/%Y %H:%M:%S}", "month_first"),
    "named": (lambda t: f"{datetime.fromtimestamp(t, UTC):%d %b %Y %H:%M:%S}", "%d %b %Y %H:%M:%S"),
}


def write(folder, kind, name, columns, rows, delimiter=","):
    """One table in one of the formats; the file's name."""
    if kind == "csv":
        lines = [delimiter.join(map(str, row)) for row in [columns, *rows]]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(dict(zip(columns, r, strict=True))) + "\n" for r in rows)
        )
    else:
        pq.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), folder / f"{name}.parquet")
    return f"{name}.{kind}"


@settings(max_examples=examples(4), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**20), kind=st.sampled_from(["csv", "jsonl", "parquet"]),
    names=st.sampled_from([
        ("user_id", "item_id", "rating", "timestamp"), ("Customer ID", "StockCode", "stars", "InvoiceDate"),
        ("reviewerID", "asin", "overall", "reviewTime"), ("visitorid", "productId", "score", "created_at"),
    ]),
    order=st.permutations(range(4)), times=st.sampled_from(sorted(WRITTEN)), delimiter=st.sampled_from(",;\t|"),
    rated=st.booleans(), described=st.booleans(), files_first=st.booleans(),
)  # fmt: skip
def test_the_recipe_ingests_as_one_written_by_hand(
    run, tmp_path_factory, seed, kind, names, order, times, delimiter, rated, described, files_first
):
    folder = tmp_path_factory.mktemp("tables")
    writes, form = WRITTEN[times]
    rows = [(u, i, r, writes(t)) for u, i, r, t in events(np.random.default_rng(seed))]
    places = [place for place in order if rated or place != 2]
    kept = [[row[place] for place in places] for row in rows]
    files = [write(folder, kind, "log", [names[place] for place in places], kept, delimiter)]
    by_hand = {
        "type": kind, "interactions": files[0],
        "columns": {"user": names[0], "item": names[1], "time": names[3]}
        | ({"rating": names[2]} if rated else {}) | ({"time_format": form} if form else {}),
    }  # fmt: skip
    if kind == "csv":
        by_hand["delimiter"] = delimiter
    if described:
        goods = [(f"i{n}", f"the title no {n}", f"brand {n % 3}") for n in range(12)]
        files.append(write(folder, kind, "goods", [names[1], "title", "brand"], goods, delimiter))
        by_hand["items"] = files[1]
    _, found = made(folder, *(files if files_first else reversed(files)))
    label = {"type": "rating", "positive_from": 4} if rated else {"type": "implicit", "negatives": "popularity"}
    section = {"source": by_hand, "label": label, "split": "global_time"}
    assert ingested(run, found, folder) == ingested(run, section, folder)
    assert found.label.type == label["type"]
    assert ("{{title}}" in found.text.item) == described


def test_dates_that_may_be_of_either_order_are_asked_and_otherwise_refused(tmp_path):
    rows = [(f"u{n % 4}", f"i{n % 7}", f"0{n % 9 + 1}/0{n % 7 + 1}/2020") for n in range(40)]
    write(tmp_path, "csv", "log", ["user", "item", "date"], rows)
    with refused("tables-unclear", UnclearError, names="(?s)day_first.*month_first"):
        made(tmp_path, "log.csv")
    asked = []
    _, found = made(tmp_path, "log.csv", ask=lambda question: asked.append(question.option) or "month_first")
    assert asked == ["--time-format"]
    assert found.source.columns.time_format == "month_first"
    _, found = made(tmp_path, "log.csv", time_format="day_first")
    assert found.source.columns.time_format == "day_first"


def test_everything_that_is_unclear_is_told_at_once(tmp_path):
    rows = [(f"a{n % 4}", f"b{n % 7}", f"0{n % 9 + 1}/0{n % 7 + 1}/2020") for n in range(40)]
    write(tmp_path, "csv", "log", ["left", "right", "date"], rows)
    with pytest.raises(UnclearError) as caught:
        made(tmp_path, "log.csv")
    said = str(caught.value)
    assert all(option in said for option in ("--user left", "--user right", "--item right", "--time-format day_first"))


def test_an_answer_that_is_none_of_them_is_refused(tmp_path):
    write(tmp_path, "csv", "log", ["user", "item", "time"], [("u", "i", START + n) for n in range(20)])
    with refused("answer-unknown", names="user"):
        made(tmp_path, "log.csv", user="nobody")


def test_an_encoding_is_asked_unless_it_shows_itself(tmp_path):
    text = "Kunde;Artikel;Datum\n" + "".join(f"u{n % 5};Möbel{n % 7};{n % 28 + 1:02}.01.2020\n" for n in range(60))
    (tmp_path / "log.csv").write_text(text, encoding="cp1252")
    with refused("tables-unclear", UnclearError, names="(?s)cp1252: reads Möbel.*cp1251"):
        made(tmp_path, "log.csv")
    _, found = made(tmp_path, "log.csv", encoding="cp1252")
    assert found.source.formats["interactions"].encoding == "cp1252"
    _, found = made(tmp_path, "log.csv", encoding="ISO-8859-1")  # the name that `file` tells
    assert found.source.formats["interactions"].encoding == "latin-1"
    (tmp_path / "log.csv").write_text(text, encoding="utf-16")
    _, found = made(tmp_path, "log.csv")
    assert found.source.formats["interactions"].encoding == "utf-16"
    assert found.source.columns.time_format == "day_first"


@pytest.mark.parametrize(("answer", "rows"), [("purchase", 30), ("all", 90)])
def test_kinds_of_events_are_no_guess(tmp_path, run, answer, rows):
    log = [(f"u{n % 9}", f"i{n}", "purchase" if n % 3 == 0 else "view", (START + n * 1000) * 1000) for n in range(90)]
    write(tmp_path, "jsonl", "log", ["visitorid", "itemid", "event", "timestamp"], log)
    with refused("tables-unclear", UnclearError, names="--event purchase: 30 rows"):
        made(tmp_path, "log.jsonl")
    _, found = made(tmp_path, "log.jsonl", event=answer)
    assert ingested(run, found, tmp_path)[2] == rows
    assert found.source.columns.time_format == "milliseconds"


def test_rows_without_ids_and_returns_are_left_out_and_counted(tmp_path, run):
    log = [(f"{100 + n % 9}.0" if n % 10 else "", f"i{n}", -1 if n % 7 == 0 else 2, START + n) for n in range(100)]
    write(tmp_path, "csv", "log", ["Customer ID", "StockCode", "Quantity", "time"], log)
    found, section = made(tmp_path, "log.csv")
    assert ingested(run, section, tmp_path)[2] == sum(1 for user, _, quantity, _ in log if user and quantity > 0)
    whys = {decision.what: decision.why for decision in found.decisions}
    assert "10 of 100" in whys["rows without Customer ID"]
    assert "15 rows" in whys["returns"]


def test_files_without_names_are_known_by_their_publisher_or_asked(tmp_path, run):
    rng = np.random.default_rng(3)
    lines = [(u[1:], i[1:], r, t) for u, i, r, t in events(rng)]
    for name, mark in (("u.data", "\t"), ("ratings.dat", "::"), ("plays.tsv", "\t")):
        (tmp_path / name).write_text("".join(mark.join(map(str, line)) + "\n" for line in lines))
    (tmp_path / "movies.dat").write_bytes(
        "".join(f"{n}::Amélie {n}::Drama|Comedy\n" for n in range(12)).encode("latin-1")
    )
    counts = []
    for names in (["u.data"], ["ratings.dat", "movies.dat"]):
        _, found = made(tmp_path, *names)
        assert found.label.type == "rating"
        counts.append(ingested(run, found, tmp_path))
    assert counts[0] == counts[1]
    assert found.source.multi == ("genres",)
    assert "{{title}}" in found.text.item
    with refused("tables-unclear", UnclearError, names="column_1"):
        made(tmp_path, "plays.tsv")
    _, found = made(tmp_path, "plays.tsv", user="column_1", item="column_2", rating="column_3")
    assert ingested(run, found, tmp_path) == counts[0]


@pytest.mark.parametrize("year", [2014, 2018, 2023])
def test_amazon_reviews_are_read_as_their_release_is(tmp_path, run, year):
    rng = np.random.default_rng(year)
    user, item, rating, time = (
        ("user_id", "parent_asin", "rating", "timestamp") if year == 2023
        else ("reviewerID", "asin", "overall", "unixReviewTime")
    )  # fmt: skip
    rows = [{user: u, item: i, rating: float(r), time: t * (1000 if year == 2023 else 1), "reviewText": "fine"}
            | ({"verified": True} if year == 2018 else {}) for u, i, r, t in events(rng)]  # fmt: skip
    (tmp_path / "reviews.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = [{item: f"i{n}", "title": f"thing {n}", ("category" if year == 2018 else "categories"): ["A", "B"]}
                 for n in range(12)]  # fmt: skip
    shown = repr if year == 2014 else json.dumps
    (tmp_path / "meta.json").write_text("".join(shown(row) + "\n" for row in described))
    _, found = made(tmp_path, "reviews.json", "meta.json")
    assert (found.source.type, found.source.year) == ("amazon", year)
    section = {"source": {"type": "amazon", "year": year, "reviews": "reviews.json", "metadata": "meta.json"},
               "label": {"type": "rating"}, "split": "global_time"}  # fmt: skip
    assert ingested(run, found, tmp_path) == ingested(run, section, tmp_path)


def test_labels_of_two_values_are_labels(tmp_path):
    log = [(f"u{n % 9}", f"i{n}", n % 2, START + n) for n in range(90)]
    write(tmp_path, "csv", "log", ["user_id", "item_id", "click", "ts"], log)
    assert made(tmp_path, "log.csv")[1].label.positive_from == 1


def test_rows_that_differ_under_one_id_are_asked_about(tmp_path, run):
    rng = np.random.default_rng(5)
    write(tmp_path, "csv", "log", ["user_id", "item_id", "rating", "time"], events(rng))
    goods = [(f"i{n % 12}", f"a title {n}") for n in range(13)]
    write(tmp_path, "csv", "goods", ["item_id", "title"], goods)
    with refused("tables-unclear", UnclearError, names="--conflicts first"):
        made(tmp_path, "log.csv", "goods.csv")
    assert made(tmp_path, "log.csv", "goods.csv", conflicts="last")[1].conflicts.items == "last"


@pytest.mark.parametrize(
    ("column", "user", "item"),
    [("user_id", 3, 0), ("UserID", 3, 0), ("visitorid", 3, 0), ("customer_unique_id", 3, 0), ("asin", 0, 3),
     ("movieId", 0, 3), ("StockCode", 0, 3), ("product_name", 0, 0), ("user_age", 0, 0), ("category_id", 0, 0)],
)  # fmt: skip
def test_names_of_columns(column, user, item):
    assert (says(column, USER), says(column, ITEM)) == (user, item)


def test_a_name_with_a_line_end_is_no_line_of_the_recipe(tmp_path):
    log = [(f"u{n % 9}", f"i{n}", START + n) for n in range(90)]
    rows = [dict(zip(("user_id", "item_id", "time"), row, strict=True)) | {"note": "a\nrec: {k: 1}"} for row in log]
    rows[0]["user_id"] = "a\nseed: 9"
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made(tmp_path, "log.jsonl")
    assert load_recipe(Path(tmp_path / "made.yaml")).recipe.seed != 9


def test_a_recipe_that_makes_lists_compares_what_the_tables_allow(tmp_path):
    rows = events(np.random.default_rng(3))
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, _, t in rows))
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},A long title of {n % 4}\n" for n in range(12)))
    made(tmp_path, "log.csv", "items.csv", task="retrieval")
    recipe = load_recipe(tmp_path / "made.yaml").recipe
    assert recipe.rec.task.type == "retrieval"
    assert list(recipe.arms) == ["none", "text_init"]
    assert {"top_recent", "ease", "text_neighbours"} <= {one.type for one in recipe.rec.baselines}
    (tmp_path / "order.csv").write_text("user,item,rank\n" + "".join(f"{u},{i},{t}\n" for u, i, _, t in rows))
    made(tmp_path, "order.csv", position="rank", task="retrieval")
    recipe = load_recipe(tmp_path / "made.yaml").recipe
    assert list(recipe.arms) == ["none"]
    assert not {"top_recent", "text_neighbours"} & {one.type for one in recipe.rec.baselines}
    with refused("answer-unknown", UnclearError, names="retrieval"):
        made(tmp_path, "log.csv", task="lists")


def test_a_folder_is_the_tables_in_it(tmp_path):
    write(tmp_path, "csv", "clicks", ["user", "item", "time"], [("u", "i", START)])
    write(tmp_path, "parquet", "items", ["item", "title"], [("i", "a title")])
    (tmp_path / "notes.md").write_text("no table")
    (tmp_path / ".hidden.csv").write_text("no table")
    assert [file.name for file in tables_of([tmp_path])] == ["clicks.csv", "items.parquet"]
    parts = tmp_path / "parts"
    parts.mkdir()
    for part in ("a", "b"):
        write(parts, "parquet", part, ["user", "item", "time"], [("u", "i", START)])
    assert tables_of([parts, tmp_path / "clicks.csv"]) == [parts, tmp_path / "clicks.csv"], "one table in two parts"
    (tmp_path / "empty").mkdir()
    with refused("path-missing", DataError, names="empty"):
        tables_of([tmp_path / "empty"])


def test_columns_that_the_recipe_does_not_read_are_named(tmp_path):
    rows = [(*row, f"page {row[3]}", 1 if n % 9 else 0) for n, row in enumerate(events(np.random.default_rng(2)))]
    write(tmp_path, "csv", "log", ["user", "item", "rating", "time", "referrer", "quantity"], rows)
    goods = [(f"i{n}", f"title {n}", f"https://example.org/{n}", f"brand {n % 3}") for n in range(12)]
    write(tmp_path, "csv", "goods", ["item", "title", "picture", "brand"], goods)
    found, _ = made(tmp_path, "log.csv", "goods.csv")
    told = {one.what: one.chosen for one in found.decisions if one.what.startswith("not read")}
    assert told == {"not read of log.csv": "referrer", "not read of goods.csv": "picture"}


def test_two_tables_with_the_same_columns_are_parts_of_one(tmp_path):
    rng = np.random.default_rng(3)
    for name in ("old.csv", "new.csv"):
        lines = [",".join(map(str, row)) for row in events(rng)]
        (tmp_path / name).write_text("\n".join(["customer,sku,stars,at", *lines]) + "\n")
    (tmp_path / "items.csv").write_text("sku,title\n" + "".join(f"i{n},The thing {n}\n" for n in range(12)))
    for answers in ({}, {"interactions": str(tmp_path / "old.csv")}):
        with refused("table-twice", DataError, names="same columns"):
            made(tmp_path, "old.csv", "new.csv", "items.csv", **answers)


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "clicks.csv").write_text("customer,sku,clicked_at\n")
    with refused("data-empty", DataError):
        made(tmp_path, "clicks.csv")


def test_a_few_very_long_titles_hide_the_column_no_more(tmp_path):
    lines = [",".join(map(str, row)) for row in events(np.random.default_rng(4), rows=300, items=60)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,rating,time", *lines]) + "\n")
    titles = [f"Thing number {n}" + " and more" * (1500 * (n < 3)) for n in range(60)]
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},{title}\n" for n, title in enumerate(titles)))
    _, section = made(tmp_path, "events.csv", "items.csv")
    assert "{{title}}" in section.text.item
