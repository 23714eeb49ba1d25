"""The graph of a comparison: shared results once, labels that tell arms apart, keys that no arm's name is in."""

from dataclasses import dataclass, field

import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError, UnknownNameError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.config import OpenAIEngineConfig
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context, Stage
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import run_steps
from llmcf_cli.stages.steps.evaluate import Evaluate, measured_stages
from llmcf_cli.stages.steps.predict import Predict
from llmcf_cli.stages.steps.task_data import component_stages
from llmcf_cli.stages.steps.writing import with_local_files, writing_model
from llmcf_cli.store.artifacts import ArtifactStore

RECIPE = """\
extends: quickstart
name: graph
rec:
  compare: [none, ict]
  augment: ict
  variants:
    - {name: random, set: {match.search: random}}
    - {name: two, set: {match.k: 2}}
    - {name: same as none, set: {rec.augment: none}}
  baselines: [popularity]
"""


class _Locate:
    def digest(self, ref):
        return f"content of {ref}"


def context_of(tmp_path, text=RECIPE, changes=()):
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "r.yaml", changes).recipe
    return Context(recipe=recipe, store=ArtifactStore(tmp_path / "artifacts"), locate=_Locate(), models=tmp_path)


def nodes(tmp_path, text=RECIPE, changes=()):
    return {step.node.label: step.node for step in plan(context_of(tmp_path, text, changes), [Evaluate()])}


def test_a_result_that_arms_share_stands_once(tmp_path):
    found = nodes(tmp_path)
    keys = [(node.stage.name, node.key) for node in found.values()]
    assert len(keys) == len(set(keys))
    matches = {label for label, node in found.items() if node.stage.name == "match"}
    assert matches == {"match", "match[random]", "match[two]"}
    for shared in ("ingest", "train-llm", "gen-cot", "embed", "examples"):
        assert [label for label in found if label.startswith(shared)] == [shared]


def test_two_arms_of_the_same_settings_are_trained_once_and_both_compared(tmp_path):
    found = nodes(tmp_path)
    assert "train-rec[same as none seed=2024]" not in found
    needs = found["evaluate"].needs
    assert needs["predict[same as none seed=2024]"] is needs["predict[none seed=2024]"]


def test_steps_come_after_all_they_need(tmp_path):
    done = set()
    for label, node in nodes(tmp_path).items():
        assert {need.label for need in node.needs.values()} <= done, label
        done.add(label)


def test_an_arm_keeps_its_keys_under_another_name(tmp_path):
    search = "search:\n  trials: 2\n  space: {rec.fit.learning_rate: {low: 1.0e-4, high: 1.0e-2}}\n"
    for text in (RECIPE, RECIPE + search):
        before, after = nodes(tmp_path, text), nodes(tmp_path, text.replace("name: random", "name: by chance"))
        assert {n.key for n in before.values()} ^ {n.key for n in after.values()} == {
            before["evaluate"].key,
            after["evaluate"].key,
        }
        for stage in ("match[{}]", "train-rec[{} seed=2024]", "predict[{} seed=2024]"):
            assert before[stage.format("random")].key == after[stage.format("by chance")].key


@dataclass(frozen=True)
class Toy:
    """Stands in for a recipe: a base value, and the values of arms."""

    base: int = 1
    arms: dict = field(default_factory=dict)
    name: str = "toy"


class Shared(Stage):
    name, version = "shared", 1

    def sections(self, recipe):
        return {"value": recipe.base}

    def needs(self, recipe):
        return ()

    def run(self, job):
        if job.recipe.base < 0:
            raise DataError("is negative", where="value", hint="raise it")
        (job.out / "value").write_text(str(job.recipe.base))
        return {}


@dataclass(frozen=True)
class Arm(Stage):
    arm: str
    name, version = "arm", 1

    @property
    def variant(self):
        return self.arm

    @property
    def owner(self):
        return self.arm

    @property
    def role(self):
        return self.label

    def view(self, recipe):
        return Toy(recipe.arms[self.arm], recipe.arms, recipe.name)

    def sections(self, recipe):
        return {}

    def needs(self, recipe):
        return (Shared(),)

    def run(self, job):
        return {"read": int((job.inputs["shared"] / "value").read_text())}


class All(Stage):
    name, version = "all", 1

    def sections(self, recipe):
        return {}

    def needs(self, recipe):
        return [Arm(arm) for arm in recipe.arms]

    def run(self, job):
        return {"arms": sorted(job.inputs)}


def toy_plan(tmp_path, **arms):
    context = Context(recipe=Toy(1, arms), store=ArtifactStore(tmp_path), locate=_Locate(), models=tmp_path)
    return plan(context, [Shared(), All()])


def go(steps):
    ended, failed = {}, {}
    behind = execute(
        steps, SILENT, on_start=lambda step: None,
        on_failure=lambda step, error: failed.update({step.node.label: error}),
        on_end=lambda step, manifest: ended.update({step.node.label: manifest.report}),
    )  # fmt: skip
    return ended, failed, behind


def test_an_arm_reads_the_result_of_its_own_settings(tmp_path):
    ended, failed, behind = go(toy_plan(tmp_path, like_base=1, other=5))
    assert (failed, behind) == ({}, {})
    assert ended["arm[like_base]"] == {"read": 1}
    assert ended["arm[other]"] == {"read": 5}
    assert {"shared", "shared[other]"} < ended.keys()


def test_the_reason_of_an_arms_stage_compares_with_that_arms_own_earlier_result(tmp_path):
    go(toy_plan(tmp_path, like_base=1, other=5))
    reasons = {step.node.label: step.reason for step in toy_plan(tmp_path, like_base=1, other=6)}
    assert reasons["shared"] == "cached"
    assert reasons["shared[other]"] == "value 5 → 6"
    assert reasons["arm[other]"] == "shared changed"
    assert reasons["all"] == "arm[other] changed"
    new = {step.node.label: step.reason for step in toy_plan(tmp_path, like_base=1, other=5, third=9)}
    assert new["shared[third]"] == new["arm[third]"] == "new"


def test_what_does_not_need_a_failed_step_still_runs(tmp_path):
    ended, failed, behind = go(toy_plan(tmp_path, good=2, bad=-1))
    assert set(failed) == {"shared[bad]"}
    assert set(behind) == {"shared[bad]", "arm[bad]", "all"}
    assert len(set(map(id, behind.values()))) == 1  # each with the error behind it
    assert set(ended) == {"shared", "shared[good]", "arm[good]"}


def broken(tmp_path, monkeypatch, *, fails):
    """`run_steps` over the real stages of the recipe with work that only says whether it can be done."""
    context, ran, told = context_of(tmp_path), [], []

    def work(stage, job):
        if fails(stage, job.recipe):
            raise DataError("does not work", where=stage.name, hint="change it")
        ran.append(stage.label)
        return {"failed": dict(getattr(stage, "failed", ()))}

    steps = plan(context, [Evaluate()])
    for kind in {type(step.node.stage) for step in steps}:
        monkeypatch.setattr(kind, "run", work)
        monkeypatch.setattr(kind, "reads_texts", False)  # there are no samples to look at
    rest = run_steps(
        context, steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
        on_failure=lambda step, error: told.append(step.node.label),
    )  # fmt: skip
    return rest, ran, told


def test_a_comparison_goes_on_without_the_arms_that_failed(tmp_path, monkeypatch):
    def fails(stage, recipe):
        return stage.name == "match" and recipe.match.search.type == "random"

    rest, ran, told = broken(tmp_path, monkeypatch, fails=fails)
    assert told == ["match[random]"]
    assert rest[-1].node.stage.failed == (("random", "match: does not work; next: change it"),)
    assert "predict[random seed=2024]" not in rest[-1].node.needs
    assert {"predict[two seed=2024]", "baseline[popularity seed=2024]"} <= rest[-1].node.needs.keys()
    assert ran.count("evaluate") == 1


def test_arms_that_share_a_failed_result_are_all_named(tmp_path, monkeypatch):
    rest, _, told = broken(
        tmp_path, monkeypatch, fails=lambda stage, recipe: stage.name == "train-rec" and stage.arm == "none"
    )
    assert told == ["train-rec[none seed=2024]"]
    assert [arm for arm, _ in rest[-1].node.stage.failed] == ["none", "same as none"]


def test_nothing_left_to_compare_is_the_first_error(tmp_path, monkeypatch):
    with pytest.raises(LlmcfError, match="does not work"):
        broken(tmp_path, monkeypatch, fails=lambda stage, recipe: stage.name == "ingest")


def test_another_target_than_the_comparison_fails_at_once(tmp_path, monkeypatch):
    context = context_of(tmp_path)
    steps = plan(context, [Predict("none", 2024)])

    def work(stage, job):
        raise DataError("does not work")

    monkeypatch.setattr(type(steps[0].node.stage), "run", work)
    with pytest.raises(DataError, match="does not work"):
        run_steps(context, steps, SILENT, on_start=lambda s: None, on_end=lambda s, m: None,
                  on_failure=lambda s, e: pytest.fail("told instead of raised"))  # fmt: skip


def test_every_need_has_its_stages_and_an_unknown_one_is_named():
    made_by = {
        "text": ["embed"], "collaborative": ["collab"], "signals": ["embed", "collab"],
        "examples": ["embed", "examples", "match"], "knowledge": ["knowledge"], "teacher": ["teacher"],
        "events": [],
    }  # fmt: skip
    assert list(made_by) == [component.name for component in registry().of_kind("input")]
    for need, stages in made_by.items():
        assert [stage.name for stage in component_stages(frozenset({need}))] == ["ingest", *stages]
    everything = component_stages(frozenset(made_by))
    assert len({type(stage) for stage in everything}) == len(everything)
    with refused("unknown-name", UnknownNameError) as caught:
        component_stages(frozenset({"text", "exampels"}))
    assert caught.value.closest == "examples"


def test_baselines_are_measured_once_and_arms_once_per_seed(tmp_path):
    recipe = context_of(tmp_path, changes=["rec.seeds=[7,8]"]).recipe
    assert [(stage.arm, stage.seed) for stage in measured_stages(recipe)] == [
        ("popularity", 7),
        *((arm, seed) for arm in ("none", "ict", "random", "two", "same as none") for seed in (7, 8)),
    ]


SERVED = "{type: openai, model: some-model, base_url: 'http://localhost:8000/v1'}"


def test_a_model_that_others_serve_is_not_tuned_first(tmp_path):
    found = nodes(tmp_path, changes=[f"cot.engine={SERVED}"])
    assert "train-llm" not in found
    assert set(found["gen-cot"].needs) == {"ingest"}
    keys = {found["gen-cot"].key}
    for other in (SERVED.replace("localhost", "elsewhere"), SERVED.replace("some-model", "other-model")):
        keys.add(nodes(tmp_path, changes=[f"cot.engine={other}"])["gen-cot"].key)
    assert len(keys) == 3


def test_texts_are_known_by_server_and_model():
    def digest(**changes):
        engine = OpenAIEngineConfig(**{"model": "m", "base_url": "http://a/v1", **changes})
        return writing_model(None, {}, {}, engine).name

    assert len({digest(), digest(model="n"), digest(base_url="http://b/v1")}) == 3
    assert digest() == digest(base_url="http://a/v1/", concurrency=2)


def test_an_engine_gets_the_paths_of_its_files_alone(tmp_path):
    class Locate:
        def path(self, ref):
            return tmp_path / ref.removeprefix("asset:")

    served = OpenAIEngineConfig(model="asset:m", base_url="http://localhost/v1", tokenizer="asset:m")
    local = with_local_files(served, Locate())
    assert (local.model, local.tokenizer) == ("asset:m", str(tmp_path / "m"))
    plain = served.model_copy(update={"tokenizer": None})
    assert with_local_files(plain, Locate()) == plain


@pytest.mark.parametrize("engine", ["facts", "transformers"])
def test_a_prompt_determines_the_texts_of_engines_that_read_it_alone(tmp_path, engine):
    keys = [
        nodes(tmp_path, changes=(f"cot.engine={engine}", f"cot.prompt=prompts/{name}.yaml"))["gen-cot"].key
        for name in ("single", "no_label")
    ]
    assert (len(set(keys)) == 1) is (engine == "facts")
