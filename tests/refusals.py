"""What tests say of errors: their codes, not their words."""

from __future__ import annotations

import pytest

from llmcf_cli.core.errors import LlmcfError


def refused(code: str, kind: type[LlmcfError] = LlmcfError, *, names: str | None = None):
    """Like `pytest.raises`, for an error of a class with this code.

    Args:
        names: Regular expression of values that it names: ids, numbers, files.
    """

    def check(error: LlmcfError) -> bool:
        assert code in error.codes, f"{code} is not among {error.codes}: {error}"
        return True

    return pytest.raises(kind, match=names, check=check)
