"""Configuration base and the view of it that artifact keys are made from."""

from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import ValidationError

from llmcf_cli.core.errors import AccessError, DataError
from llmcf_cli.core.meanings import meanings
from llmcf_cli.core.types import (
    ComponentConfig,
    Config,
    FilePath,
    FileRef,
    Runtime,
    TaskConfig,
    file_refs,
    key_view,
)  # fmt: skip


class Inner(Config):
    """Inner."""

    path: FilePath = ""
    """A file."""
    workers: Annotated[int, Runtime()] = 2
    """Runtime."""


class Part(ComponentConfig):
    """A component with more settings than its base."""

    type: Literal["part"] = "part"
    size: int = 3
    """Size."""


class Outer(Config):
    """Outer."""

    name: str = "x"
    """Name."""
    inner: Inner = Inner()
    """Section."""
    part: ComponentConfig = Part()
    """Component, declared by its base."""
    several: tuple[FilePath, ...] = ()
    """Files."""
    maybe: FilePath | None = None
    """A file or nothing."""
    named: dict[str, FilePath] = {}  # noqa: RUF012  (pydantic copies defaults)
    """Files by name."""
    threads: Annotated[int, Runtime()] | None = 4
    """Runtime, inside a union."""


def digest(ref):
    return f"<{ref}>"


def test_configuration_is_frozen_strict_and_documented():
    config = Inner(path="a")
    with pytest.raises(ValidationError):
        config.path = "b"
    with pytest.raises(ValidationError):
        Inner(pth="a")
    assert meanings(Inner)["path"] == "A file."
    assert Inner.model_json_schema()["properties"]["path"]["description"] == "A file."
    with pytest.raises(ValidationError):
        type("Bad", (Config,), {"__annotations__": {"x": float}})(x=float("nan"))


class Bare(TaskConfig):
    target: ClassVar[str] = "label"
    monitors: ClassVar[tuple[str, ...]] = ("auc",)

    type: str = "bare"


class Chosen(Bare):
    type: str = "chosen"
    cutoff: int = 10


def test_keys_know_a_task_without_settings_by_its_name():
    assert key_view({"rec.task": Bare()}, digest) == {"rec.task": "bare"}
    assert key_view(Chosen(), digest) == {"type": "chosen", "cutoff": 10}


def test_key_view_has_defaults_and_no_runtime_fields():
    assert key_view(Outer(), digest) == {
        "name": "x", "inner": {"path": ""}, "part": {"type": "part", "size": 3}, "several": [], "maybe": None,
        "named": {},
    }  # fmt: skip


def test_runtime_fields_do_not_change_the_view_and_others_do():
    base = key_view(Outer(), digest)
    assert key_view(Outer(threads=9, inner=Inner(workers=9)), digest) == base
    assert key_view(Outer(part=Part(size=4)), digest) != base, "fields of a subclass count"
    assert key_view(Outer(name="y"), digest) != base


def test_files_count_by_content_wherever_the_annotation_stands():
    outer = Outer(inner=Inner(path="a"), several=("b", "c"), maybe="d", named={"k": "e"})
    view = key_view(outer, digest)
    assert (view["inner"]["path"], view["several"], view["maybe"], view["named"]) == (
        "<a>",
        ["<b>", "<c>"],
        "<d>",
        {"k": "<e>"},
    )
    assert sorted(file_refs(outer)) == ["a", "b", "c", "d", "e"]
    assert list(file_refs(Outer())) == []


def test_views_of_plain_values():
    assert key_view({"a": (Inner(path="p"), 1, None)}, digest) == {"a": [{"path": "<p>"}, 1, None]}
    assert list(file_refs([{"k": Inner(path="p")}, "not a reference"])) == ["p"]


def test_files_beside_a_named_file_are_part_of_its_key():
    class Source(Config):
        path: Annotated[str, FileRef(beside=(".item", ".user"))]

    held = {"d/a.inter": "1", "d/a.item": "2", "folder": "3"}

    def digest_of(name: str) -> str:
        if name not in held:
            raise DataError("no such file", where=name)
        return held[name]

    before = key_view(Source(path="d/a.inter"), digest_of)
    assert before == {"path": {"file": "1", "beside": {".item": "2"}}}
    held["d/a.item"] = "4"
    assert key_view(Source(path="d/a.inter"), digest_of) != before
    del held["d/a.item"]
    assert key_view(Source(path="d/a.inter"), digest_of) == {"path": "1"}
    assert key_view(Source(path="folder"), digest_of) == {"path": "3"}

    def refused(name: str) -> str:
        if name == "d/a.user":
            raise AccessError("elsewhere", where=name)
        return digest_of(name)

    with pytest.raises(AccessError):
        key_view(Source(path="d/a.inter"), refused)
