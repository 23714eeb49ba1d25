"""Codes of errors: every one that the package gives is declared, once, and every declared one is given."""

import ast
import json
from collections import Counter
from pathlib import Path

import pytest

import llmcf_cli
from llmcf_cli.core import errors
from llmcf_cli.core.codes import CODES, SECTIONS
from llmcf_cli.core.errors import (
    AccessError,
    AssetError,
    DataError,
    LimitError,
    LlmcfError,
    ModelError,
    PackageError,
    RecipeError,
    StoreError,
    UnknownNameError,
    as_data,
    from_data,
)
from llmcf_cli.core.place import Place

PACKAGE = Path(llmcf_cli.__file__).parent
KINDS = {"LlmcfError", "DataError", "ModelError", "StoreError", "AssetError", "AccessError"}


def texts(value):
    """The texts that an expression gives."""
    if isinstance(value, ast.IfExp):
        yield from (*texts(value.body), *texts(value.orelse))
    elif isinstance(value, ast.Constant):
        yield value.value


def given(tree):
    """Codes that a file gives: keywords, class attributes and variables of that name, and those of `_problem`."""
    for node in ast.walk(tree):
        if (isinstance(node, ast.keyword) and node.arg == "code") or (
            isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["code"]
        ):
            yield from texts(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_problem":
            yield from texts(node.args[0])


@pytest.fixture(scope="module")
def trees():
    """The package's files, parsed."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def test_codes_are_declared_once_and_all_are_used(trees):
    counts = Counter(code for section in SECTIONS.values() for code in section)
    assert [code for code, count in counts.items() if count > 1] == []
    used = {code for tree in trees.values() for code in given(tree)}
    assert used - CODES.keys() == set()
    assert CODES.keys() - used == set()
    assert all(meaning.endswith(".") for meaning in CODES.values())


def test_codes_are_plain_names():
    assert [code for code in CODES if not code.replace("-", "").isalpha() or code != code.lower()] == []


def test_nobody_names_a_code_twice_in_one_section():
    source = (PACKAGE / "core" / "codes.py").read_text(encoding="utf-8")
    keys = [k.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict) for k in node.keys if k]
    assert [key for key, count in Counter(keys).items() if count > 1] == []


def test_every_error_of_a_plain_class_has_a_code_of_its_own(trees):
    """But for few, whose words come from elsewhere: whoever adds one decides."""
    bare = Counter(
        path.relative_to(PACKAGE).as_posix()
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in KINDS
        and not any(keyword.arg in ("code", None) for keyword in node.keywords)
    )
    assert bare == {"data/preview.py": 2, "recipe/problems.py": 1}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LlmcfError("x"), "error"), (RecipeError([]), "recipe"), (UnknownNameError("k", "n", ()), "unknown-name"),
        (DataError("x"), "data"), (AssetError("x"), "asset"), (ModelError("x"), "model"), (StoreError("x"), "store"),
        (AccessError("x"), "access"), (PackageError("p", where="w"), "package-missing"),
        (LimitError("per_class", 1, 2, "x", hint="h"), "data-limit"), (ModelError("x", code="own"), "own"),
    ],
)  # fmt: skip
def test_the_code_is_the_classs_or_its_own(error, code):
    assert error.code == code


PLACES = [
    Place(), Place("match"), Place(file="a.yaml", line=3, path=("rec", "compare", 1)), Place(override="seed=x"),
    Place(file="a.yaml", line=7, text="arm 'b'", below=Place(path=("rec", "fit"))),
]  # fmt: skip
TEXTS = ["", "match", "a.yaml:3: rec.compare.1", "--set seed=x", "a.yaml:7: arm 'b': rec.fit"]


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("kind", [LlmcfError, DataError, ModelError, StoreError, errors.AccessError])
def test_errors_come_whole_through_json(kind, place):
    error = kind("what", code="code", where=place, allowed=["a"], hint="hint")
    again = from_data(json.loads(json.dumps(as_data(error))))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_an_error_that_says_more_comes_as_the_nearest_that_does_not():
    again = from_data(json.loads(json.dumps(as_data(LimitError("per_class", 1, 2, "few", hint="more")))))
    assert (type(again), again.code, again.exit_code) == (DataError, "data-limit", 3)
    unknown = from_data(as_data(UnknownNameError("backbone", "depfm", ["deepfm"])))
    assert (type(unknown), unknown.code, unknown.allowed) == (LlmcfError, "unknown-name", ("deepfm",))


@pytest.mark.parametrize(
    ("place", "text"),
    list(
        zip(PLACES, ["", "match", "a.yaml:3: rec.compare.1", "--set seed=x", "a.yaml:7: arm 'b': rec.fit"], strict=True)
    ),
)
def test_places_as_text(place, text):
    assert str(place) == text
    assert str(LlmcfError("wrong", where=place)) == (f"{text}: wrong" if text else "wrong")
