"""Writes the invented shop of this folder: `invoices.csv.gz` and `products.csv`, the same bytes every time.

Everything that a real export gets wrong is in it on purpose: returns (invoices that start with C, negative quantities),
guests without a customer id, ids written as 12346.0, codes that are no products (postage, fees, manual corrections),
month-first local times, prices with gaps, descriptions with stray blanks, and customers who buy the same again.

    python generate.py [FOLDER]
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

SEED = 20091201
CUSTOMERS, PRODUCTS, DAYS = 700, 420, 373
START = datetime(2009, 12, 1)
KINDS = {
    "mugs": ("MUG", "TEA CUP", "EGG CUP", "TEAPOT"), "lights": ("LANTERN", "T-LIGHT HOLDER", "FAIRY LIGHTS"),
    "paper": ("GIFT WRAP", "NOTEBOOK", "BIRTHDAY CARD", "STICKERS"), "bags": ("SHOPPER BAG", "LUNCH BAG", "WASH BAG"),
    "garden": ("PLANT POT", "BIRD FEEDER", "WIND CHIME"), "toys": ("WOODEN TRAIN", "JIGSAW", "SOFT RABBIT", "SKITTLES"),
    "kitchen": ("CAKE TIN", "APRON", "BREAD BIN", "JAM JAR"), "christmas": ("STAR DECORATION", "STOCKING", "WREATH"),
}  # fmt: skip
LOOKS = ("RED RETROSPOT", "PINK POLKADOT", "BLUE PAISLEY", "VINTAGE ROSE", "STRAWBERRY", "IVORY", "SILVER", "WOODLAND")
NO_PRODUCTS = {"POST": "POSTAGE", "BANK CHARGES": "Bank Charges", "M": "Manual", "D": "Discount"}
COUNTRIES = ("United Kingdom",) * 8 + ("Germany", "France", "EIRE", "Netherlands")


def products(rng: np.random.Generator) -> list[dict[str, str]]:
    """One row per product: code, description, department, list price."""
    kinds, rows = list(KINDS), []
    for number in range(PRODUCTS):
        kind = kinds[number % len(kinds)]
        words = f"{LOOKS[rng.integers(len(LOOKS))]} {KINDS[kind][rng.integers(len(KINDS[kind]))]}"
        blank = "  " if number % 40 == 7 else ""
        price = f"{np.round(rng.lognormal(0.9, 0.7), 2)}" if number % 25 else ""
        rows.append({
            "StockCode": f"{20000 + 7 * number}{'ABC'[number % 3] if number % 5 == 0 else ''}",
            "Description": f"{blank}{words} no. {number}{blank}", "Department": kind, "ListPrice": price,
        })  # fmt: skip
    return rows


def invoices(rng: np.random.Generator, catalogue: list[dict[str, str]]) -> list[list[str]]:
    """The lines of all invoices in the order of their times."""
    kinds = list(KINDS)
    popularity = rng.permutation(1 / np.arange(1, PRODUCTS + 1) ** 0.6)
    department = np.array([kinds.index(row["Department"]) for row in catalogue])
    visits = []
    for customer in range(CUSTOMERS):
        taste = rng.dirichlet(np.full(len(kinds), 0.35))
        since = rng.uniform(0, 0.75 * DAYS)
        for day in sorted(rng.uniform(since, DAYS, 2 + rng.poisson(4))):
            visits.append((day, customer, taste))
    visits.sort(key=lambda visit: visit[0])
    taken: dict[int, list[int]] = {}
    lines = []
    for number, (day, customer, taste) in enumerate(visits):
        opening = START + timedelta(days=int(day), hours=8)
        when = opening + timedelta(minutes=int(rng.integers(0, 600)))
        weight = popularity * taste[department]
        size = min(1 + rng.poisson(4), int((weight > 0).sum()))
        basket = list(rng.choice(PRODUCTS, size, replace=False, p=weight / weight.sum()))
        again = [item for item in taken.get(customer, []) if rng.random() < 0.12]
        basket = list(dict.fromkeys([*basket, *again]))
        taken.setdefault(customer, []).extend(item for item in basket if item not in taken.get(customer, []))
        guest = rng.random() < 0.12
        lines += _invoice(rng, number, when, customer, guest, [catalogue[item] for item in basket])
    return lines


def _invoice(
    rng: np.random.Generator, number: int, when: datetime, customer: int, guest: bool, basket: list[dict[str, str]]
) -> list[list[str]]:
    """An invoice's lines, now and then with postage, and with a return some days later."""
    name, who = str(489434 + number), "" if guest else f"{12346 + 3 * customer}.0"
    country = COUNTRIES[customer % len(COUNTRIES)]

    def line(invoice: str, code: str, words: str, quantity: int, at: datetime, price: str) -> list[str]:
        return [invoice, code, words, str(quantity), f"{at:%m/%d/%Y %H:%M}", price, who, country]

    lines = [
        line(name, row["StockCode"], row["Description"].strip(), int(1 + rng.poisson(3)), when, row["ListPrice"] or "0")
        for row in basket
    ]
    if rng.random() < 0.08:
        code = list(NO_PRODUCTS)[rng.integers(len(NO_PRODUCTS))]
        lines.append(line(name, code, NO_PRODUCTS[code], 1, when, "18.0"))
    if rng.random() < 0.05:
        row = basket[0]
        lines.append(line(f"C{name}", row["StockCode"], row["Description"].strip(), -1, when + timedelta(days=4), "0"))
    return lines


def main(folder: Path) -> None:
    """Write both tables."""
    rng = np.random.default_rng(SEED)
    catalogue = products(rng)
    with (folder / "products.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(catalogue[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(catalogue)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country"]
    )
    writer.writerows(invoices(rng, catalogue))
    packed = gzip.compress(text.getvalue().encode(), 9, mtime=0)
    (folder / "invoices.csv.gz").write_bytes(packed)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
