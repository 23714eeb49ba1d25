"""`llmcf recipe new` and `copy`: a recipe of one's own that begins from another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.opening import AllowReadOption, allow

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="File to write, e.g. mine.yaml.")]


def new(
    file: FileArgument,
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RECIPE",
            help="Recipe to extend: a library recipe, or a file.",
            autocompletion=recipe_names,
        ),
    ] = "quickstart",
) -> None:
    """Write a recipe that extends another, with everything it may change as comments."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.share.own import extend_recipe

    target = extend_recipe(load_recipe(from_), file)
    console().print(f"wrote {target}, which extends {from_}", soft_wrap=True)
    console().print(f"next: llmcf recipe validate {target}", soft_wrap=True)


def copy(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A YAML file, or the name of a library recipe.", autocompletion=recipe_names
        ),
    ],
    file: FileArgument,
    allow_read: AllowReadOption = None,
) -> None:
    """Write a recipe and everything it extends as one file, with its prompts beside it; data stay where they are."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.files import locator_of
    from llmcf_cli.stages.share.own import copy_recipe

    allow(recipe, allow_read)
    loaded = load_recipe(recipe)
    copied = copy_recipe(loaded, locator_of(loaded), file)
    for written in (copied.recipe, *copied.prompts):
        console().print(f"wrote {written}", soft_wrap=True)
    for left in copied.elsewhere:
        what = f"! {left.where}: {left.name} is beside the original; copy it to {copied.recipe.parent}"
        console().print(what, style="yellow", soft_wrap=True)
    console().print(f"next: llmcf recipe validate {copied.recipe}", soft_wrap=True)
