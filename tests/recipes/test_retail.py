"""The shop of `recipes/retail`, read again in plain Python: rows, times, splits, histories, negatives, features."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
from collections import Counter, defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.ingest import ingest
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.store.open import connect_read

FOLDER = library_dir() / "retail"
NO_PRODUCTS = {"POST", "BANK CHARGES", "M", "D"}
LONDON = ZoneInfo("Europe/London")


def lines() -> list[dict[str, str]]:
    with gzip.open(FOLDER / "invoices.csv.gz", "rt", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    recipe = load_recipe(str(FOLDER / "shop.yaml")).recipe
    out = tmp_path_factory.mktemp("shop") / "data.duckdb"
    report = ingest(recipe.dataset, locate=lambda name: FOLDER / name, seed=recipe.seed, out=out)
    con = connect_read(out)
    users, items = (dict(con.execute(f'SELECT {e}_row, {e}_id FROM "{e}"').fetchall()) for e in ("user", "item"))
    rows = con.execute(
        "SELECT user_row, item_row, label, time, split, history FROM sample ORDER BY sample_id"
    ).fetchall()
    features = con.execute("SELECT item_id, text, Department, ListPrice FROM item").fetchall()
    con.close()
    return recipe, report, users, items, rows, features


def events() -> set[tuple[str, str, int]]:
    """(customer, product, microseconds) of each pair's first purchase, of the 3-core."""
    first: dict[tuple[str, str], int] = {}
    for line in lines():
        if line["Invoice"].startswith("C") or int(line["Quantity"]) <= 0 or not line["Customer ID"]:
            continue
        if line["StockCode"] in NO_PRODUCTS:
            continue
        local = datetime.strptime(line["InvoiceDate"], "%m/%d/%Y %H:%M").replace(tzinfo=LONDON)
        pair = (str(int(float(line["Customer ID"]))), line["StockCode"])
        at = round(local.timestamp()) * 1_000_000
        first[pair] = min(first.get(pair, at), at)
    kept = dict(first)
    while True:
        users, items = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        rest = {(u, i): t for (u, i), t in kept.items() if users[u] >= 3 and items[i] >= 3}
        if len(rest) == len(kept):
            return {(u, i, t) for (u, i), t in kept.items()}
        kept = rest


def test_positives_are_the_first_purchases(shop):
    _, report, users, items, rows, _ = shop
    expected = events()
    assert {(users[u], items[i], t) for u, i, label, t, *_ in rows if label} == expected
    assert report.interactions == len(expected)
    assert report.repeats > 1000


def test_the_split_is_where_counting_puts_it(shop):
    *_, rows, _ = shop
    times = sorted(t for _, _, label, t, *_ in rows if label)
    upto = {}
    for place, time in enumerate(times, 1):
        upto[time] = place
    first = min(upto, key=lambda t: (abs(upto[t] - 0.7 * len(times)), t))
    second = min((t for t in upto if t > first), key=lambda t: (abs(upto[t] - 0.85 * len(times)), t))
    for *_, time, split, _ in rows:
        assert split == ("train" if time <= first else "validation" if time <= second else "test")


def test_histories_are_what_was_bought_strictly_before(shop):
    recipe, _, users, items, rows, _ = shop
    salt = derive_seed(recipe.seed, "split", "ties")

    def place(event):
        user, item, time = event
        ids = f"{users[user]}\x1f{items[item]}".encode()
        pair = int.from_bytes(hashlib.md5(ids).digest()[8:], "little") >> 1
        return time, hashlib.md5(f"{salt},{pair}".encode()).hexdigest()

    bought = defaultdict(list)
    for event in sorted(((u, i, t) for u, i, label, t, *_ in rows if label), key=place):
        bought[event[0]].append(event)
    for user, _, _, time, _, history in rows:
        past = [item for _, item, at in bought[user] if at < time]
        assert history == past[-recipe.dataset.history.max_length :]


def test_negatives_were_not_bought_by_then_and_come_two_for_one(shop):
    _, report, _, items, rows, _ = shop
    bought = defaultdict(dict)
    for user, item, label, time, *_ in rows:
        if label:
            bought[user][item] = time
    drawn, positives = Counter(), Counter()
    later = 0
    for user, item, label, time, *_ in rows:
        (positives if label else drawn)[user, time] += 1
        if not label:
            assert bought[user].get(item, time + 1) > time
            later += item in bought[user]
    assert drawn == {key: 2 * count for key, count in positives.items()}
    assert later > 500, "what a customer buys later protects nothing"
    assert report.negatives.violations == 0
    assert report.negatives.p > 0.005
    assert len(items) == len({item for _, item, label, *_ in rows if label})


def test_texts_and_features_are_the_tables(shop):
    *_, features = shop
    with (FOLDER / "products.csv").open(newline="") as handle:
        table = {row["StockCode"]: row for row in csv.DictReader(handle)}
    for item, text, department, price in features:
        row = table[item]
        assert text == f"{row['Description'].strip()}, {row['Department']}"
        assert department == row["Department"]
        assert price == (float(row["ListPrice"]) if row["ListPrice"] else None)
    assert sum(price is None for *_, price in features) > 5


def test_what_each_part_of_the_filter_drops_is_counted(shop):
    _, report, *_ = shop
    rest, counts = lines(), []
    for keep in (
        lambda line: not line["Invoice"].startswith("C"), lambda line: int(line["Quantity"]) > 0,
        lambda line: line["Customer ID"], lambda line: line["StockCode"] not in NO_PRODUCTS,
    ):  # fmt: skip
        counts.append(sum(not keep(line) for line in rest))
        rest = [line for line in rest if keep(line)]
    step = next(step for step in report.steps if step.name == "filter interactions")
    assert (step.kept, step.dropped) == (len(rest), sum(counts))
    assert [f"false for {count:,}" in step.reason for count in counts] == [True] * 4


def test_the_tables_are_what_the_script_writes(tmp_path):
    spec = importlib.util.spec_from_file_location("generate_shop", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    assert (tmp_path / "products.csv").read_bytes() == (FOLDER / "products.csv").read_bytes()
    written, kept = (gzip.decompress((folder / "invoices.csv.gz").read_bytes()) for folder in (tmp_path, FOLDER))
    assert written == kept
