"""`assets.yaml`: data sets and models by name, with where each file comes from and what it must hash to."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.permissions import Host
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import plain
from llmcf_cli.core.types import Config
from llmcf_cli.core.yamlfile import read_any_yaml

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=1 << 50)]

PYPI = re.compile(r"pypi:(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*)/(?P<member>.+)")
HUB = re.compile(r"hf:(?P<data>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)/(?P<file>.+)", flags=re.ASCII)
_FILE = "file:"


class AssetFile(Config):
    """One file of an asset."""

    path: str
    """Where it lies in the asset's folder; relative, `/` between its parts."""
    source: str
    """`pypi:NAME==VERSION/MEMBER`, `hf:ORG/REPO@REVISION/FILE` (`hf:datasets/…`), `https://…` or `file:PATH`."""
    sha256: Sha256
    """Digest of its bytes."""
    size: Size
    """Bytes."""

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return checked_member(path)

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        if source.startswith("pypi:") and (match := PYPI.fullmatch(source)):
            checked_member(match["member"])
        elif source.startswith("hf:") and (match := HUB.fullmatch(source)):
            checked_member(match["file"])
        elif source.startswith(("https://", "http://")):
            if not _host(source).is_encrypted:
                raise ValueError(f"{source} is not encrypted; use https://")
        elif not (source.startswith(_FILE) and len(source) > len(_FILE)):
            raise ValueError(
                f"{source!r} is not one of pypi:NAME==VERSION/MEMBER, hf:ORG/REPO@REVISION/FILE, https://…, file:PATH"
            )
        return source


def _host(source: str) -> Host:
    try:
        return Host.of(source)
    except LlmcfError as error:
        raise ValueError(error.what) from error


class Wheel(Config):
    """A wheel that files are taken from; it is unpacked, never installed."""

    sha256: Sha256
    """Digest of the wheel."""
    size: Size
    """Bytes."""


class Asset(Config):
    """A data set or a model that recipes name as `asset:NAME`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Its key in the catalogue; recipes write `asset:NAME`."""
    kind: Literal["dataset", "model", "encoder"]
    """`dataset`: interaction data or texts; `model`: a causal language model; `encoder`: a text encoder."""
    description: str
    """What it is, in a sentence."""
    licence: str
    """Licence or terms of use."""
    citation: str = ""
    """What a paper that uses it cites."""
    wheels: dict[str, Wheel] = {}  # noqa: RUF012  (pydantic copies defaults)
    """`NAME==VERSION` of every wheel that a `pypi:` source names, with its digest."""
    files: tuple[AssetFile, ...]
    """What it consists of."""

    @model_validator(mode="after")
    def _consistent(self) -> "Asset":
        if not self.files:
            raise ValueError("has no files")
        paths = [file.path for file in self.files]
        repeated = sorted(path for path, times in Counter(paths).items() if times > 1)
        if repeated:
            raise ValueError(f"lists {', '.join(repeated)} twice")
        named = {match["requirement"] for file in self.files if (match := PYPI.fullmatch(file.source))}
        if named != set(self.wheels):
            raise ValueError(f"`wheels` must list exactly those its sources name: {', '.join(sorted(named)) or 'none'}")
        return self

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of its content, equal to `core.hashing.digest_path` of its folder wherever that lies."""
        files = sorted(self.files, key=lambda file: PurePosixPath(file.path))
        return digest_json([[file.path, file.sha256] for file in files])


def checked_member(path: str) -> str:
    """`path` if it stays inside the folder it is unpacked to.

    Raises:
        ValueError: It is absolute, has `..` or empty parts, a backslash, a drive or a control character.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", path):
        raise ValueError(f"{path!r} is not a relative path inside a folder")
    return path


_CATALOGUE = TypeAdapter(dict[str, Asset])


def load_catalogue(*files: Path) -> dict[str, Asset]:
    """Catalogues merged in order. An asset's name stands for the same bytes in all of them, wherever they come from.

    `file:` sources are resolved against the folder of the catalogue that names them, and lie below it. Files that do
    not exist are skipped, so that a recipe may or may not bring its own.

    Raises:
        RecipeError: With every problem of a file that is no catalogue, or gives an earlier one's name to other bytes.
    """
    merged: dict[str, Asset] = {}
    for file in dict.fromkeys(files):
        if file.is_file():
            found = _read(file)
            taken = [name for name, asset in found.items() if name in merged and merged[name].digest != asset.digest]
            if taken:
                raise RecipeError([_taken(file, name) for name in taken])
            merged = {**found, **merged}
    return merged


def _taken(file: Path, name: str) -> LlmcfError:
    return LlmcfError("is already the name of one of llmcf's own assets, with other content",
                      code="asset-name-taken", where=f"{file}: {name}",
                      hint="rename it, here and in the recipe")  # fmt: skip


def _read(file: Path) -> dict[str, Asset]:
    raw = plain(read_any_yaml(file))
    if isinstance(raw, dict):
        raw = {
            str(key): {**entry, "name": str(key)} if isinstance(entry, dict) else entry for key, entry in raw.items()
        }
    try:
        found = _CATALOGUE.validate_python(raw or {})
    except ValidationError as error:
        raise RecipeError([_problem(file, item) for item in error.errors(include_url=False)]) from error
    return {name: _anchored(asset, file) for name, asset in found.items()}


def _problem(file: Path, item: ErrorDetails) -> LlmcfError:
    message = str(item["msg"]).removeprefix("Value error, ")
    return LlmcfError(message, code="catalogue-invalid", where=Place(file=str(file), path=tuple(item["loc"])))


def _anchored(asset: Asset, file: Path) -> "Asset":
    """The asset with whole paths for its `file:` sources, all below the catalogue's folder."""
    folder = file.parent.resolve()

    def anchored(one: AssetFile) -> "AssetFile":
        if not one.source.startswith(_FILE):
            return one
        path = (folder / one.source.removeprefix(_FILE)).resolve()
        if not path.is_relative_to(folder):
            problem = LlmcfError(f"{one.source} is outside the catalogue's folder",
                                 code="catalogue-outside", where=Place(file=str(file), path=(asset.name,)),
                                 hint="put the file itself, not a link, below that folder")  # fmt: skip
            raise RecipeError([problem])
        return one.model_copy(update={"source": f"{_FILE}{path}"})

    return asset.model_copy(update={"files": tuple(map(anchored, asset.files))})
