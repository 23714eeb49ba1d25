"""What `llmcf refresh --level items` takes for 1 % new rows, against ingest, embed and match of all rows.

    python benchmarks/refresh.py [--quick]

MovieLens-100K with texts by `facts` for a tenth of the train rows. A model is trained on the first 99 % of the rows,
for an epoch, and refreshed with the rest. The ratio reported is the CPU time of all that the refresh runs to that of
`ingest`, `embed` and `match` of the 99 %; lower is better. --quick: texts by a hashing encoder in the place of the
sentence encoder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET, SHARE = 0.05, 0.99
MEASURED = ("ingest", "embed", "match")


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a cheaper encoder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, refreshed = measure(Path(folder), quick=options.quick)
    full, part = sum(whole[name] for name in MEASURED), sum(refreshed.values())
    for title, found in (("all rows", {name: whole[name] for name in MEASURED}), ("1 % new rows", refreshed)):
        print(f"{title:>14}  " + "  ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()))
    ratio, detail = part / full, {"whole": whole, "refreshed": refreshed}
    ok = ratio <= TARGET
    print(json.dumps({"name": "refresh", "ratio": round(ratio, 3), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def measure(folder: Path, *, quick: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of CPU time by stage: of the first training, and of the refresh."""
    import torch

    from llmcf_cli.core.progress import SILENT
    from llmcf_cli.core.yamlfile import dump_yaml
    from llmcf_cli.data.windows import write_windows
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.deriving import Addition, derive
    from llmcf_cli.stages.engine.run import plan
    from llmcf_cli.stages.pipeline import open_context, run_steps
    from llmcf_cli.stages.refreshing import settle, steps_of
    from llmcf_cli.stages.steps.train_rec import TrainRec

    torch.set_num_threads(1)
    artifacts, recipe = folder / "artifacts", ROOT / "recipes" / "movielens_100k" / "facts.yaml"
    loaded = load_recipe(recipe)
    context = open_context(loaded, artifacts, SILENT)
    windows = write_windows(
        loaded.recipe.dataset.source, folder, locate=context.locate.path, width=10**18, first=newest(context), last=None
    )
    changes: dict[str, Any] = {
        "extends": str(recipe), "dataset": {"source": dict(windows.source)},
        "rec": {"fit": {"epochs": 1}, "compare": [], "variants": [], "seeds": [1]},
    }  # fmt: skip
    if quick:
        changes["match"] = {"space": {"encoder": {"type": "hashing"}}}
    (folder / "base.yaml").write_text(dump_yaml(changes))

    def opened(file: Path) -> Any:
        return open_context(load_recipe(file), artifacts, SILENT)

    whole, refreshed = Clock(), Clock()
    context = opened(folder / "base.yaml")
    (arm,) = context.recipe.arms
    run_steps(context, plan(context, [TrainRec(arm, 1)]), SILENT, on_start=whole.start, on_end=whole.end,
              on_failure=whole.failed)  # fmt: skip
    loaded = load_recipe(folder / "base.yaml")
    derived = derive(loaded, context, [Addition(windows.windows[0].file)], "items", arm)
    assert derived is not None
    settle(derived, loaded, opened, SILENT, on_start=refreshed.start, on_end=refreshed.end)
    context = opened(derived.file)
    run_steps(context, steps_of(context), SILENT, on_start=refreshed.start, on_end=refreshed.end,
              on_failure=refreshed.failed)  # fmt: skip
    return whole.seconds, refreshed.seconds


def newest(context: Any) -> int:
    """The time before which 99 % of the rows lie, in microseconds since 1970."""
    import numpy as np

    from llmcf_cli.store.assets import Locator

    locate: Locator = context.locate
    file = next(locate.path("asset:movielens-100k").rglob("*.inter"))
    times = np.sort(np.loadtxt(file, delimiter="\t", skiprows=1, usecols=3))
    return int(times[int(SHARE * len(times))] * 1_000_000)


class Clock:
    """CPU time of stages that run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def start(self, step: Any) -> None:
        """A stage begins."""
        self._since = time.process_time()

    def end(self, step: Any, manifest: Any) -> None:
        """It ends."""
        if step.runs:
            name = step.node.stage.name
            self.seconds[name] = round(self.seconds.get(name, 0) + time.process_time() - self._since, 3)

    def failed(self, step: Any, error: Exception) -> None:
        """It fails."""
        raise error


if __name__ == "__main__":
    main()
