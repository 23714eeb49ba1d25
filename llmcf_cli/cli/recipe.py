"""`llmcf recipe`: list, show, check, describe, lock and share recipes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcf_cli.cli import recipe_lock, recipe_own, recipe_share
from llmcf_cli.cli.completing import recipe_names, settings
from llmcf_cli.cli.opening import AllowReadOption, allow
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption
from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.text import visible

if TYPE_CHECKING:
    from llmcf_cli.recipe.load import LoadedRecipe

app = typer.Typer(no_args_is_help=True)

RecipeName = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a library recipe.", autocompletion=recipe_names),
]
RecipeNames = Annotated[
    list[str],
    typer.Argument(metavar="RECIPE...", help="YAML files or names of library recipes.", autocompletion=recipe_names),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value, e.g. match.k=6. Repeatable.", autocompletion=settings
    ),
]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the recipes that come with llmcf and with plugins."""
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.recipe.load import library_recipes

    if as_json:
        print_json([
            {"name": found.name, "description": found.description, "origin": found.origin}
            for found in library_recipes()
        ])  # fmt: skip
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it does")
    table.add_column("comes with")
    for found in library_recipes():
        table.add_row(found.name, found.description, found.origin)
    console().print(table)


@app.command()
def show(
    recipe: RecipeName,
    set_: Overrides = None,
    format_: Annotated[
        Literal["origins", "yaml"],
        typer.Option("--format", help="`origins`: with comments on where each value comes from; `yaml`: without."),
    ] = "origins",
) -> None:
    """Print a recipe in full: with what it extends, `--set` and all defaults."""
    from llmcf_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    typer.echo(_with_origins(loaded) if format_ == "origins" else _yaml(loaded), nl=False)


@app.command()
def validate(recipes: RecipeNames, set_: Overrides = None, allow_read: AllowReadOption = None) -> None:
    """Check recipes and the assets they name; report every problem with its place."""
    problems: list[LlmcfError] = []
    for name in recipes:
        allow(name, allow_read)
        try:
            wrong, notes = _check(name, set_ or ())
        except RecipeError as error:
            wrong, notes = list(error.problems), []
        problems += wrong
        typer.echo(f"wrong: {name}" if wrong else f"ok: {name}")
        for note in notes:
            typer.echo(visible("  note: " + "\n  ".join(str(note).splitlines())))
    if problems:
        raise RecipeError(problems, hint="see docs/recipe-reference.md, or run: llmcf recipe schema")


@app.command()
def inspect(recipe: RecipeName, set_: Overrides = None, artifacts: ArtifactsOption = None) -> None:
    """Show what a recipe would read, fetch, send, write and run, before you run it."""
    from llmcf_cli.cli.recipe_inspect import print_access
    from llmcf_cli.recipe.load import check_recipe
    from llmcf_cli.stages.look.access import access_of
    from llmcf_cli.stages.pipeline import artifact_root

    found = check_recipe(recipe, set_ or ())
    print_access(access_of(found, artifact_root(artifacts)), recipe)
    if found.problems:
        raise RecipeError(found.problems, hint="correct the recipe first: it may do more than is shown here")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors; includes the components of installed plugins."""
    from llmcf_cli.recipe.jsonschema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Folder for recipe-reference.md and recipe.schema.json.")] = Path(
        "docs"
    ),
) -> None:
    """Write the generated reference page and JSON Schema of the built-in components."""
    from llmcf_cli.recipe.reference import write_reference

    for path in write_reference(folder):
        typer.echo(f"wrote {path}")


for _name, _command in (
    ("new", recipe_own.new), ("copy", recipe_own.copy),
    ("lock", recipe_lock.lock), ("verify", recipe_lock.verify), ("diff", recipe_lock.diff),
    ("export", recipe_share.export), ("import", recipe_share.import_),
    ("push", recipe_share.push), ("pull", recipe_share.pull), ("search", recipe_share.search),
):  # fmt: skip
    app.command(_name)(_command)


def _check(name: str, overrides: Sequence[str]) -> tuple[list[LlmcfError], list[LlmcfError]]:
    """What is wrong with a recipe and what it names, and notes on what is not here."""
    from llmcf_cli.recipe.load import check_recipe
    from llmcf_cli.recipe.problems import in_order
    from llmcf_cli.stages.files import file_problems, locator_of

    recipe = check_recipe(name, overrides)
    found = file_problems(recipe.root, locator_of(recipe))
    return in_order([*recipe.problems, *found.wrong]), [*found.missing, *found.unchecked]


def _yaml(loaded: LoadedRecipe) -> str:
    from llmcf_cli.core.yamlfile import dump_yaml

    return dump_yaml(_data(loaded))


def _with_origins(loaded: LoadedRecipe) -> str:
    """The recipe as YAML with the origin of each line's value as a comment; still loadable."""
    from llmcf_cli.core.yamlfile import dump_lines

    lines = [
        (text, visible(str(loaded.origins[key])) if key in loaded.origins else "")
        for text, key in dump_lines(_data(loaded))
    ]
    width = min(max((len(text) for text, _ in lines), default=0), 60)
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def _data(loaded: LoadedRecipe) -> Any:
    return loaded.recipe.model_dump(mode="json")
