"""What a recipe may hold at most: accepted at the limit, refused one past it."""

import pytest

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.core.yamlfile import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_ENTRIES, MAX_KEY, MAX_VALUES, read_yaml
from llmcf_cli.recipe.load import check_recipe

EXTENDS = "extends: quickstart\nname: x\n"


def lists(depth: int) -> str:
    return f"x: {'[' * depth}{']' * depth}\n"


def values(count: int) -> str:
    """So many values, the mapping and its lists among them."""
    inside = MAX_ENTRIES // 2
    full, rest = divmod(count - 1, inside + 1)
    sizes = [inside] * full + ([rest - 1] if rest else [])
    return "".join(f"k{n}: [{', '.join('1' * size)}]\n" for n, size in enumerate(sizes))


@pytest.mark.parametrize(
    ("fits", "past"),
    [
        ("x: 1\n#" + "c" * (MAX_BYTES - 6), "x: 1\n#" + "c" * (MAX_BYTES - 5)),
        (values(MAX_VALUES), values(MAX_VALUES + 1)),
        (f"x: [{', '.join('1' * MAX_ENTRIES)}]\n", f"x: [{', '.join('1' * (MAX_ENTRIES + 1))}]\n"),
        (lists(MAX_DEPTH - 1), lists(MAX_DEPTH + 1)),
        (f"{'k' * MAX_KEY}: 1\n", f"{'k' * (MAX_KEY + 1)}: 1\n"),
        (f"x: {'9' * MAX_DIGITS}\n", f"x: {'9' * (MAX_DIGITS + 1)}\n"),
    ],
    ids=["bytes", "values", "entries", "levels", "key", "number"],
)
def test_yaml(tmp_path, fits, past):
    path = tmp_path / "r.yaml"
    path.write_text(fits)
    read_yaml(path)
    path.write_text(past)
    with pytest.raises(RecipeError):
        read_yaml(path)


def problems(tmp_path, text: str) -> list[str]:
    (tmp_path / "r.yaml").write_text(EXTENDS + text)
    return [str(problem.where) for problem in check_recipe(tmp_path / "r.yaml").problems]


def variants(count: int) -> str:
    listed = ", ".join(f"{{name: v{n}, set: {{rec.fit.epochs: {n + 1}}}}}" for n in range(count))
    return f"rec: {{variants: [{listed}]}}\n"


@pytest.mark.parametrize(
    ("fits", "past"),
    [
        (f"rec: {{seeds: {list(range(100))}}}\n", f"rec: {{seeds: {list(range(101))}}}\n"),
        (f"rec: {{seeds: [{2**31 - 1}]}}\n", f"rec: {{seeds: [{2**31}]}}\n"),
        ("rec: {seeds: [0]}\n", "rec: {seeds: [-1]}\n"),
        (variants(100), variants(101)),
    ],
    ids=["seeds", "largest seed", "smallest seed", "variants"],
)
def test_lists_and_numbers(tmp_path, fits, past):
    assert problems(tmp_path, fits) == []
    assert problems(tmp_path, past)
