"""What tests say of errors: their codes, not their words."""

from __future__ import annotations

import pytest

from llmcf_cli.core.errors import LlmcfError, RecipeError


def codes(error: LlmcfError) -> set[str]:
    """The codes of an error: of a recipe's, those of its problems."""
    return {problem.code for problem in error.problems} if isinstance(error, RecipeError) else {error.code}


def refused(code: str, kind: type[LlmcfError] = LlmcfError, *, names: str | None = None):
    """Like `pytest.raises`, for an error of a class with this code.

    Args:
        names: Regular expression of values that it names: ids, numbers, files.
    """

    def check(error: LlmcfError) -> bool:
        assert code in codes(error), f"{code} is not among {codes(error)}: {error}"
        return True

    return pytest.raises(kind, match=names, check=check)
