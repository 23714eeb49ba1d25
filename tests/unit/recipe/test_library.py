"""Finding recipes: which files of a library are recipes, and what is said about them."""

from llmcf_cli.recipe.library import library_dir, recipe_files
from llmcf_cli.recipe.load import library_recipes


def test_prompts_data_and_catalogues_are_no_recipes(write, tmp_path):
    for name in (
        "tiny.yaml",
        "sets/din.yaml",
        "prompts/single.yaml",
        "data/x.yaml",
        "accelerate/fsdp.yaml",
        "assets.yaml",
    ):
        write(name=name)
    assert recipe_files(tmp_path) == {"sets/din": tmp_path / "sets/din.yaml", "tiny": tmp_path / "tiny.yaml"}


def test_a_variant_inherits_its_description(write, tmp_path):
    write("name: a\ndescription: The base.\n", "a.yaml")
    write("extends: a.yaml\nname: b\n", "b.yaml")
    write("extends: a.yaml\ndescription: Its own.\n", "c.yaml")
    assert [(found.name, found.description) for found in library_recipes(tmp_path)] == [
        ("a", "The base."), ("b", "The base."), ("c", "Its own.")
    ]  # fmt: skip


def test_the_bundled_library_is_there():
    assert (library_dir() / "assets.yaml").is_file()
    assert "quickstart" in recipe_files(library_dir())
