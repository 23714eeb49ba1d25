"""`llmcf recipe`: list, show, check and describe recipes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcf_cli.core.errors import LlmcfError, RecipeError

if TYPE_CHECKING:
    from llmcf_cli.recipe.load import LoadedRecipe

app = typer.Typer(no_args_is_help=True)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a library recipe.")]
RecipeNames = Annotated[list[str], typer.Argument(metavar="RECIPE...", help="YAML files or names of library recipes.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. match.k=6. Repeatable."),
]


@app.command("list")
def list_() -> None:
    """List the recipes that come with llmcf."""
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.recipe.library import library_recipes

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it does")
    for found in library_recipes():
        table.add_row(found.name, found.description)
    console().print(table)


@app.command()
def show(
    recipe: RecipeName,
    set_: Overrides = None,
    format_: Annotated[
        Literal["origins", "yaml"],
        typer.Option("--format", help="`origins` notes where each value comes from; `yaml` is the recipe alone."),
    ] = "origins",
) -> None:
    """Print a recipe as it resolves: what it extends, `--set` and all defaults."""
    from llmcf_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, set_ or ())
    typer.echo(_with_origins(loaded) if format_ == "origins" else _yaml(loaded), nl=False)


@app.command()
def validate(recipes: RecipeNames, set_: Overrides = None) -> None:
    """Check recipes and the assets they name; every problem is reported, with its place."""
    from llmcf_cli.recipe.load import load_recipe

    problems: list[LlmcfError] = []
    for name in recipes:
        try:
            loaded = load_recipe(name, set_ or ())
            missing = _check_references(loaded)
        except RecipeError as error:
            problems.extend(error.problems)
            continue
        typer.echo(f"ok: {name}")
        for problem in missing:
            typer.echo(f"  note: {problem.what}")
    if problems:
        raise RecipeError(problems, hint="see docs/recipe-reference.md, or: llmcf recipe show RECIPE")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors; installed plugins' components included."""
    from llmcf_cli.recipe.jsonschema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Where to write recipe-reference.md and recipe.schema.json.")] = Path(
        "docs"
    ),
) -> None:
    """Write the generated reference page and JSON Schema of the built-in components."""
    from llmcf_cli.recipe.reference import write_reference

    for path in write_reference(folder):
        typer.echo(f"wrote {path}")


def _check_references(loaded: LoadedRecipe) -> list[LlmcfError]:
    """Files that are not there; what no run could mend is raised: an asset of no catalogue, a prompt that is wrong."""
    from llmcf_cli.core.errors import UnknownNameError
    from llmcf_cli.core.types import file_refs
    from llmcf_cli.recipe.library import library_dir
    from llmcf_cli.recipe.prompt import prompt_problems
    from llmcf_cli.store.assets import Locator, open_assets

    locate = Locator(loaded.base, open_assets(library_dir(), loaded.base), loaded.roots)
    found = locate.check(file_refs(loaded.recipe))
    unknown = [problem for problem in found if isinstance(problem, UnknownNameError)]
    if unknown:
        for problem in unknown:
            problem.where = problem.where or str(loaded.path)
        raise RecipeError(unknown)
    if not found:
        recipe = loaded.recipe
        wrong = prompt_problems([section for section in (recipe.cot, recipe.knowledge) if section], locate.path)
        if wrong:
            raise RecipeError(wrong)
    return found


def _yaml(loaded: LoadedRecipe) -> str:
    from llmcf_cli.recipe.yamlfile import dump_yaml

    return dump_yaml(_data(loaded))


def _with_origins(loaded: LoadedRecipe) -> str:
    """The recipe as YAML with the origin of each line's value as a comment; still loadable."""
    from llmcf_cli.recipe.yamlfile import dump_lines

    lines = [
        (text, str(loaded.origins[key]) if key in loaded.origins else "") for text, key in dump_lines(_data(loaded))
    ]
    width = min(max((len(text) for text, _ in lines), default=0), 60)
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def _data(loaded: LoadedRecipe) -> Any:
    return loaded.recipe.model_dump(mode="json")
