"""A folder of parcels with a list of what is in it, which any static server can show: people search the list."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.core.files import read_small
from llmcf_cli.core.tree import Origin, plain
from llmcf_cli.core.types import Config
from llmcf_cli.core.yamlfile import MAX_BYTES, dump_yaml, read_value
from llmcf_cli.store.artifacts import write_atomic
from llmcf_cli.store.parcel import MANIFEST
from llmcf_cli.store.parcel_source import open_parcel
from llmcf_cli.store.transfer import small_file

INDEX = "index.yaml"
"""The list, in its folder."""
MAX_LISTED = 1_000
"""Parcels of an index."""
_HEAD = "# Parcels of this folder, listed by `llmcf recipe push`. To search it: llmcf recipe search WORD --in FOLDER\n"


class Listed(Config):
    """A parcel of an index."""

    folder: Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Its folder beside the index."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its manifest."""
    name: Annotated[str, Field(max_length=200)]
    """The recipe's."""
    description: Annotated[str, Field(max_length=4_000)] = ""
    """The recipe's."""
    licence: Annotated[str, Field(max_length=4_000)] = ""
    """Of what is in the parcel; empty: nothing is stated."""
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    """Bytes of all its files."""


class Index(Config):
    """What a folder of parcels holds."""

    format: Literal[1] = 1
    """Version of this file's layout."""
    parcels: Annotated[tuple[Listed, ...], Field(max_length=MAX_LISTED)] = ()
    """In the order of their folders' names."""


def list_parcels(folder: Path) -> Path:
    """Write the index of a folder, from the manifests of the parcels in it.

    Returns:
        Its file.

    Raises:
        DataError: A parcel's manifest is damaged.
        StoreError: There are more than an index holds.
    """
    found = []
    for place in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
        manifest = open_parcel(place).manifest
        found.append(Listed(
            folder=place.name, sha256=manifest.digest, name=manifest.name, description=manifest.description,
            licence=manifest.licence, size=manifest.size,
        ))  # fmt: skip
    if len(found) > MAX_LISTED:
        raise StoreError(f"contains {len(found):,} parcels; an index lists at most {MAX_LISTED:,}", code="file-limit",
                         where=str(folder), hint="push to another folder")  # fmt: skip
    file = folder / INDEX
    write_atomic(file, _HEAD + dump_yaml(Index(parcels=tuple(found)).model_dump(mode="json")))
    return file


def read_index(address: str) -> Index:
    """The index of a folder, here or on a server.

    Args:
        address: The folder, or `https://…` of it; the name of the index may follow.

    Raises:
        DataError: There is none, or it is none of this version.
        AccessError: The server is of this machine's network and not allowed.
        AssetError: The server cannot be reached.
    """
    place = shelf_of(address)
    if place.startswith("https://"):
        content = small_file(f"{place}/{INDEX}", MAX_BYTES)
    elif "://" in place:
        raise LlmcfError("not the address of an index", code="index-address", where=address,
                         allowed=("https://HOST/FOLDER", "FOLDER"))  # fmt: skip
    else:
        content = read_small(Path(place).expanduser() / INDEX, MAX_BYTES, DataError)
    if len(content) > MAX_BYTES:
        raise DataError(f"its index is larger than {MAX_BYTES:,} bytes", code="file-limit", where=address)
    try:
        data: Any = plain(read_value(content.decode(), Origin(Path(INDEX), 1)))
        return Index.model_validate(data)
    except (ValidationError, UnicodeDecodeError, LlmcfError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        hint = "whoever shares the folder can write it again: llmcf recipe push PARCEL FOLDER"
        raise DataError(f"{INDEX} is not an index of this version: {first}", code="index-invalid", where=address,
                        hint=hint) from error  # fmt: skip


def shelf_of(address: str) -> str:
    """The folder of an index, which parcels are named from."""
    return address.rstrip("/").removesuffix(f"/{INDEX}").rstrip("/")
