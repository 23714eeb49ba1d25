"""What every registered arm input must do."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import FromRecipe, InputConfig
from llmcf_cli.features.batch import encode_entities
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import ALWAYS, HISTORY, MANIFEST
from llmcf_cli.rec.input.base import REQUEST, Lookup, RowLookup, default_inputs
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.input.stored import Stored, Storing
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.steps.task_data import component_stages, input_configs

NAMES = [component.name for component in registry().of_kind("input")]
HOLDING = [name for name in NAMES if default_inputs([name])[name].holds]


def arrays(held, path="") -> dict[str, np.ndarray]:
    """Every array in what an input holds, by where it is."""
    if isinstance(held, np.ndarray):
        return {path: held}
    parts = {f.name: getattr(held, f.name) for f in fields(held)} if is_dataclass(held) else held
    if not isinstance(parts, dict):
        return {}
    return {key: array for name, part in parts.items() for key, array in arrays(part, f"{path}.{name}").items()}


def test_their_files_are_theirs_alone():
    found = Counter(file for name in NAMES for file in default_inputs([name])[name].files)
    found.update({*ALWAYS, HISTORY, MANIFEST})
    assert set(found.values()) == {1}


@pytest.mark.parametrize("name", NAMES)
def test_its_declaration_is_whole(name):
    config = registry().get("input", name).config()
    assert issubclass(config, InputConfig)
    assert config().type == name, "defaults for all fields"
    assert set(config().needs) < set(NAMES)
    marks = [
        [m for m in info.metadata if isinstance(m, FromRecipe)]
        for f, info in config.model_fields.items()
        if f != "type"
    ]
    assert all(len(found) == 1 for found in marks), "each field says what of the recipe it is"
    recipe = load_recipe("quickstart").recipe
    assert all(recipe.value_at(mark.path) is not None or "max_per_user" in mark.path for (mark,) in marks)
    assert [c.type for c in input_configs(recipe, frozenset({name}), str.upper)] == closure([name])
    assert component_stages(frozenset({name}))[0].name == "ingest"


@pytest.mark.parametrize("name", NAMES)
def test_its_values_are_one_per_sample_and_of_it_alone(world, name):
    one, samples = default_inputs([name])[name], world.data.splits["test"]
    values = one.values(world.data.resources, samples, REQUEST)
    if values is None:
        return
    assert len(values) == len(samples)
    order = np.random.default_rng(0).permutation(len(samples))
    np.testing.assert_allclose(one.values(world.data.resources, samples.take(order), REQUEST), values[order], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_its_part_of_a_model_tells_its_sizes(world, name):
    one = default_inputs([name])[name]
    if one.config.for_losses:
        return
    part = one.lookup(world.data.resources)
    assert part is None or (isinstance(part, Lookup) and part.sizes and min(part.sizes.values()) > 0)
    assert not one.of_examples or isinstance(part, RowLookup)


@pytest.mark.parametrize("name", HOLDING)
def test_what_a_bundle_keeps_is_read_as_it_was(world, tmp_path, name):
    one, resources = default_inputs([name])[name], world.data.resources
    kept = one.stored(resources.get(name))
    one.save(kept, Storing(tmp_path, one.files))
    assert {path.name for path in tmp_path.iterdir()} == set(one.files)
    one = type(one)(one.settings(kept))
    found = one.read(Stored(tmp_path, one.files), resources)
    one.check(found, resources, tmp_path)
    before, after = arrays(kept), arrays(found)
    assert before.keys() == after.keys()
    for where, array in before.items():
        np.testing.assert_array_equal(after[where], array)
        assert after[where].dtype == array.dtype


@pytest.mark.parametrize("name", HOLDING)
def test_numbers_that_are_none_are_refused(world, tmp_path, name):
    one, resources = default_inputs([name])[name], world.data.resources
    held = one.stored(resources.get(name))
    checked = 0
    for where, array in arrays(held).items():
        if array.dtype == np.float32 and array.ndim > 1 and "sample" not in where:
            broken = copy.deepcopy(held)
            arrays(broken)[where].flat[-1] = np.nan
            with pytest.raises(ModelError):
                one.check(broken, resources, tmp_path)
            checked += 1
    assert checked or all(array.dtype.kind in "biu" for array in arrays(held).values())


@pytest.mark.parametrize("name", HOLDING)
def test_added_items_leave_the_others_as_they_were(world, name):
    one, resources = default_inputs([name])[name], world.data.resources
    table, catalog = pa.table({"item_id": ["new", "newer"]}), resources.catalog
    added = encode_entities(table, "item", resources.spec, resources.vocab)
    longer = replace(resources, catalog=replace(catalog, items=catalog.items.extended(added)))
    before = resources.get(name)
    after = one.extended(before, longer, table, None)
    one.check(one.stored(after), longer, None)
    for where, array in arrays(before).items():
        kept = arrays(after)[where][tuple(slice(size) for size in array.shape)]
        np.testing.assert_array_equal(kept, array)
