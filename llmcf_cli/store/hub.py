"""Parcels on a model hub, by huggingface_hub: `hf://datasets/OWNER/NAME@COMMIT#sha256=DIGEST`.

The commit says where the parcel is, the digest of its manifest what it is: a hub is not believed about either.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import AccessError, AssetError, DataError, LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.store.catalogue import Asset
from llmcf_cli.store.fetch import Fetcher
from llmcf_cli.store.parcel import MANIFEST, MAX_MANIFEST, read_parcel_manifest
from llmcf_cli.store.parcel_source import Source, explained

SCHEME = "hf://"
FORM = "hf://datasets/OWNER/NAME@COMMIT#sha256=DIGEST"
_PLACE = re.compile(r"hf://(?P<data>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<commit>[0-9a-f]{40}))?", flags=re.ASCII)


@dataclass(frozen=True)
class Repository:
    """A repository of a hub.

    Attributes:
        name: `OWNER/NAME`.
        kind: `dataset` or `model`.
        commit: 40 hexadecimal digits; None: none is named.
    """

    name: str
    kind: str
    commit: str | None = None

    @classmethod
    def of(cls, place: str) -> Repository:
        """The repository of an address, without the digest.

        Raises:
            LlmcfError: It is none.
        """
        found = _PLACE.fullmatch(place)
        if found is None:
            raise LlmcfError("not an address on a hub", code="parcel-unpinned", where=place, allowed=(FORM,))
        return cls(found["repo"], "dataset" if found["data"] else "model", found["commit"])

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{kind}{self.name}" + (f"@{self.commit}" if self.commit else "")


class HubSource(Source):
    """A parcel on a hub. Downloads go as huggingface_hub is configured; interrupted ones go on.

    Args:
        place: The address, without the digest.
        work: Folder for what is under way.

    Raises:
        LlmcfError: The address names no commit.
        AssetError: The hub cannot be reached, or has no such file.
        DataError: There is no parcel.
    """

    resumes = True

    def __init__(self, place: str, work: Path) -> None:
        self._repository, self._work = Repository.of(place), work
        if self._repository.commit is None:
            raise LlmcfError("no commit, so its content could be anything", code="parcel-unpinned", where=place,
                             allowed=(FORM,), hint="ask whoever shares it: `llmcf recipe push` prints the whole "
                             "address")  # fmt: skip
        with explained(MANIFEST, place), _told(place):
            content = self._manifest(place)
        super().__init__(read_parcel_manifest(content, place), place)

    def fetch(self, path: str, target: Path, task: Task) -> None:
        file = self.listed(path, f"hf:{self._repository}/{path}")
        self._work.mkdir(parents=True, exist_ok=True)
        parcel = Asset(name="parcel", kind="dataset", description="", licence="", files=(file,))
        with explained(path, self.name):
            Fetcher(parcel, self._work, SILENT, task).fetch(file, target)

    def _manifest(self, place: str) -> bytes:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        asked: dict[str, Any] = {"revision": self._repository.commit, "repo_type": self._repository.kind}
        size = get_hf_file_metadata(hf_hub_url(self._repository.name, MANIFEST, **asked)).size
        if size is None or size > MAX_MANIFEST:
            raise DataError(f"its manifest is larger than {MAX_MANIFEST:,} bytes", code="file-limit", where=place)
        self._work.mkdir(parents=True, exist_ok=True)
        found = Path(hf_hub_download(self._repository.name, MANIFEST, local_dir=self._work / "hub", **asked))
        content = found.read_bytes()
        found.unlink()
        return content


def hub_host() -> Host:
    """The hub, as huggingface_hub is configured."""
    from huggingface_hub import constants

    return Host.of(constants.ENDPOINT)


def push(source: Source, address: str, progress: Progress) -> str:
    """Put a parcel into a repository, as one commit; a new repository is private. What the hub has is not sent again.

    Returns:
        Its address, with commit and digest.

    Raises:
        AccessError: The user has not allowed that anything is sent there, or the hub refuses it.
        AssetError: The hub cannot be reached.
        DataError: A file of the parcel is not as it should be.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repository, host = Repository.of(address), hub_host()
    if host not in Permissions().hosts():
        raise AccessError("you have not allowed sending parcels to this host", code="host-refused",
                          where=str(host), hint=f"if you trust it: llmcf keys allow {host} --env HF_TOKEN")  # fmt: skip
    _, key = Permissions().key_for(str(host))
    api = HfApi(token=key or None)
    source.check()
    with (
        tempfile.TemporaryDirectory() as folder, _told(address),
        progress.task("push", source.manifest.size, "B") as task,
    ):  # fmt: skip
        for path in source.manifest.files:
            source.fetch(path, _made(Path(folder) / path), task)
        (Path(folder) / MANIFEST).write_text(source.manifest.text(), encoding="utf-8")
        files = [MANIFEST, *source.manifest.files]
        api.create_repo(repository.name, repo_type=repository.kind, private=True, exist_ok=True)
        done = api.create_commit(
            repository.name, [CommitOperationAdd(path, str(Path(folder) / path)) for path in files],
            commit_message=f"{source.manifest.name}, as llmcf packed it", repo_type=repository.kind,
        )  # fmt: skip
    there = Repository(repository.name, repository.kind, done.oid)
    return f"{SCHEME}{there}#sha256={source.manifest.digest}"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one error."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        said = " ".join(str(error).split())[:300]
        if error.response is not None and error.response.status_code in (401, 403):
            raise AccessError(f"the hub refuses: {said}", code="host-refused", where=place,
                              hint=f"llmcf keys allow {hub_host()} --env HF_TOKEN") from error  # fmt: skip
        raise AssetError(f"the hub has no such parcel: {said}", code="asset-unfetchable", where=place) from error
    except LlmcfError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        hint = "check the connection, then run the same command again"
        raise AssetError(f"the hub cannot be used: {error}", code="asset-unfetchable", where=place,
                         hint=hint) from error  # fmt: skip
