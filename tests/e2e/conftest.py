"""What several end-to-end tests start from: a tiny random language model, and ratings that mean nothing."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from llmcf_cli.store.open import connect_read


@pytest.fixture(scope="session")
def tiny_llm() -> ModuleType:
    """The module `tests/tiny_llm.py`."""
    spec = importlib.util.spec_from_file_location("tiny_llm", Path(__file__).parents[1] / "tiny_llm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def write_ratings(tiny_llm) -> Callable[..., None]:
    """Write `model/`, `events.csv` and `items.csv` into a folder: about half of all pairs, rated by chance."""

    def write(folder: Path, *, users: int, items: int) -> None:
        tiny_llm.save_tiny_model(folder / "model", context=1024)
        chance = random.Random(3)
        events = sorted(
            (chance.randint(1, 5000), user, item, chance.randint(1, 5))
            for user in range(users)
            for item in range(items)
            if chance.random() < 0.5
        )
        rows = [f"u{user},i{item},{rating},{time}\n" for time, user, item, rating in events]
        (folder / "events.csv").write_text("user,item,rating,time\n" + "".join(rows))
        titles = [f"i{item},{' '.join(chance.sample(tiny_llm.WORDS, 3))}\n" for item in range(items)]
        (folder / "items.csv").write_text("item,title\n" + "".join(titles))

    return write


@pytest.fixture(scope="session")
def offline_requests() -> Callable[[Path, Path], pa.Table]:
    """Predicted samples as requests to a scorer, with their offline logits, by sample id."""

    def requests(database: Path, predictions: Path) -> pa.Table:
        with connect_read(database) as connection:
            return connection.sql(
                """
                WITH ids AS (SELECT list(item_id ORDER BY item_row) AS by_row FROM item)
                SELECT u.user_id, i.item_id, s.time, p.logit,
                       list_transform(s.history, lambda h: ids.by_row[h]) AS history
                FROM sample s JOIN "user" u USING (user_row) JOIN item i USING (item_row)
                     JOIN read_parquet(?) p ON p.sample_id = s.sample_id, ids
                ORDER BY s.sample_id
                """,
                params=[str(predictions)],
            ).to_arrow_table()

    return requests
