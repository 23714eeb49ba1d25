"""Errors: one family, each says what, where, what is allowed and what to run next."""

import pytest

from llmcf_cli.core.errors import (
    AssetError,
    DataError,
    LlmcfError,
    ModelError,
    RecipeError,
    StoreError,
    UnknownNameError,
    closest,
)


def test_all_parts_in_order():
    error = LlmcfError("is wrong", where="a.yaml:3", allowed=["x", "y"], hint="llmcf doctor")
    assert str(error) == "a.yaml:3: is wrong\n  allowed: x, y\n  next: llmcf doctor"
    assert str(LlmcfError("is wrong")) == "is wrong"


def test_a_recipe_error_lists_every_problem():
    error = RecipeError([LlmcfError("one", where="a:1"), LlmcfError("two")], hint="llmcf recipe list")
    assert str(error) == "2 problems in the recipe:\n- a:1: one\n- two\nnext: llmcf recipe list"
    assert RecipeError([LlmcfError("one")]).what == "1 problem in the recipe"


def test_an_unknown_name_suggests_the_closest():
    error = UnknownNameError("backbone", "depfm", ["din", "deepfm"])
    assert error.what == 'unknown backbone "depfm"; did you mean "deepfm"?'
    assert (error.name, error.closest, error.allowed) == ("depfm", "deepfm", ("deepfm", "din"))
    assert UnknownNameError("backbone", "zzz", ["din"]).what == 'unknown backbone "zzz"'


@pytest.mark.parametrize(("name", "found"), [("learning_rat", "learning_rate"), ("zzz", None), ("", None)])
def test_closest(name, found):
    assert closest(name, ["learning_rate", "epochs"]) == found


def test_exit_codes_are_distinct_and_documented():
    codes = {
        kind.__name__: kind.exit_code
        for kind in (LlmcfError, RecipeError, DataError, AssetError, ModelError, StoreError)
    }
    assert codes == {
        "LlmcfError": 1,
        "RecipeError": 2,
        "DataError": 3,
        "AssetError": 4,
        "ModelError": 5,
        "StoreError": 6,
    }
    assert UnknownNameError.exit_code == RecipeError.exit_code
