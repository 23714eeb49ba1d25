"""A shop in Parquet files whose ingest is extended."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.data.append import append
from llmcf_cli.data.ingest import ingest
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import FEATURE, HISTORY, INGEST_STEP, INTERACTION, ITEM, META, SAMPLE, USER

NO_LIMITS = {"unjoined": 1, "empty_histories": 1, "per_class": 0}
SEED = 7
MICRO = 1_000_000
CUT = {"type": "fixed_cut", "validation_from": 4, "test_from": 6}
CATALOGUE = [{"item_id": f"i{n}", "title": f"Item {n}", "kind": f"k{n % 3}"} for n in range(30)]
TABLES = ("user", "item", "interaction", "sample", "history")


class Shop:
    """Files in a folder, and what ingest makes of them."""

    def __init__(self, folder, **section):
        self.folder = Path(folder)
        self.section = {
            "label": "implicit", "split": CUT, "limits": NO_LIMITS, "history": {"max_length": 3},
            "features": {"item": {"kind": "categorical"}}, **section,
        }  # fmt: skip

    def file(self, rows, name, columns=("user_id", "item_id", "rating", "t")):
        types = {"rating": pa.float64()} if rows else {"rating": pa.float64(), "t": pa.int64()}
        cells = zip(*rows, strict=True) if rows else ((),) * len(columns)
        table = pa.table(
            {
                c: pa.array(v, types.get(c, pa.string() if c.endswith("_id") else None))
                for c, v in zip(columns, cells, strict=True)
            }
        )
        pq.write_table(table, self.folder / name)
        return str(self.folder / name)

    def items(self, rows, name="items.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), self.folder / name)
        return str(self.folder / name)

    def parsed(self, rows, name, items=None):
        source = {
            "type": "parquet", "interactions": self.file(rows, name), "columns": {"rating": "rating", "time": "t"},
            "items": items or self.items(CATALOGUE),
        }  # fmt: skip
        return DatasetSection.model_validate({"source": source, **self.section})

    def whole(self, rows, name="whole"):
        out = self.folder / f"{name}.duckdb"
        report = ingest(self.parsed(rows, f"{name}.parquet"), locate=Path, seed=SEED, out=out)
        require_keys(out)
        return out, report

    def add(self, base, rows, name="more", items=None):
        out = self.folder / f"{name}.duckdb"
        section = self.parsed([("u0", "i0", 5.0, 1)], "unread.parquet")  # its files are not read
        source = self.parsed(rows, f"{name}.parquet", items).source
        report = append(base, section, source, locate=Path, seed=SEED, out=out)
        require_keys(out)
        return out, report


def require_keys(database):
    """Rows of a database of ingest have different keys."""
    with connect_read(database) as con:
        for table in (USER, ITEM, FEATURE, INTERACTION, SAMPLE, HISTORY, INGEST_STEP, META):
            key = ", ".join(table.primary_key)
            assert con.sql(f'SELECT {key} FROM "{table.name}" GROUP BY ALL HAVING count(*) > 1').fetchall() == []
