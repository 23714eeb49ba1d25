"""Two bundles in one folder: the first finds candidates in the whole catalogue, the second puts them in order."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.types import Config
from llmcf_cli.rec.bundle.bundle import MANIFEST, MAX_MANIFEST_BYTES
from llmcf_cli.rec.bundle.sound import wholesome

RETRIEVE, RANK = "retrieve", "rank"
"""Folders of the two."""
CANDIDATES = 200
MAX_CANDIDATES = 20_000
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CascadeManifest(Config):
    """What `bundle.json` of a cascade says."""

    format: Literal["cascade 1"] = "cascade 1"
    candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)]
    """How many items are found for the second model to put in order."""
    retrieve: Digest
    """Digest of the bundle that finds."""
    rank: Digest
    """Digest of the bundle that puts in order."""


@dataclass(frozen=True)
class CascadeParts:
    """A cascade on disk.

    Attributes:
        retrieve: Folder of the bundle that finds.
        rank: Folder of the bundle that puts in order.
        manifest: What it says of itself.
        digest: Of that; the same for the same two bundles anywhere.
    """

    retrieve: Path
    rank: Path
    manifest: CascadeManifest
    digest: str

    def check(self, retrieve: str, rank: str) -> None:
        """Whether the bundles in it are those that it was made of.

        Raises:
            StoreError: One is another.
        """
        made = self.manifest
        for folder, found, wanted in ((self.retrieve, retrieve, made.retrieve), (self.rank, rank, made.rank)):
            if found != wanted:
                raise StoreError("not the bundle that the cascade was made from", code="bundle-changed",
                                 where=str(folder), hint="make it again: llmcf bundle cascade")  # fmt: skip


def write_cascade(path: Path, retrieve: Path, rank: Path, manifest: CascadeManifest) -> None:
    """Copy two bundles into one folder.

    Args:
        path: Folder to make; must not hold anything yet.
        retrieve: Folder of the bundle that finds.
        rank: Folder of the bundle that puts in order.
        manifest: With their digests.

    Raises:
        StoreError: The folder is not empty.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise StoreError("the bundle folder is not empty", code="bundle-not-empty", where=str(path))
    shutil.copytree(retrieve, path / RETRIEVE)
    shutil.copytree(rank, path / RANK)
    (path / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True))


def read_cascade(path: Path) -> CascadeParts | None:
    """The parts of a cascade; None where the folder is none.

    Raises:
        StoreError: It is one, and malformed.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    with wholesome(path):
        found = read_json(file, MAX_MANIFEST_BYTES, StoreError)
        if not isinstance(found, dict) or "cascade" not in str(found.get("format")):
            return None
        manifest = CascadeManifest.model_validate(found)
    for name in (RETRIEVE, RANK):
        if (path / name).is_symlink():
            raise StoreError("is a link; a cascade must contain its bundles",
                             code="bundle-link", where=str(path / name), hint="copy the bundle again")  # fmt: skip
    return CascadeParts(path / RETRIEVE, path / RANK, manifest, digest_json(found))
