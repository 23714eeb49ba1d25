"""The one family of errors a user can cause. The command line turns each into a message, never a traceback."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.core.place import Place

SHOWN_PROBLEMS = 100
"""Problems of a recipe that are told; the others are counted."""
_LONGEST_NAME = 100
_EXTRAS = {
    "cryptography": "sign", "fastapi": "serve", "lm_eval": "ability", "openai": "openai",
    "mlflow": "tracking", "onnx": "onnx", "onnxruntime": "onnx", "onnxscript": "onnx", "prometheus_client": "serve",
    "ray": "ray", "tensorboard": "tracking", "uvicorn": "serve", "vllm": "vllm", "wandb": "wandb",
}  # fmt: skip
"""Package → the optional extra that brings it."""


class LlmcfError(Exception):
    """Something the user can fix: says what, where, what is allowed, and what to run next.

    Attributes:
        what: What went wrong, in one sentence.
        where: File, line, key path, stage or row it was found at; an empty place when it has none.
        allowed: Acceptable values, shown as a list.
        hint: The next thing to do, ideally a command.
        code: Tells faults apart, whatever the words; see `core.codes`.
        exit_code: Process exit status that the command line uses.
    """

    exit_code = 1
    code = "error"

    def __init__(
        self, what: str, *, code: str = "", where: Place | str = "", allowed: Sequence[str] = (), hint: str = ""
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = Place.of(where)
        self.allowed = tuple(allowed)
        self.hint = hint
        self.code = code or type(self).code

    @property
    def codes(self) -> tuple[str, ...]:
        """Its code; of several problems those of each, once."""
        return (self.code,)

    def __str__(self) -> str:
        lines = [": ".join(filter(None, (str(self.where), self.what)))]
        if self.allowed:
            lines.append("  allowed: " + ", ".join(self.allowed))
        if self.hint:
            lines.append("  next: " + self.hint)
        return "\n".join(lines)


class RecipeError(LlmcfError):
    """A recipe, prompt or catalogue file is wrong. `problems` lists everything that was found."""

    exit_code = 2
    code = "recipe"

    def __init__(self, problems: Sequence[LlmcfError], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the recipe", hint=hint)

    @property
    def codes(self) -> tuple[str, ...]:
        """Those of its problems."""
        return tuple(dict.fromkeys(problem.code for problem in self.problems))

    def __str__(self) -> str:
        body = "\n".join(f"- {problem}" for problem in self.problems[:SHOWN_PROBLEMS])
        if (more := len(self.problems) - SHOWN_PROBLEMS) > 0:
            body += f"\n- and {more:,} more"
        tail = f"\nnext: {self.hint}" if self.hint else ""
        return f"{self.what}:\n{body}{tail}"


class UnknownNameError(LlmcfError):
    """A name that no registry or catalogue knows; carries the closest known one."""

    exit_code = 2
    code = "unknown-name"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: Place | str = "", hint: str = "") -> None:
        names = sorted(known)
        near = closest(name, names)
        suggestion = f'; did you mean "{near}"?' if near else ""
        shown = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
        super().__init__(f'unknown {kind} "{shown}"{suggestion}', where=where, allowed=names, hint=hint)
        self.kind = kind
        self.name = name
        self.closest = near


class DataError(LlmcfError):
    """Input data break a rule: missing file or column, duplicate ids, too many unparsable rows, no rows left."""

    exit_code = 3
    code = "data"


class LimitError(DataError):
    """A count of `dataset.limits` is past its limit, so results would mean nothing.

    Attributes:
        limit: Name of the limit.
        found: What was counted: a share in [0, 1] (float), or a number of samples (int).
        allowed_value: The limit's value.
    """

    code = "data-limit"

    def __init__(
        self, limit: str, found: float, allowed_value: float, what: str, *, where: str = "", hint: str
    ) -> None:
        enough = math.ceil(found * 1000) / 1000 if isinstance(found, float) else found
        measured = f" ({found:.1%})" if isinstance(found, float) else ""
        super().__init__(
            f"{what}{measured}; dataset.limits.{limit} is {allowed_value:g}", where=where or "dataset",
            hint=f"{hint}; or, to accept less meaningful results, set dataset.limits.{limit}: {enough:g}",
        )  # fmt: skip
        self.limit = limit
        self.found = found
        self.allowed_value = allowed_value


class AssetError(LlmcfError):
    """An asset cannot be fetched or does not match its declared digest."""

    exit_code = 4
    code = "asset"


class ModelError(LlmcfError):
    """A model cannot be loaded, trained or served as asked."""

    exit_code = 5
    code = "model"


class PackageError(LlmcfError):
    """A library of an optional extra is not installed."""

    code = "package-missing"

    def __init__(self, package: str, *, where: str) -> None:
        extras = _EXTRAS.get(package, "baselines,llm,plot,search")
        hint = "" if package.startswith("llmcf") else f"pip install 'llmcf[{extras}]'"
        super().__init__(f"needs the package {package!r}", where=where, hint=hint)


class StoreError(LlmcfError):
    """An artifact or store is locked, incomplete or of another version, or the disk is full."""

    exit_code = 6
    code = "store"


class AccessError(LlmcfError):
    """A recipe needs something you have not allowed on this machine: a host, or a file outside its folder."""

    exit_code = 7
    code = "access"


_PLAIN = {kind.__name__: kind for kind in (LlmcfError, DataError, AssetError, ModelError, StoreError, AccessError)}


def as_data(error: LlmcfError) -> dict[str, Any]:
    """An error as JSON data, for another process: what `from_data` takes."""
    plain = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _PLAIN)
    return {
        "kind": plain, "code": error.code, "what": error.what, "where": asdict(error.where),
        "allowed": list(error.allowed), "hint": error.hint,
    }  # fmt: skip


def from_data(data: dict[str, Any]) -> LlmcfError:
    """The error that another process told of, of its class or the nearest that has no more to say."""
    kind = _PLAIN[data["kind"]]
    return kind(
        data["what"], code=data["code"], where=Place.from_json(data["where"]), allowed=data["allowed"],
        hint=data["hint"],
    )  # fmt: skip


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`, or None when nothing is near."""
    if len(name) > _LONGEST_NAME:  # nobody mistypes that much, and comparing takes the square of it
        return None
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
