"""What every registered stage declares: help, report, layout, findings, and its place in the pipeline."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.report import from_json, to_json
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.pipeline import stage_class, targets
from llmcf_cli.store.artifacts import ArtifactStore
from llmcf_cli.store.layout import File

STAGES = registry().stages()
every_stage = pytest.mark.parametrize("component", STAGES, ids=lambda component: component.name)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type that JSON can hold; simple ones where a report says `Any`."""
    arguments = get_args(kind)
    match get_origin(kind) or kind:
        case made if is_dataclass(made):
            return st.builds(made, **{name: values(of) for name, of in get_type_hints(made).items()})
        case made if made is Any:
            return st.integers() | st.text(max_size=3) | st.none()
        case made if made is float:
            return st.floats(allow_nan=False, allow_infinity=False)
        case made if made is list:
            return st.lists(values(arguments[0]), max_size=3)
        case made if made is dict:
            return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
        case made if made is tuple and arguments[1:] == (...,):
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        case made if made is tuple:
            return st.tuples(*map(values, arguments))
        case made if made in (Union, UnionType):
            return st.one_of(*map(values, arguments))
        case _:
            return st.from_type(kind)


class Names:
    """Stands in for the contents of files."""

    def digest(self, ref: str) -> str:
        return ref


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """A recipe that every stage has something to do for."""
    return load_recipe(
        "quickstart",
        ["rec.baselines=[popularity]", "search={trials: 2, space: {rec.fit.learning_rate: {low: 0.001, high: 0.1}}}",
         "balance={}", "teacher={}", "rec.objectives=[bce, distill]", "rec.compare=[none, text, kar, signals]",
         "knowledge={user_prompt: prompts/kar_user.yaml, item_prompt: prompts/kar_item.yaml}",
         "dataset.added=[{interactions: later.inter}, {interactions: last.inter}]", "refresh={arm: text, seed: 2024}"],
    ).recipe  # fmt: skip


@every_stage
def test_it_says_what_it_does_in_one_line_and_its_class_says_how(component):
    assert component.summary.endswith(".")
    assert component.summary[0].isupper()
    stage = stage_class(component.name)  # refuses an incomplete declaration
    assert stage.__doc__
    assert stage.__doc__ != inspect.getdoc(stage.__mro__[1])
    assert stage.report.__doc__
    assert all(field.name in stage.report.__doc__ or _inherited(stage.report, field.name)
               for field in fields(stage.report))  # fmt: skip


def _inherited(report: type, name: str) -> bool:
    return any(name in (base.__doc__ or "") for base in report.__mro__[1:-1])


@every_stage
@settings(max_examples=20, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_its_report_is_the_same_after_json(component, data):
    report = stage_class(component.name).report
    made = data.draw(values(report))
    assert from_json(report, json.loads(json.dumps(to_json(made)))) == made


@every_stage
def test_a_report_of_another_version_is_refused(component):
    report = stage_class(component.name).report
    with pytest.raises(StoreError, match="of another version"):
        from_json(report, {"something": "else"})


@every_stage
def test_its_layout_names_each_file_once_and_says_what_it_holds(component):
    output = stage_class(component.name).output
    files = output.files()
    assert files
    assert len({file.name for file in files.values()}) == len(files)
    for attribute, file in files.items():
        assert isinstance(getattr(output, attribute), File)
        assert getattr(output(Path("folder")), attribute) == Path("folder", file.name)
        assert file.content
    assert not all(file.optional for file in files.values())


@every_stage
def test_its_findings_ending_and_command_can_be_loaded(component):
    for target in filter(None, (component.findings, component.ending)):
        assert len(inspect.signature(component.load(target)).parameters) == 1
    if component.command:
        component.load(component.command)


@every_stage
def test_the_pipeline_makes_it_by_its_name(component, recipe, tmp_path):
    context = Context(recipe, ArtifactStore(tmp_path), Names(), tmp_path)
    wanted = targets(recipe, component.name)
    assert wanted
    assert all(stage.name == component.name for stage in wanted)
    steps = plan(context, wanted)
    assert component.name in {step.node.stage.name for step in steps}
    known = {stage.name for stage in STAGES}
    assert {step.node.stage.name for step in steps} <= known


def test_stages_are_listed_in_running_order(recipe, tmp_path):
    context = Context(recipe, ArtifactStore(tmp_path), Names(), tmp_path)
    place = {component.name: number for number, component in enumerate(STAGES) if component.origin == "built-in"}
    for name in place:
        for step in plan(context, targets(recipe, name)):
            for need in step.node.needs.values():
                assert place[need.stage.name] <= place[step.node.stage.name], (need.label, step.node.label)


def test_importing_every_stage_stays_cheap():
    """A dry run imports them all."""
    script = (
        "import sys\n"
        "from llmcf_cli.plugin import registry\n"
        "[stage.load() for stage in registry().stages()]\n"
        "heavy = {'torch', 'transformers', 'lancedb', 'duckdb', 'sentence_transformers', 'sklearn', 'accelerate'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stage_that_nobody_registered_is_refused_with_the_nearest_name():
    with pytest.raises(LlmcfError, match='did you mean "match"'):
        stage_class("matsch")
