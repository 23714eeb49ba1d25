"""The graph of abilities: one base model for all mixes, a model per point, and keys that no name is in."""

from refusals import refused

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.ability import EvalLLM
from llmcf_cli.stages.steps.balance import Balance
from llmcf_cli.store.artifacts import ArtifactStore


class _Locate:
    def digest(self, ref):
        return f"content of {ref}"


def nodes(tmp_path, stage, *changes):
    recipe = load_recipe("quickstart", changes).recipe
    context = Context(recipe=recipe, store=ArtifactStore(tmp_path), locate=_Locate(), models=tmp_path)
    return {step.node.label: step.node for step in plan(context, [stage])}


def test_the_base_model_is_asked_once_whatever_the_mix(tmp_path):
    before = nodes(tmp_path, EvalLLM())
    for change, other in (
        ("llm.count=60", {"train-llm", "ability[tuned]", "eval-llm"}),
        ("llm.tune.learning_rate=1.0e-4", {"train-llm", "ability[tuned]", "eval-llm"}),
        ("ability.count=50", {"ability[base]", "ability[tuned]", "eval-llm"}),
        ("ability.batch_tokens=512", set()),
        ("llm.mix.0.source.max_history=3", {"train-llm", "ability[base]", "ability[tuned]", "eval-llm"}),
    ):
        after = nodes(tmp_path, EvalLLM(), change)
        assert {label for label in before if before[label].key != after[label].key} == other, change


def test_the_models_of_eval_llm_are_those_of_the_sweep(tmp_path):
    alone = nodes(tmp_path, EvalLLM())
    sweep = nodes(tmp_path, Balance(), "balance={shares: [0.0, 1.0], amounts: [0.5]}")
    for label, own in (("ability[base]", "ability[base]"), ("ability[tuned]", "ability[mixed 0.5]")):
        assert alone[label].key == sweep[own].key
    assert alone["train-llm"].key == sweep["train-llm"].key
    assert sum(label.startswith("train-llm") for label in sweep) == 4
    assert sum(label.startswith("ability") for label in sweep) == 5
    assert sum(label.startswith("ingest") for label in sweep) == 1


def test_a_recipe_without_the_section_cannot_be_swept(tmp_path):
    with refused("section-missing", LlmcfError):
        nodes(tmp_path, Balance())
