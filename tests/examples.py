"""How many examples a slow property takes."""

from __future__ import annotations

import os


def examples(count: int) -> int:
    """`count` in `make test`, and LLMCF_EXAMPLES times as many where that is set: `make fuzz` takes ten times."""
    return count * int(os.environ.get("LLMCF_EXAMPLES", "1"))
