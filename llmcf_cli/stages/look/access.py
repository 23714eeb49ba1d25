"""What a recipe would read, fetch, send, write and run, told before any of it happens. Nothing is opened or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmcf_cli.core.errors import AccessError, LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.place import Place
from llmcf_cli.core.types import file_refs, servers
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import CheckedRecipe
from llmcf_cli.recipe.references import references_of
from llmcf_cli.stages.engine.origins import plugins_of
from llmcf_cli.stages.files import locator_of
from llmcf_cli.store.assets import ASSET_PREFIX, CATALOGUE_FILE, Locator, cache_dir
from llmcf_cli.store.catalogue import HUB, PYPI, Asset, load_catalogue

DEFAULT = Place("default")

Source = Literal["package index", "model hub", "file"] | Host


@dataclass(frozen=True)
class Read:
    """A file or folder that is named.

    Attributes:
        name: As the recipe writes it.
        where: File, line and key path.
        path: What it means; None where it does not exist.
        problem: Why it cannot be read: not there, or not allowed; None where it can.
        outside: Whether it lies outside the recipe's folder.
    """

    name: str
    where: Place
    path: Path | None
    problem: LlmcfError | None
    outside: bool = False

    @property
    def refused(self) -> bool:
        """Whether the user's permission is all that is missing."""
        return isinstance(self.problem, AccessError)


@dataclass(frozen=True)
class Fetch:
    """An asset that is named.

    Attributes:
        asset: The asset, with its licence and size in bytes.
        where: File, line and key path.
        sources: Where its files come from.
        here: Whether it is fetched already.
        own: Whether the recipe's own catalogue declares it, rather than llmcf's.
    """

    asset: Asset
    where: Place
    sources: tuple[Source, ...]
    here: bool
    own: bool


@dataclass(frozen=True)
class Send:
    """A server that gets prompts, which are made of the data's texts, ids and histories.

    Attributes:
        host: The server.
        variable: Environment variable with the key that it gets; None: it gets none.
        allowed: Whether the user allowed it, or it is this machine.
    """

    host: Host
    variable: str | None
    allowed: bool


@dataclass(frozen=True)
class Access:
    """All of it, in the order of the recipe.

    Attributes:
        reads: Recipe files come first, then what they name.
        fetches: Assets.
        sends: Servers.
        writes: Folders that are written below, with what for.
        plugins: Component → where its code comes from, of those that are not built in.
    """

    reads: tuple[Read, ...]
    fetches: tuple[Fetch, ...]
    sends: tuple[Send, ...]
    writes: tuple[tuple[Path, str], ...]
    plugins: tuple[tuple[str, str], ...]

    @property
    def refused(self) -> bool:
        """Whether something needs the user's permission before it runs."""
        return any(read.refused for read in self.reads) or not all(send.allowed for send in self.sends)


def access_of(recipe: CheckedRecipe, artifacts: Path) -> Access:
    """What a recipe would do, variants included.

    Args:
        recipe: The recipe; of one that is wrong only what it writes out is known.
        artifacts: Artifact folder.

    Raises:
        RecipeError: A catalogue is wrong.
    """
    locate = locator_of(recipe)
    named: dict[str, Place] = {}
    for reference in references_of(recipe.root):
        named.setdefault(reference.name, reference.where)
    for name in file_refs(recipe.recipe):
        named.setdefault(name, DEFAULT)
    files = [Read(str(file), Place("recipe"), file, None) for file in recipe.files]
    assets = {name: where for name, where in named.items() if name.startswith(ASSET_PREFIX) and locate.knows(name)}
    return Access(
        reads=(*files, *(_read(name, where, locate) for name, where in named.items() if name not in assets)),
        fetches=tuple(_fetches(assets, locate)),
        sends=tuple(_sends(recipe)),
        writes=((artifacts, "artifacts"), (cache_dir(), "assets"), (cache_dir().parent / "models", "converted models")),
        plugins=tuple(dict(plugins_of(recipe.recipe)).items()),
    )


def _read(name: str, where: Place, locate: Locator) -> Read:
    try:
        return Read(name, where, locate.path(name), None, locate.is_outside(name))
    except LlmcfError as error:
        return Read(name, where, None, error)


def _fetches(assets: dict[str, Place], locate: Locator) -> Iterator[Fetch]:
    library = load_catalogue(library_dir() / CATALOGUE_FILE)
    first: dict[str, str] = {}
    for name in assets:
        first.setdefault(locate.asset(name).name, name)
    for asset_name, name in first.items():
        asset = locate.asset(name)
        sources = tuple(dict.fromkeys(_source(file.source) for file in asset.files))
        yield Fetch(asset, assets[name], sources, locate.is_here(name), asset_name not in library)


def _source(source: str) -> Source:
    if PYPI.fullmatch(source):
        return "package index"
    if HUB.fullmatch(source):
        return "model hub"
    return "file" if source.startswith("file:") else Host.of(source)


def _sends(recipe: CheckedRecipe) -> Iterator[Send]:
    allowed = Permissions().hosts()
    arms = recipe.recipe.arms.values() if recipe.recipe is not None else ()
    for host in dict.fromkeys(Host.of(address) for address in servers([recipe.recipe, *arms])):
        yield Send(host, allowed.get(host), host in allowed or host.is_this_machine)
