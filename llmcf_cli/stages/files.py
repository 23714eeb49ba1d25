"""What is wrong with the files, prompts and texts that a recipe names, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmcf_cli.core.errors import LlmcfError, RecipeError, UnknownNameError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.tree import Node, child, nearest, origins, plain
from llmcf_cli.core.types import ComponentConfig, PromptRef, file_refs
from llmcf_cli.data.sources.config import Times
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import WrittenRecipe
from llmcf_cli.recipe.prompt import Prompt, check_knows, load_prompt
from llmcf_cli.recipe.references import Reference, references_of
from llmcf_cli.stages.remembered import Found, remembered
from llmcf_cli.store.assets import Locator, open_assets


@dataclass
class FileProblems:
    """What was found, each with its file, line and key path.

    Attributes:
        wrong: What no run can mend: an asset of no catalogue, a prompt that is wrong, columns that the data
            set has not, data that cannot be read.
        missing: Files that are not there, or not yet.
        unchecked: What cannot be told yet, and what the beginning of the data shows that a user may not expect.
    """

    wrong: list[LlmcfError] = field(default_factory=list)
    missing: list[LlmcfError] = field(default_factory=list)
    unchecked: list[LlmcfError] = field(default_factory=list)


def file_problems(root: Node, locate: Locator) -> FileProblems:
    """Check all that a recipe and its variants name. Nothing is fetched; what is not here is not looked into.

    Args:
        root: The recipe as written, right or wrong.
        locate: What its references mean.
    """
    found = FileProblems()
    prompts: dict[str, Prompt | None] = {}
    for reference in references_of(root):
        problems = locate.check([reference.name])
        for problem in problems:
            problem.where = reference.where
            (found.wrong if isinstance(problem, UnknownNameError) else found.missing).append(problem)
        if not problems and reference.prompt is not None and locate.is_here(reference.name):
            found.wrong += _prompt_problems(reference, reference.prompt, locate, prompts)
    _check_columns(root, locate, found)
    return found


def locator_of(recipe: WrittenRecipe, progress: Progress = SILENT) -> Locator:
    """What a recipe's references mean: files that it may read, and the assets of its catalogue and the library's.

    Args:
        recipe: The recipe, right or wrong.
        progress: Told about fetches that reading starts.

    Raises:
        RecipeError: A catalogue is wrong.
    """
    assets = open_assets(library_dir(), recipe.base)
    return Locator(recipe.base, assets, recipe.roots, allowed=recipe.readable, progress=progress)


def _prompt_problems(
    reference: Reference, kind: PromptRef, locate: Locator, known: dict[str, Prompt | None]
) -> Sequence[LlmcfError]:
    """What is wrong with a prompt, and with its use; `known` keeps those that were read, None for a wrong one."""
    if reference.name not in known:
        known[reference.name] = None
        try:
            known[reference.name] = load_prompt(locate.path(reference.name))
        except RecipeError as error:
            return error.problems
    prompt = known[reference.name]
    try:
        if prompt is not None and kind.knows:
            check_knows(prompt, kind.knows, reference.where)
    except LlmcfError as error:
        return [error]
    return []


def _check_columns(root: Node, locate: Locator, found: FileProblems) -> None:
    """Whether the data set can be read and has the columns that the recipe names, as far as its beginning shows."""
    dataset = plain(root).get("dataset")
    written = dataset if isinstance(dataset, dict) else {}
    config, times = _source(written.get("source"))
    if config is None or locate.check(file_refs(config)):
        return
    absent = [name for name in file_refs(config) if not locate.is_here(name)]
    if absent:
        place = ("dataset", "text") if written.get("text") else ("dataset", "source")
        where = nearest(root, place).origin.place("dataset")
        what = f"its columns are not checked: {absent[0]} has not been fetched yet"
        hint = f"llmcf assets fetch {absent[0].removeprefix('asset:').partition('/')[0]}"
        found.unchecked.append(LlmcfError(what, code="columns-unchecked", where=where, hint=hint))
        return

    def check() -> Found:
        from llmcf_cli.stages.columns import column_problems

        return column_problems(root, written, config, times, locate.path)

    asked = [
        _origin(config),
        plain(root)["dataset"],
        {key: str(at) for key, at in origins(dataset, child(root, "dataset")).items()},
    ]
    wrong, notes = remembered(asked, _files(config, locate), check)
    found.wrong += wrong
    found.unchecked += notes


def _files(config: ComponentConfig, locate: Locator) -> Iterator[Path]:
    """What a source may read: what it names, and what stands beside that under the same name."""
    for path in map(locate.path, file_refs(config)):
        yield from (
            sorted(path.rglob("*")) if path.is_dir() else sorted({path, *path.parent.glob(f"{escape(path.stem)}.*")})
        )


def _origin(config: ComponentConfig) -> str:
    return registry().get("source", config.type).origin


def _source(written: Any) -> tuple[ComponentConfig | None, bool]:
    """The settings of a data set's source, and whether those of its times are as written.

    Wrong settings of times are left out: the recipe's own check tells of them, and columns can be checked without them.
    None where others are wrong.
    """
    if not isinstance(written, dict):
        written = {"type": written}
    try:
        schema = registry().get("source", str(written.get("type"))).config()
    except UnknownNameError:
        return None, False
    try:
        return schema.model_validate(written), True
    except ValidationError as error:
        places = {item["loc"] for item in error.errors()}
    columns = written.get("columns")
    if not isinstance(columns, dict) or not places <= {("columns", name) for name in Times.model_fields}:
        return None, False
    sound = {name: value for name, value in columns.items() if ("columns", name) not in places}
    try:
        return schema.model_validate({**written, "columns": sound}), False
    except ValidationError:
        return None, False
