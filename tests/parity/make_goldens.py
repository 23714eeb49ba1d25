"""Write what the peers compute to `goldens/`, one JSON file per case.

    python -m venv .venv-peers
    .venv-peers/bin/pip install -c constraints.txt -r benchmarks/peers.txt
    .venv-peers/bin/python tests/parity/make_goldens.py

The peers have an environment of their own, never the project's. (requests stands in the list because DeepCTR-Torch
imports it without naming it.) With llmcf, pytest and hypothesis in it as well,
`.venv-peers/bin/python -m pytest tests/parity` also compares with the live peers, on other random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from peers import CASES, golden

SEED = 2024


def main() -> None:
    """Write every golden."""
    for name in CASES:
        path = Path(__file__).parent / "goldens" / f"{name}.json"
        path.write_text(json.dumps(golden(name, SEED), separators=(",", ":")) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
