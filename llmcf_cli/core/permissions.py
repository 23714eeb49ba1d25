"""What the user allowed on this machine: which host gets what is sent, with which key, and what recipes may read.

Recipes come from strangers, so nothing in one can grant these; `docs/trust.md` says why. The file holds names of
environment variables, never a key:

    permissions.json    in $LLMCF_CONFIG, else the user's configuration folder
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmcf_cli.core.errors import AccessError, LlmcfError, StoreError

CONFIG_VARIABLE = "LLMCF_CONFIG"
READ_VARIABLE = "LLMCF_ALLOW_READ"
"""Environment variable: folders that any recipe may read in, separated like those of PATH."""

_PORTS = {"http": 80, "https": 443}
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_FORMAT = 1


@dataclass(frozen=True, order=True)
class Host:
    """A server as a browser tells servers apart: by scheme, name and port.

    Attributes:
        scheme: `https` or `http`.
        name: Lower-case host name or address, without brackets.
        port: TCP port.
    """

    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, address: str) -> Host:
        """The host of a URL, or of `NAME[:PORT]`, which means `https` unless NAME is this machine.

        Raises:
            LlmcfError: It is neither.
        """
        text = address.strip()
        bare = "://" not in text
        try:
            parts = urlsplit(f"//{text}" if bare else text)
            name, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            name, port = "", None
        scheme = parts.scheme if name and not bare else "http" if _is_this_machine(name) else "https"
        if scheme not in _PORTS or not (_HOST.fullmatch(name) or _is_address(name)) or parts.username is not None:
            raise LlmcfError(f"{address!r:.80} is not the address of a host",
                             code="host-invalid", allowed=("api.example.com", "localhost:8000",
                             "https://HOST:PORT"))  # fmt: skip
        return cls(scheme, name, port or _PORTS[scheme])

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, by its spelling alone."""
        return _is_this_machine(self.name)

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way can read or change what is sent."""
        return self.scheme == "https" or self.is_this_machine

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{name}{port}"


class Permissions:
    """What the user allowed; every change is written at once, and safe beside other processes.

    Args:
        file: Where it is kept; the user's own by default.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file if file is not None else _config_folder() / "permissions.json"

    def hosts(self) -> dict[Host, str | None]:
        """Hosts that are allowed, each with the name of the environment variable whose value it gets."""
        found = _mapping(self._read().get("hosts"))
        return {Host.of(name): _mapping(entry).get("env") for name, entry in sorted(found.items())}

    def allow_host(self, host: Host, env: str | None) -> None:
        """Let prompts be sent to a host, with the key in `env` if that is given.

        Raises:
            LlmcfError: The name is none of a variable, or the key would travel in the open.
        """
        if env is not None and not _ENV.fullmatch(env):
            raise LlmcfError(f"{env!r:.80} is not a valid name of an environment variable",
                             code="variable-invalid", where="--env", allowed=("OPENAI_API_KEY",),
                             hint="give the name of the variable, never the key itself")  # fmt: skip
        if env is not None and not host.is_encrypted:
            raise LlmcfError("keys are sent only over https, except to this machine",
                             code="host-insecure", where=str(host),
                             hint=f"llmcf keys allow https://{host.name} --env {env}")  # fmt: skip
        with self._changed() as content:
            content.setdefault("hosts", {})[str(host)] = {"env": env}

    def forget_host(self, host: Host) -> bool:
        """Take a permission back; whether there was one."""
        with self._changed() as content:
            return content.get("hosts", {}).pop(str(host), None) is not None

    def key_for(self, address: str) -> tuple[str | None, str]:
        """Variable and key that a server gets: None and "" where it gets none.

        Raises:
            AccessError: The host is not this machine, and the user has not allowed it.
        """
        host, allowed = Host.of(address), self.hosts()
        if host not in allowed:
            if host.is_this_machine:
                return None, ""
            raise AccessError(
                "you have not allowed this host; it would receive lines of your data as prompts",
                code="host-refused", where=str(host),
                hint=f"if you trust it: llmcf keys allow {host} --env VARIABLE_WITH_ITS_KEY (or --no-key)",
            )  # fmt: skip
        env = allowed[host]
        return env, (os.environ.get(env, "") if env else "")

    def folders(self, recipe_folder: Path) -> tuple[Path, ...]:
        """Where recipes of a folder may read beyond it: what was allowed for it, and `LLMCF_ALLOW_READ`."""
        listed = _mapping(self._read().get("reads")).get(str(recipe_folder.resolve()), [])
        everywhere = filter(None, os.environ.get(READ_VARIABLE, "").split(os.pathsep))
        return tuple(Path(folder).expanduser().resolve() for folder in (*listed, *everywhere))

    def reads(self) -> dict[str, tuple[str, ...]]:
        """Folder of recipes → files and folders that they may read beyond it."""
        return {folder: tuple(listed) for folder, listed in sorted(_mapping(self._read().get("reads")).items())}

    def allow_read(self, recipe_folder: Path, path: Path) -> None:
        """Let recipes of a folder read a file, or all that lies below a folder.

        Raises:
            LlmcfError: There is no such file or folder.
        """
        found = path.expanduser().resolve()
        if not found.exists():
            raise LlmcfError("no such file or folder", code="path-missing", where=f"--allow-read {path}")
        with self._changed() as content:
            listed = content.setdefault("reads", {}).setdefault(str(recipe_folder.resolve()), [])
            if str(found) not in listed:
                listed.append(str(found))

    def forget_reads(self, recipe_folder: Path) -> bool:
        """Take back what recipes of a folder may read beyond it; whether there was anything."""
        with self._changed() as content:
            return content.get("reads", {}).pop(str(recipe_folder.resolve()), None) is not None

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._broken(str(error)) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise self._broken(f"its format is not {_FORMAT}")
        return content

    def _broken(self, why: str) -> StoreError:
        return StoreError(
            f"cannot be read: {why}",
            code="permissions-unreadable",
            where=str(self.file),
            hint="repair or remove the file, then allow hosts and files again",
        )

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """The content to change; it is put in place whole, when the block ends."""
        from filelock import FileLock

        try:
            self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.file.with_suffix(".lock")):
                content = {"format": _FORMAT, **self._read()}
                yield content
                fresh = self.file.with_suffix(".new")
                fresh.touch(mode=0o600)
                fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
                fresh.replace(self.file)
        except OSError as error:
            raise StoreError(f"cannot be written: {error}", code="permissions-unwritable", where=str(self.file),
                             hint=f"set {CONFIG_VARIABLE} to a folder you can write to") from error  # fmt: skip


class Readable:
    """Where a recipe's files may lie, links followed.

    Args:
        places: Folders, or files, that may be read.
        around: A folder that may be read but for what is hidden in it, as projects keep `recipes/` beside `data/`. Does
            not count where it is the user's home, or a folder above that.
    """

    def __init__(self, places: Iterable[Path], around: Path | None = None) -> None:
        self._places = [place.resolve() for place in places]
        self._around = None if around is None or _holds_home(around.resolve()) else around.resolve()

    def covers(self, path: Path) -> bool:
        """Whether a path, without links, may be read."""
        if any(path.is_relative_to(place) for place in self._places):
            return True
        if self._around is None or not path.is_relative_to(self._around):
            return False
        return not any(part.startswith(".") for part in path.relative_to(self._around).parts)


def check_readable(path: Path, allowed: Readable) -> None:
    """Check that a file, or a folder with all that it links to, may be read.

    Args:
        path: What a recipe names; it exists.
        allowed: Where it may lie.

    Raises:
        AccessError: It does not; the hint holds the option that allows it.
    """
    for place in (path, *_links(path)):
        found = place.resolve()
        if not allowed.covers(found):
            shown = found if found.is_dir() or place == path else found.parent
            raise AccessError(
                f"is outside the recipe's folder: {found}", code="file-refused", where=str(path),
                hint=f"to let this recipe read it, run the same command with --allow-read '{shown}'",
            )  # fmt: skip


def is_public(name: str) -> bool:
    """Whether a host name cannot mean this machine or its own network, as far as its spelling and DNS tell."""
    import socket

    try:
        found = [name] if _is_address(name) else [str(info[4][0]) for info in socket.getaddrinfo(name, None)]
    except OSError:  # a proxy may know it
        return not _is_this_machine(name)
    return all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in found)


def _links(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for parent, folders, files in os.walk(folder):
            yield from (path for name in (*folders, *files) if (path := Path(parent, name)).is_symlink())


def _holds_home(folder: Path) -> bool:
    try:
        return Path.home().resolve().is_relative_to(folder)
    except RuntimeError:  # there is no home
        return folder.parent == folder


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_this_machine(name: str) -> bool:
    if _is_address(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _config_folder() -> Path:
    chosen = os.environ.get(CONFIG_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("llmcf")
