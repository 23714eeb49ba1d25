"""Recipes by words: those that come with llmcf, and parcels that others share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmcf_cli.recipe.load import library_recipes
from llmcf_cli.store.shelf import read_index, shelf_of


@dataclass(frozen=True)
class Hit:
    """A recipe that was found.

    Attributes:
        name: Its name; of one of the library's, what commands take.
        description: Its own sentence.
        address: Of its parcel, for `llmcf recipe pull`; empty: it is installed.
        licence: Of what is in the parcel; empty: nothing is stated.
        size: Bytes of the parcel's files; 0: it is installed.
    """

    name: str
    description: str
    address: str = ""
    licence: str = ""
    size: int = 0


def search(words: Sequence[str], addresses: Sequence[str]) -> list[Hit]:
    """The recipes whose name and description hold all words, whatever their case.

    Args:
        words: What to look for; none: all recipes.
        addresses: Folders of parcels, here or `https://…`.

    Raises:
        LlmcfError: An index cannot be read.
    """
    wanted = [word.casefold() for word in words]
    return [
        hit for hit in _all(addresses) if all(word in f"{hit.name} {hit.description}".casefold() for word in wanted)
    ]


def _all(addresses: Sequence[str]) -> Iterator[Hit]:
    for found in library_recipes():
        yield Hit(found.name, found.description)
    for address in addresses:
        for one in read_index(address).parcels:
            place = f"{shelf_of(address)}/{one.folder}#sha256={one.sha256}"
            yield Hit(one.name, one.description, place, one.licence, one.size)
