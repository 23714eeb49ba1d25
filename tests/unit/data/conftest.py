"""Small data sets that the tests write themselves, and one call from rows to the tables that ingest made of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from append_world import require_keys

from llmcf_cli.data.ingest import ingest
from llmcf_cli.data.report import IngestReport
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import connect_read

TABLES = ("user", "item", "interaction", "sample", "ingest_step", "meta")


@dataclass(frozen=True)
class Result:
    """A report and the rows of every table, as dicts in stored order."""

    report: IngestReport
    tables: dict[str, list[dict[str, Any]]]

    def __getitem__(self, table: str) -> list[dict[str, Any]]:
        return self.tables[table]

    def step(self, name: str) -> Any:
        return next(step for step in self.report.steps if step.name == name)

    def ids(self, entity: str) -> dict[int, str]:
        return {row[f"{entity}_row"]: row[f"{entity}_id"] for row in self[entity]}


NO_LIMITS = {"unjoined": 1, "empty_histories": 1, "per_class": 0}
"""Limits that let data sets of a handful of rows pass."""
SMALL: dict[str, Any] = {"limits": NO_LIMITS, "repeats": "keep"}


def run_section(section: dict[str, Any], seed: int = 7) -> Result:
    section = SMALL | section
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data.duckdb"
        report = ingest(DatasetSection.model_validate(section), locate=Path, seed=seed, out=out)
        assert [p.name for p in Path(folder).iterdir()] == ["data.duckdb"], "ingest leaves nothing else behind"
        require_keys(out)
        con = connect_read(out)
        tables = {name: con.sql(f'FROM "{name}"').to_arrow_table().to_pylist() for name in TABLES}
        con.close()
    return Result(report, tables)


@pytest.fixture(scope="session")
def run() -> Callable[..., Result]:
    """`run(section)`: ingest it, read everything back."""
    return run_section


@pytest.fixture(scope="session")
def run_rows() -> Callable[..., Result]:
    """`run_rows([(user, item, rating, time), …], **section)`: ingest these interactions from Parquet."""

    def call(
        rows: Sequence[tuple[Any, Any, Any, Any]], *, order: str = "time", items: list[dict[str, Any]] | None = None,
        users: list[dict[str, Any]] | None = None, seed: int = 7, source: dict[str, Any] | None = None, **section: Any,
    ) -> Result:  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            columns = zip(*rows, strict=True) if rows else ((), (), (), ())
            names = ("user_id", "item_id", "rating", "t")
            table = pa.table({n: pa.array(list(c)) for n, c in zip(names, columns, strict=True)})
            pq.write_table(table, f"{folder}/interactions.parquet")
            settings: dict[str, Any] = {
                "type": "parquet", "interactions": f"{folder}/interactions.parquet",
                "columns": {"rating": "rating", order: "t"},
            }  # fmt: skip
            for name, entity in (("items", items), ("users", users)):
                if entity is not None:
                    pq.write_table(pa.Table.from_pylist(entity), f"{folder}/{name}.parquet")
                    settings[name] = f"{folder}/{name}.parquet"
            settings |= source or {}
            full = {"source": settings, "label": "rating", "split": "leave_one_out"} | section
            return run_section(full, seed)

    return call


@pytest.fixture
def movies(tmp_path: Path) -> Path:
    """A tiny RecBole data set: quotes, commas, apostrophes, an unknown item, a missing value, equal times."""
    folder = tmp_path / "movies"
    folder.mkdir()
    (folder / "movies.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "u1\tm1\t5\t100\nu1\tm2\t2\t200\nu1\tm3\t4\t300\nu1\tm4\t4.5\t300\nu1\tm1\t3\t400\n"
        "u2\tm2\t4\t150\nu2\tm9\t1\t250\nu2\tm3\t5\t500\n"
    )
    (folder / "movies.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tvector:float_seq\n"
        'm1\t"Crocodile" Dundee\t1986\tAdventure Comedy\t0.1 0.2\n'
        "m2\tShawshank Redemption, The\t1994\tDrama\t0.1 0.2\n"
        "m3\tToy Story\t\tAnimation Children's Comedy\t0.1 0.2\n"
        'm4\tThe "Half-open\t1999\t\t0.1 0.2\n'
        "m5\tNever Seen\t2000\tDrama\t0.1 0.2\n"
    )
    (folder / "movies.user").write_text("user_id:token\tage:token\toccupation:token\nu1\t24\ttechnician\n")
    return folder


@pytest.fixture
def run_to(tmp_path: Path) -> Any:
    """`run_to(section)`: ingest it, return the report and a connection to the result."""
    connections = []

    def call(section: dict[str, Any]) -> tuple[IngestReport, Any]:
        out = tmp_path / "data.duckdb"
        report = ingest(DatasetSection.model_validate(SMALL | section), locate=Path, seed=7, out=out)
        connections.append(connect_read(out))
        return report, connections[-1]

    yield call
    for con in connections:
        con.close()
