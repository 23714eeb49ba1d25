"""The arms of a replay: a recipe each, refreshed window by window, by the code that refreshes any other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.types import key_view
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.data.config import GlobalTimeConfig
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.windows import WindowFile, Windows, write_windows
from llmcf_cli.recipe.load import EXTENDS, LoadedRecipe, load_recipe
from llmcf_cli.recipe.refresh import RefreshLevel
from llmcf_cli.stages.deriving import Addition, derive, reads_texts, require_texts
from llmcf_cli.stages.engine.base import Context, Stage
from llmcf_cli.stages.engine.run import Step, plan, reached
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.refreshing import settle, steps_of, target_of
from llmcf_cli.stages.replay.costs import Cost, cost_of
from llmcf_cli.stages.share.own import extending
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput
from llmcf_cli.store.artifacts import Manifest, write_atomic
from llmcf_cli.store.locks import held

LEVELS: tuple[RefreshLevel, ...] = ("items", "examples", "finetune", "full")
STALE, BASE = "stale", "base"
"""The arm whose model stays as it was trained before the first window; and what all arms begin with."""
Scoring = Callable[[Path, int, int, Mapping[str, Path]], Mapping[str, Mapping[str, Any]]]
"""(database, start, end, arm → bundle) → arm → measures; see `serve.replayed.score_window`."""
STATE_BYTES = 1 << 28
_FORMAT = 2
"""Of `state.json`; another one is a replay of its own."""
WINDOWS, STATE, REPLAYS = "windows.json", "state.json", "report/replay"


@dataclass(frozen=True)
class Telling:
    """Whom to tell of steps.

    Attributes:
        progress: Where stages report.
        start: Called before a step.
        end: Called after it.
        window: Called before a window, with its number.
    """

    progress: Progress
    start: Callable[[Step], None]
    end: Callable[[Step, Manifest], None]
    window: Callable[[int], None]


class Replay:
    """A replay in its folder, which keeps what is finished: after an interruption it goes on from there.

    Attributes:
        folder: Of its data, recipes and results.
        windows: The windows, and the rows before them.

    Args:
        loaded: The user's recipe.
        arm: Arm of the comparison whose model is replayed; None: that of `serve.arm`, or the only one.
        levels: What is compared beside the stale model, some of `LEVELS`; None: all that the model can be refreshed by.
        width: Of a window, in microseconds.
        first, last: As of `write_windows`.
        artifacts: Artifact folder.
        overrides: Changes that the recipe was loaded with.
        telling: Whom to tell.

    Raises:
        LlmcfError: Nothing says which arm, the recipe has additions of its own, the level `examples` has nothing to
            write, or the data have no windows.
    """

    def __init__(
        self, loaded: LoadedRecipe, arm: str | None, levels: Sequence[RefreshLevel] | None, *, width: int,
        first: int | None, last: int | None, artifacts: Path | None, overrides: Sequence[str], telling: Telling,
    ) -> None:  # fmt: skip
        recipe = loaded.recipe
        if recipe.dataset.added:
            raise LlmcfError("replay uses the recipe's own rows, but this recipe adds others", code="option-conflict",
                             where="dataset.added", hint="remove the added rows from the recipe")  # fmt: skip
        arms = [*recipe.arms]
        chosen = arm or recipe.serve.arm or (arms[0] if len(arms) == 1 else None)
        if chosen is None or chosen not in arms:
            raise LlmcfError("several arms could be replayed" if chosen is None else f"unknown arm {chosen!r}",
                             code="option-conflict", where="--arm", allowed=tuple(arms),
        hint="choose one with --arm")  # fmt: skip
        reads = reads_texts(recipe, chosen)
        levels = levels or [one for one in LEVELS if one != "examples" or reads]
        if "examples" in levels:
            require_texts(recipe, chosen)
        context = open_context(loaded, artifacts, telling.progress)
        self._artifacts, self._overrides, self._telling = artifacts, overrides, telling
        self.arm, self.seed, self.levels = chosen, recipe.seeds[0], tuple(levels)
        asked = [recipe.model_dump(mode="json"), key_view(recipe.dataset.source, context.locate.digest),
                 [width, first, last], chosen, list(levels), _FORMAT]  # fmt: skip
        key = digest_json(asked)[:12]
        self.folder = context.store.root / REPLAYS / f"{recipe.name}-{key}"
        if not (self.folder / WINDOWS).is_file():
            windows = write_windows(
                recipe.dataset.source, self.folder, locate=context.locate.path, width=width, first=first, last=last
            )
            write_atomic(self.folder / WINDOWS, json.dumps({**asdict(windows), "set": list(overrides)}, default=str))
        self.windows = _read_windows(self.folder / WINDOWS)
        self._write_recipes(loaded)
        self._state = self._read_state()

    def run(self, score: Scoring) -> list[dict[str, Any]]:
        """Replay: predict a window with what each arm serves when it begins, then let the arms learn from it.

        Args:
            score: Measures bundles on a window.

        Returns:
            A row for each window and arm: `window`, `arm`, `first`, `last`, the measures, what the arm's refresh before
            this window cost, and `note` where it was refused.
        """
        with held(self.folder / "lock", what=f"replay in {self.folder}"):
            if len(self._state["scored"]) == len(self.windows.windows):
                return list(self._rows())
            base = self._base()
            bundles = dict.fromkeys((STALE, *self.levels), base)
            costs = dict.fromkeys(bundles, Cost())
            notes = dict.fromkeys(bundles, "")
            for number, window in enumerate(self.windows.windows, 1):
                self._telling.window(number)
                if number > 1:
                    for level in self.levels:
                        bundles[level], costs[level], notes[level] = self._learned(level, number - 1, bundles[level])
                if str(number) not in self._state["scored"]:
                    found = score(self._seen(number), window.first, window.last, bundles)
                    self._state["scored"][str(number)] = {arm: dict(values) for arm, values in found.items()}
                    for arm in found:
                        cost = asdict(costs.get(arm, Cost()))
                        self._state["made"][f"{number} {arm}"] = {"cost": cost, "note": notes.get(arm, "")}
                    self._save()
            return list(self._rows())

    @property
    def base_cost(self) -> Cost:
        """What the model of before the first window took."""
        return Cost(**self._state["base"]["cost"])

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, window in enumerate(self.windows.windows, 1):
            for arm, values in self._state["scored"][str(number)].items():
                made = self._state["made"][f"{number} {arm}"]
                yield {"window": number, "arm": arm, "first": window.first, "last": window.last, **values,
                       **made["cost"], "note": made["note"]}  # fmt: skip

    def _base(self) -> Path:
        """The model that is trained on the rows before the windows."""
        context = self._context("base.yaml")
        steps = self._run(context, TrainRec(self.arm, self.seed))
        if "cost" not in self._state["base"]:
            self._state["base"] = {"cost": asdict(self._cost(context, TrainRec(self.arm, self.seed), BASE))}
            self._save()
        return TrainRecOutput(steps[-1].node.folder).bundle

    def _learned(self, level: RefreshLevel, number: int, before: Path) -> tuple[Path, Cost, str]:
        """What an arm serves once it has learned from the first few windows, what that cost, and why if it has not."""
        key = f"{level} {number}"
        if key not in self._state["learned"]:
            self._state["learned"][key] = self._learn(level, number)
            self._save()
        made = self._state["learned"][key]
        return Path(made["bundle"]) if made["bundle"] else before, Cost(**made["cost"]), made["note"]

    def _learn(self, level: RefreshLevel, number: int) -> dict[str, Any]:
        loaded = load_recipe(self.folder / f"{level}.yaml", self._overrides)
        given = [Addition(window.file) for window in self.windows.windows[:number]]
        context = open_context(loaded, self._artifacts, self._telling.progress)
        derived = derive(loaded, context, given, level, self.arm, self._overrides)
        assert derived is not None
        try:
            kept, _ = settle(
                derived, loaded, lambda file: self._context(file.name), self._telling.progress,
                on_start=self._telling.start, on_end=self._telling.end, overrides=self._overrides,
            )  # fmt: skip
        except DataError as error:  # too few rows of a window to learn from: the model stays
            return {"bundle": None, "cost": asdict(Cost()), "note": error.what}
        if not kept:
            return {"bundle": None, "cost": asdict(Cost()), "note": "nothing new"}
        context = self._context(derived.file.name)
        steps = run_steps(context, steps_of(context), self._telling.progress, on_start=self._telling.start,
                          on_end=self._telling.end, on_failure=lambda step, error: None)  # fmt: skip
        cost = self._cost(context, target_of(context.recipe), level)
        return {"bundle": str(TrainRecOutput(steps[-1].node.folder).bundle), "cost": asdict(cost), "note": ""}

    def _seen(self, number: int) -> Path:
        """The database of an ingest of all rows up to the end of a window."""
        name = f"seen-{number:03}.yaml"
        added = [{"interactions": window.file.name} for window in self.windows.windows[:number]]
        self._write(name, {EXTENDS: "base.yaml", "dataset": {"added": added}})
        steps = self._run(self._context(name), Ingest())
        return IngestOutput(steps[-1].node.folder).database

    def _run(self, context: Context, target: Stage) -> list[Step]:
        return run_steps(context, reached(plan(context, [target])), self._telling.progress,
                         on_start=self._telling.start, on_end=self._telling.end,
                         on_failure=lambda step, error: None)  # fmt: skip

    def _cost(self, context: Context, target: Stage, arm: str) -> Cost:
        """What the results that a target is made from took, but those that the arm, or the base, had before."""
        had = self._state["had"].setdefault(arm, self._state["had"].get(BASE, {"results": [], "calls": []}))
        seen, told = {tuple(one) for one in had["results"]}, set(had["calls"])
        cost = cost_of(plan(context, [target]), cast("set[tuple[str, str]]", seen), told)
        self._state["had"][arm] = {"results": sorted(seen), "calls": sorted(told)}
        return cost

    def _context(self, name: str) -> Context:
        return open_context(load_recipe(self.folder / name, self._overrides), self._artifacts, self._telling.progress)

    def _write_recipes(self, loaded: LoadedRecipe) -> None:
        split = loaded.recipe.dataset.split
        kept = split if isinstance(split, GlobalTimeConfig) else GlobalTimeConfig()
        self._write("base.yaml", {
            EXTENDS: extending(loaded, self.folder / "base.yaml"),
            "dataset": {"source": dict(self.windows.source), "split": kept.model_dump(mode="json")},
        })  # fmt: skip
        for level in self.levels:
            self._write(f"{level}.yaml", {EXTENDS: "base.yaml"})

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.folder / name, f"# Written by llmcf replay\n{dump_yaml(dict(content))}")

    def _read_state(self) -> dict[str, Any]:
        file = self.folder / STATE
        if file.is_file():
            found: dict[str, Any] = read_json(file, STATE_BYTES)
            return found
        return {"scored": {}, "made": {}, "learned": {}, "had": {}, "base": {}}

    def _save(self) -> None:
        write_atomic(self.folder / STATE, json.dumps(self._state))


def _read_windows(file: Path) -> Windows:
    found = read_json(file, STATE_BYTES)
    windows = tuple(WindowFile(**{**one, "file": Path(one["file"])}) for one in found["windows"])
    return Windows(found["source"], found["before"], windows, found["unread"])
