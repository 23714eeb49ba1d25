"""Vectors of a catalogue that grew: the same as those of the whole, and nothing is encoded twice."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
import refresh_world as shop
from examples import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.embed import Embed, EmbedOutput
from llmcf_cli.store.open import read_lance

ITEMS = 24
CHANGED = "deep red other"


def embedded(folder, *changes):
    """Item → vector, the rows of items, and the report."""
    context = open_context(
        load_recipe(folder / "recipe.yaml", ["dataset.limits.blank_texts=1", *changes]), folder / "artifacts", SILENT
    )
    steps = plan(context, [Embed()])
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    node = steps[-1].node
    table: pa.Table = read_lance(EmbedOutput(node.folder).lance, "item_text")
    ids = table["item_id"].to_pylist()
    vectors = dict(zip(ids, table["vector"].to_pylist(), strict=True))
    return vectors, dict(zip(ids, table["item_row"].to_pylist(), strict=True)), node.require()


@settings(max_examples=examples(2), deadline=None, phases=(Phase.explicit, Phase.generate))  # as shrinking takes long
@given(
    seed=st.integers(0, 99), cut=st.integers(760, 899), first=st.integers(1, ITEMS - 1),
    changed=st.sets(st.integers(0, ITEMS - 1), max_size=4),
)  # fmt: skip
def test_added_is_whole(seed, cut, first, changed):
    """`changed` items of the first table have another title later; those from `first` on have none before."""
    events, changed = shop.first_events(seed), {n for n in changed if n < first}
    early, late = ([row for row in events if (row[3] <= cut) is side] for side in (True, False))
    late = late or [("u1", "i1", 5, 950)]
    events = early + late
    now = [shop.item(n, title=CHANGED if n in changed else "") for n in range(ITEMS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(shop.RECIPE)
        shop.write_events(folder / "events.csv", early)
        shop.write_items(folder / "items.csv", [shop.item(n) for n in range(first)])
        shop.write_events(folder / "late.csv", late)
        shop.write_items(folder / "late_items.csv", [now[n] for n in range(ITEMS) if n >= first or n in changed])
        before, rows_before, _ = embedded(folder)
        after, rows_after, report = embedded(folder, "dataset.added=[{interactions: late.csv, items: late_items.csv}]")
        shop.write_events(folder / "events.csv", events)
        shop.write_items(folder / "items.csv", now)
        whole, _, encoded = embedded(folder)
    assert after == whole
    assert rows_after.items() >= rows_before.items()
    assert encoded.copied == 0
    titles = {f"i{n}": shop.item(n)[1] if n < first else "" for n in range(ITEMS)}
    titles_now = {item: title for item, title, _ in now}
    assert report.copied == sum(titles[item] == titles_now[item] for item in before)


def test_no_encoder_is_loaded_where_no_text_is_new(tmp_path, monkeypatch):
    shop.write_shop(tmp_path)
    before, _, first = embedded(tmp_path)
    monkeypatch.setattr("llmcf_cli.stages.steps.embed.text_encoder", lambda job: pytest.fail("an encoder is loaded"))
    shop.write_events(tmp_path / "more.csv", [("u1", "i4", 5, 1000)])
    after, _, report = embedded(tmp_path, "dataset.added=[{interactions: more.csv}]")
    assert after == before
    assert (report.copied, report.dim, report.read.texts) == (len(before), first.dim, 0)
