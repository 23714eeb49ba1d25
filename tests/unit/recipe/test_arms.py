"""Arms are recipes: the base with the values of the arm, and nothing else of the comparison."""

import pytest
from pydantic import ValidationError
from refusals import refused

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.load import load_recipe

TEXT = """\
extends: quickstart
name: arms
rec:
  augment: {type: ict, dropout: 0.1}
  compare: [none, text, {type: ict, dropout: 0.1}]
  variants:
    - {name: eight, set: {match.k: 8, rec.fit: {epochs: 3}}, meaning: more examples}
    - {name: other backbone, set: {rec.backbone: din, rec.augment: none}}
  seeds: [1, 2]
"""


@pytest.fixture
def recipe(tmp_path):
    return load(tmp_path, TEXT)


def load(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path).recipe


def test_arms_come_in_the_order_of_the_tables(recipe):
    assert list(recipe.arms) == ["none", "text", "ict dropout=0.1", "eight", "other backbone"]
    assert recipe.seeds == (1, 2)


def test_an_arm_differs_in_what_it_sets_alone(recipe):
    eight = recipe.arms["eight"]
    assert (eight.match.k, eight.rec.fit.epochs) == (8, 3)
    assert eight.rec.fit.batch_size == recipe.rec.fit.batch_size
    assert eight.rec.augment == recipe.rec.augment
    assert recipe.arms["other backbone"].rec.backbone.type == "din"
    assert (eight.rec.compare, eight.rec.variants, eight.rec.baselines) == ((), (), ())


def test_an_arm_seen_as_a_recipe_is_itself(recipe):
    arm = recipe.arms["text"]
    assert arm.arms["text"] == arm


def test_mistakes_in_a_variant_are_found_with_the_recipe(tmp_path):
    broken = TEXT.replace("match.k: 8", "match.kk: 8").replace("rec.backbone: din", "rec.backbone: dinn")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, broken)
    text = str(caught.value)
    assert "r.yaml:7: arm 'eight'" in text
    assert "did you mean `match.k`" in text
    assert "arm 'other backbone'" in text
    assert 'did you mean "din"' in text


def test_two_arms_of_one_name_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"problem") as caught:
        load(tmp_path, TEXT.replace("name: eight", "name: text"))
    assert "two arms of the comparison are named 'text'" in str(caught.value)


def test_changes_merge_sections_and_replace_other_components(recipe):
    changed = recipe.with_changes({"rec.augment": {"type": "ict", "heads": 4}, "match.search": "exact"})
    assert (changed.rec.augment.heads, changed.rec.augment.dropout) == (4, 0.1)
    other = recipe.with_changes({"rec.augment": {"type": "text", "dim": 8}})
    assert other.rec.augment.model_dump(exclude={"type", "features"}) == {"dim": 8, "hidden": (64,), "dropout": 0.0}
    with pytest.raises(ValidationError):
        recipe.with_changes({"rec.fit.epoch": 3})


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{trials: 2, space: {match.k: {low: 2, high: 8}}}", "not in rec.fit, rec.backbone or rec.augment"),
        ("{trials: 2, space: {rec.fit.learning_rate: {low: 0, high: 1, log: true}}}", "log needs a positive low"),
        ("{trials: 2, space: {rec.fit.learning_rate: {low: 2, high: 1}}}", "not below"),
        ("{trials: 2, space: {rec.fit.learning_rate: {low: 2}}}", "either low and high, or choices"),
        ("{trials: 2, space: {rec.fit.learning_rat: {low: 1, high: 2}}}", "no arm of the comparison has this setting"),
        ("{trials: 2, space: {rec.fit.epochs: {low: 1.5, high: 2}}}", "arm 'none' cannot take 1.5"),
        ("{trials: 2, space: {rec.backbone.dropout: {choices: [0, 2]}}}", "arm 'other backbone' cannot take 2"),
        ("{trials: 2, space: {rec.augment.heads: {low: 0, high: 2}}}", "arm 'eight' cannot take 0"),
    ],
)
def test_a_search_says_what_is_wrong_with_it(tmp_path, search, message):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TEXT + f"search: {search}\n")
    assert message in str(caught.value)
    assert "r.yaml:" in str(caught.value)


def test_references_are_arms(tmp_path):
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, TEXT + "  references: [none, eihgt]\n")
    assert "r.yaml:10: rec.references.1: 'eihgt' is not an arm of the comparison; did you mean 'eight'?" in str(
        caught.value
    )
    assert load(tmp_path, TEXT + "  references: [none, eight]\n").rec.references == ("none", "eight")


@pytest.mark.parametrize(("control_of", "named"), [("txt", "text"), ("eight", "other backbone")])
def test_a_control_is_one_of_another_arm(tmp_path, control_of, named):
    text = TEXT.replace("meaning: more examples", "control_of: text")
    assert load(tmp_path, text).rec.variants[0].control_of == "text"
    with refused("rule-broken", RecipeError, names=named):
        load(tmp_path, text.replace("control_of: text", f"control_of: {control_of}"))


def test_the_arm_to_serve_may_be_named_beside_others():
    recipe = load_recipe("quickstart", ["serve.arm=ict"]).recipe
    assert recipe.serve.arm == "ict"
    assert len(recipe.arms) > 1
    assert all(arm.serve.arm is None for arm in recipe.arms.values())


def test_a_comparison_has_the_arms_that_it_names(tmp_path):
    """Whatever augmenter an extended recipe has: nobody asked for it."""
    named = load(tmp_path, "extends: quickstart\nname: own\nrec: {compare: [none, text]}\n")
    assert list(named.arms) == ["none", "text"]
    assert list(load(tmp_path, "extends: quickstart\nname: own\nrec: {compare: [], augment: text}\n").arms) == ["text"]
