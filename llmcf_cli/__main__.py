"""`llmcf` and `python -m llmcf_cli`."""

from __future__ import annotations


def main() -> None:
    """Run the command line inside the one error boundary."""
    from llmcf_cli.cli.app import run

    run()


if __name__ == "__main__":
    main()
