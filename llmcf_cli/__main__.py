"""`llmcf` and `python -m llmcf_cli`."""

from __future__ import annotations

import gc
import os

QUIET_ALLOCATIONS = 50_000
"""Objects that may be made before the garbage collector looks at them: importing makes as many that all stay."""


def main() -> None:
    """Run the command line inside the one error boundary."""
    gc.set_threshold(QUIET_ALLOCATIONS, 20, 100)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else it looks through every installed package

    from llmcf_cli.cli.app import run

    run()


if __name__ == "__main__":
    main()
