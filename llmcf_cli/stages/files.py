"""What is wrong with the files, prompts and texts that a recipe names, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from llmcf_cli.core.errors import LlmcfError, RecipeError, UnknownNameError
from llmcf_cli.core.place import Place
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.tree import Node, nearest, plain, text_origin
from llmcf_cli.core.types import ComponentConfig, PromptRef, file_refs
from llmcf_cli.data.entities import RESERVED
from llmcf_cli.data.features import feature_problem, kind_problem
from llmcf_cli.data.preview import look
from llmcf_cli.data.raw import Entity, RawData, Role
from llmcf_cli.data.shape import reshape
from llmcf_cli.data.sources.config import Times
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.features import DeriveSection, Feature, FilterSection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import WrittenRecipe
from llmcf_cli.recipe.prompt import Prompt, check_knows, load_prompt
from llmcf_cli.recipe.references import Reference, references_of
from llmcf_cli.recipe.sections import DatasetSection
from llmcf_cli.recipe.template import template_problems
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
    text = written.get("text")
    texts: dict[str, Any] = text if isinstance(text, dict) else {}
    config, times = _source(written.get("source"))
    if config is None or locate.check(file_refs(config)):
        return
    absent = [name for name in file_refs(config) if not locate.is_here(name)]
    if absent:
        place = ("dataset", "text") if texts else ("dataset", "source")
        where = nearest(root, place).origin.place("dataset")
        what = f"its columns are not checked, as {absent[0]} is not fetched yet"
        hint = f"llmcf assets fetch {absent[0].removeprefix('asset:').partition('/')[0]}"
        found.unchecked.append(LlmcfError(what, code="columns-unchecked", where=where, hint=hint))
        return
    shape, derived = _shaping(root, written)
    limit = written.get("max_bad_rows")
    seen = look(
        config, locate.path, shape, derived=derived, times=times,
        max_bad_rows=limit if isinstance(limit, int | float) else DatasetSection.model_fields["max_bad_rows"].default,
    )  # fmt: skip
    found.wrong += seen.wrong
    found.unchecked += seen.notes
    for entity, columns in seen.columns.items():
        if seen.whole[entity]:
            found.wrong += _text_problems(root, entity, texts.get(entity), columns)
            found.wrong += _feature_problems(root, entity, written.get("features"), columns)


def _shaping(
    root: Node, written: Mapping[str, Any]
) -> tuple[Callable[[Any, RawData], RawData], dict[Role, tuple[str, ...]]]:  # fmt: skip
    """What derives and filters as the recipe says, and the columns that it derives."""
    given = written.get("derive")
    named: dict[str, Any] = given if isinstance(given, dict) else {}
    derived: dict[Role, tuple[str, ...]] = {
        role: tuple(map(str, named[role])) for role in get_args(Role) if isinstance(named.get(role), dict)
    }
    try:
        derive = DeriveSection.model_validate(named)
        kept = FilterSection.model_validate(written.get("filter") or {})
    except ValidationError:  # of which the recipe's own check tells

        def nothing(con: Any, raw: RawData) -> RawData:
            raise RecipeError(())

        return nothing, derived

    def of_expression(role: str, column: str | None) -> Place:
        return _place(root, "filter", role) if column is None else _place(root, "derive", role, column)

    return lambda con, raw: reshape(con, raw, derive, kept, place=of_expression), derived


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


def _text_problems(root: Node, entity: Entity, template: Any, columns: Mapping[str, str]) -> Iterator[LlmcfError]:
    """Unknown variables of a text; its form is the recipe's own matter."""
    if not isinstance(template, str):
        return
    origin = nearest(root, ("dataset", "text", entity)).origin
    for problem in template_problems(template, list(columns)):
        if problem.name:
            where = text_origin(origin, template, problem.line).place("dataset", "text", entity)
            hint = "" if columns else f"the data set has no columns of {entity}s"
            yield LlmcfError(problem.what, code="text-template", where=where, allowed=problem.allowed, hint=hint)


def _feature_problems(
    root: Node, entity: Entity, features: Any, columns: Mapping[str, str]
) -> Iterator[LlmcfError]:  # fmt: skip
    """Features that are no columns, or not of their kind; their form is the recipe's own matter."""
    chosen = features.get(entity) if isinstance(features, dict) else None
    for column, feature in chosen.items() if isinstance(chosen, dict) else ():
        if feature is None:  # takes away what an extended recipe declares
            continue
        where, name = _place(root, "features", entity, column), str(column)
        name = f"{name}_" if name.lower() in RESERVED[entity] and f"{name}_" in columns else name
        try:
            meant = TypeAdapter(Feature).validate_python(feature)
        except ValidationError:
            problem = feature_problem(name, list(columns), entity, where)
        else:
            problem = kind_problem(entity, name, meant, columns, where)
        if problem is not None:
            yield problem


def _place(root: Node, *path: str) -> Place:
    """File, line and key path of a setting of the data set."""
    return nearest(root, ("dataset", *path)).origin.place("dataset", *path)
