"""The sweep `balance` as points: which mixes there are, how many samples each has, and what cannot be swept."""

import pytest

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.load import load_recipe

RECIPE = """\
extends: quickstart
name: sweep
llm:
  mix:
    - {source: {type: recommendation, max_history: 7}, share: 0.4}
    - {source: {type: jsonl, path: a.jsonl}, share: 0.45}
    - {source: {type: jsonl, path: b.jsonl}, share: 0.15}
  count: 100
balance: {shares: [0.0, 0.4, 1.0], amounts: [0.5, 1.0]}
"""


def recipe(tmp_path, text=RECIPE, *changes):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").touch()
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "r.yaml", changes).recipe


def test_every_share_has_all_samples_and_every_amount_the_general_ones(tmp_path):
    found = recipe(tmp_path).points
    sizes = {name: (point.recommendation, point.general) for name, point in found.items()}
    assert sizes == {
        "mixed 0.4": (40, 60), "general only": (0, 100), "recommendation only": (100, 0),
        "mixed 0.4, 50 % of the data": (20, 60),
    }  # fmt: skip


def test_a_point_is_a_recipe_whose_mix_gives_its_samples(tmp_path):
    whole = recipe(tmp_path)
    for name, point in whole.points.items():
        at = whole.at(name)
        assert at.balance is None
        counts = [(part.source.type, round(part.share * at.llm.count, 6)) for part in at.llm.mix]
        assert sum(n for kind, n in counts if kind == "recommendation") == point.recommendation
        assert sum(n for kind, n in counts if kind == "jsonl") == pytest.approx(point.general)
        assert at.ability.question.max_history == 7, "asked the same, whatever the mix"
    general = [part.share for part in whole.at("general only").llm.mix]
    assert general == pytest.approx([0.75, 0.25]), "in proportion"


def test_the_recipes_own_mix_is_the_first_point_and_unchanged(tmp_path):
    whole = recipe(tmp_path)
    first = next(iter(whole.points))
    assert whole.at(first).llm == whole.llm
    assert recipe(tmp_path, RECIPE, "llm.count=101").at(first).llm.count == 101


def test_a_recipe_without_the_section_has_no_points(tmp_path):
    assert recipe(tmp_path, RECIPE[: RECIPE.index("balance")]).points == {}


@pytest.mark.parametrize(("changes", "message"), [
    (["llm.count=null"], "balance needs llm.count"),
    (["llm.count=1"], "leaves no recommendation sample"),
    (["ability.split=test"], "must not choose by the test split"),
    (["balance.shares=[1.5]"], "1.5"),
    (["llm.mix=[{source: {type: recommendation}, share: 1}]"], "no general source"),
    (["llm.mix=[{source: {type: jsonl, path: a.jsonl}, share: 1}]"], "no recommendation source"),
])  # fmt: skip
def test_what_cannot_be_swept_is_said_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, RECIPE, *changes)
