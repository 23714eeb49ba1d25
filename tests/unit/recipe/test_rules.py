"""Rules between fields: all that can be told beside fields that are wrong, and nothing that is not so."""

import pytest

from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.recipe.load import check_recipe, load_recipe
from llmcf_cli.recipe.words import WORDS

BROKEN = """\
extends: quickstart
name: broken
llm:
  mix:
    - {source: recommendation, share: 0.5}
    - {source: {type: parquet, path: a.parquet}, share: 0.4}
match: {k: 3}
cot: {sample: {count: 5, fraction: 0.1}}
rec:
  compare: [none, kar]
  references: [none, tekst]
"""
RULES = {
    "4: llm.mix": "the shares of llm.mix sum to 0.9, not 1",
    "7: match.k": "is 3, but balance: labels needs an even number",
    "8: cot.sample": "give either count or fraction",
    "10: rec.compare.1": "`kar` needs the section `knowledge`, but the recipe has none",
    "11: rec.references.1": "'tekst' is not an arm of the comparison",
}


def told(path, *overrides):
    """Place without the file → what."""
    found = check_recipe(path, overrides).problems
    return {str(problem.where).removeprefix(f"{path}:"): problem.what for problem in found}


def assert_rules(found, *but):
    for place, what in RULES.items():
        if place in but:
            assert place not in found
        else:
            assert found[place].startswith(what), place


def test_all_broken_rules_are_told_at_once(write):
    found = told(write(BROKEN))
    assert len(found) == len(RULES)
    assert_rules(found)


@pytest.mark.parametrize(
    ("override", "untold"),
    [
        ("llm.count=many", ()),
        ("llm.tune=ful", ()),
        ("rec.fit.epochs=x", ()),
        ("dataset=1", ()),
        ("match.balance=label", ("7: match.k",)),
        ("match.space.encoder=1", ()),
        ("cot.sample.count=x", ("8: cot.sample",)),
        ("llm.mix.0.share=x", ("4: llm.mix",)),
        ("llm={mix: []}", ("4: llm.mix",)),
        ("rec.augment=icc", ("10: rec.compare.1", "11: rec.references.1")),
        ("rec.variants=x", ("11: rec.references.1",)),
        ("knowledge=x", ("10: rec.compare.1",)),
        ("rec.references.0=1", ("11: rec.references.1",)),
    ],
)
def test_a_wrong_field_hides_no_rule_that_does_not_read_it(write, override, untold):
    found = told(write(BROKEN), override)
    assert any(place.startswith("--set") for place in found), "the field itself is told"
    assert_rules(found, *untold)


def test_knowledge_needs_prompts_where_a_language_model_writes_it():
    server = "type: openai, model: m, base_url: 'http://localhost:1/v1'"
    asked = f"knowledge={{engine: {{{server}}}, item_prompt: prompts/kar_item.yaml}}"
    ((place, what),) = told("planted/base", asked).items()
    assert place.endswith("knowledge.user_prompt")
    assert "`openai` needs a prompt" in what
    for engine in ("facts", "planted"):
        assert not told("planted/base", f"knowledge={{engine: {engine}}}")


def test_an_unknown_key_hides_the_rules_of_the_key_it_was_meant_for(write):
    found = told(write(BROKEN.replace("count: 5, fraction", "cuont: 5, fractoin").replace("k: 3", "k: 3, zzz: 1")))
    assert "8: cot.sample" not in found
    assert_rules(found, "8: cot.sample")


def wrong_at_each_leaf(value, at=()):
    """(key path of a leaf, the data with something of no use there)."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not items:
        yield at, {"no": {"no": "thing"}}
    for key, below in items:
        for path, changed in wrong_at_each_leaf(below, (*at, key)):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = changed
            yield path, copy


def test_one_wrong_value_is_told_at_its_place_and_nowhere_else(write):
    recipe = load_recipe("quickstart").recipe.model_dump(mode="json")
    for path, data in wrong_at_each_leaf(recipe):
        found = told(write(dump_yaml(data), "wrong.yaml"))
        component = ".".join(map(str, path)).removesuffix(".type")
        assert found, path
        assert all(place.split(": ", 1)[1].startswith(component) for place in found), (path, found)


def test_a_balance_is_checked_beside_a_wrong_model(write):
    text = BROKEN + "balance: {shares: [0.5]}\nability: {split: test}\n"
    found = told(write(text.replace("share: 0.4}\n", "share: 0.5}\n  count: null\n")), "llm.model=1")
    assert "balance needs llm.count" in found["13: balance"]
    assert "must not choose by the test split" in found["14: ability.split"]


# ---- variants


def test_variants_are_checked_beside_a_wrong_recipe(write):
    path = write("extends: quickstart\nname: v\nrec:\n  variants:\n    - {name: odd, set: {match.k: 3}}\n")
    assert told(path, "rec.fit.epochs=x").keys() == {
        "5: arm 'odd': match.k", "--set rec.fit.epochs=x: rec.fit.epochs"
    }  # fmt: skip


def test_a_variant_without_a_name_is_told_by_its_place(write):
    path = write("extends: quickstart\nname: v\nrec:\n  variants:\n    - {set: {match.k: 3}}\n")
    assert told(path).keys() == {"5: rec.variants.0.name", "5: rec.variants.0: match.k"}


def test_settings_of_a_search_are_checked_beside_a_wrong_recipe(write):
    values = "{choices: [1, 2]}"
    space = f"{{rec.fit.lerning_rate: {values}, rec.augment.heads: {values}, rec.augment.hid: {values}}}"
    path = write(
        f"extends: quickstart\nname: s\nrec: {{compare: [none, ict]}}\nsearch: {{trials: 2, space: {space}}}\n"
    )
    found = told(path, "llm.count=x")
    assert found.keys() == {
        "4: search.space: rec.fit.lerning_rate", "4: search.space: rec.augment.hid", "--set llm.count=x: llm.count"
    }  # fmt: skip


# ---- lists


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("rec.seeds=[]", "must have at least 1 entry, found []"),
        ("rec.seeds=[1, 2, 1]", "repeats entry 0; list it only once"),
        ("rec.compare=[none, {type: text, dim: 8}, {type: text, dim: 8}]", "repeats entry 1; list it only once"),
        ("rec.variants=[{name: a, set: {seed: 1}}, {name: a, set: {seed: 2}}]", "has the same name as entry 0, 'a'"),
        ("rec.baselines=[popularity, {type: popularity}]", "has the same type as entry 0, 'popularity'"),
        ("rec.references=[none, none]", "repeats entry 0"),
        ("balance={shares: []}", "at least 1 entry"),
        ("balance={shares: [0.5, 0.5]}", "repeats entry 0"),
        ("balance={amounts: []}", "at least 1 entry"),
        ("balance={amounts: [0.5, 1, 0.5]}", "repeats entry 0"),
        ("ability.tasks=[]", "at least 1 entry"),
        ("ability.tasks=[piqa, piqa]", "repeats entry 0"),
        ("rec.objectives=[bce, bce]", "repeats entry 0"),
        ("cot.sample.stratify=[user, user]", "repeats entry 0"),
        ("dataset.source.multi=[class, class]", "repeats entry 0"),
    ],
)
def test_lists_that_say_nothing_or_the_same_twice(override, what):
    found = told("quickstart", override)
    assert any(what in problem for problem in found.values()), found
    assert all(place.startswith(f"--set {override}: {override.partition('=')[0]}") for place in found)


def test_the_default_of_seeds_is_the_recipes_own():
    recipe = load_recipe("quickstart", ["seed=5"]).recipe
    assert (recipe.rec.seeds, recipe.seeds) == (None, (5,))


# ---- templates


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{#age}}x", "{{#age}} is never closed"),
        ("x{{/age}}", "{{/age}} closes no open section"),
        ("{{.}}", "outside any section"),
        ("{{>age}}", "partials are not allowed"),
        ("{{age} years", "a tag begins with {{ and is never closed"),
        ("{{age} years, {{gender}}", "the tag {{age} years, {{gender is not closed by }}"),
        ("{{}}", "a tag has no name"),
    ],
)
def test_the_form_of_a_text_template_is_checked(write, template, what):
    path = write(f'extends: quickstart\nname: t\ndataset:\n  text:\n    user: "{template}"\n')
    assert what in told(path)["5: dataset.text.user"]


def test_a_template_of_several_lines_is_told_by_its_line(write):
    path = write(
        "extends: quickstart\nname: t\ndataset:\n  text:\n    item: |\n      {{movie_title}}\n      {{#class}}\n"
    )
    assert told(path) == {"7: dataset.text.item": "{{#class}} is never closed"}


def test_the_question_of_a_mix_knows_its_variables():
    found = check_recipe("quickstart", ["llm.mix.0.source.template=a {{itme}} {{#user}}"]).problems
    assert [problem.what for problem in found] == [
        'unknown variable "itme"; did you mean "item"?', "{{#user}} is never closed"
    ]  # fmt: skip
    assert found[0].allowed == ("history", "item", "user", *WORDS)
