"""What several end-to-end tests start from: a tiny random language model, and ratings that mean nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from llmcf_cli.store.open import connect_read

BASE = """\
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: user, item: item, rating: rating, time: time}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.15, test: 0.15}
llm:
  model: model
  mix: [{source: recommendation, share: 1}]
  count: 8
  tune: {type: lora, max_length: 256, max_steps: 1, batch_size: 4, precision: fp32}
cot:
  prompt: prompts/single.yaml
  sample: {count: 40, balance: labels}
  engine: {type: transformers, max_new_tokens: 8, precision: fp32}
  judge: {type: rubric, min_words: 1, min_coherence: 0, max_echo: 1, truncated: keep}
match:
  space: {type: text, encoder: "asset:minilm-l6-v2"}
"""
"""What the recipes of these tests extend: a tiny model tuned for one step, short texts that no judge drops."""


@pytest.fixture(scope="session")
def tiny_llm() -> ModuleType:
    """The module `tests/tiny_llm.py`."""
    import tiny_llm

    return tiny_llm


@pytest.fixture(scope="session")
def write_ratings(tiny_llm) -> Callable[..., None]:
    """Write `model/`, tables of about half of all pairs, rated by chance, and `base.yaml` over them into a folder."""

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
        (folder / "base.yaml").write_text(BASE)

    return write


@pytest.fixture(scope="session")
def offline_requests() -> Callable[[Path, Path], pa.Table]:
    """Predicted samples as requests to a scorer, with their offline logits, by sample id."""

    def requests(database: Path, predictions: Path) -> pa.Table:
        with connect_read(database) as connection:
            return connection.sql(
                """
                WITH ids AS (SELECT list(item_id ORDER BY item_row) AS by_row FROM item)
                SELECT u.user_id, i.item_id, make_timestamptz(s.time) AS time, p.logit,
                       list_transform(s.history, lambda h: ids.by_row[h]) AS history
                FROM sample s JOIN "user" u USING (user_row) JOIN item i USING (item_row)
                     JOIN read_parquet(?) p ON p.sample_id = s.sample_id, ids
                ORDER BY s.sample_id
                """,
                params=[str(predictions)],
            ).to_arrow_table()

    return requests
