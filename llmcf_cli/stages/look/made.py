"""What a run left behind, found from its manifests alone: its matches, and each arm's predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.errors import StoreError
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.evaluate import Compared, Comparison, Evaluate
from llmcf_cli.stages.steps.ingest import Base, Ingest
from llmcf_cli.stages.steps.match import Match
from llmcf_cli.stages.steps.predict import Predict
from llmcf_cli.store.artifacts import MANIFEST, ArtifactStore, Manifest, read_manifest


@dataclass(frozen=True)
class Made:
    """A complete artifact and those that it was made from.

    Attributes:
        folder: Where it is.
        manifest: What it is.
        needs: Role → artifact, as far as they are still there.
    """

    folder: Path
    manifest: Manifest
    needs: Mapping[str, Made]

    def below(self, stage: str) -> Iterator[Made]:
        """Itself and all that it was made from, of one stage; an artifact may come more than once."""
        if self.manifest.stage == stage:
            yield self
        for need in self.needs.values():
            yield from need.below(stage)

    def need(self, stage: str) -> Made:
        """What it was made from by a stage, whatever arm it is of.

        Raises:
            StoreError: It is not there.
        """
        for made in self.needs.values():
            if made.manifest.stage == stage:
                return made
        raise StoreError(
            f"was made from {stage}, which is gone",
            code="artifact-unusable",
            where=str(self.folder),
            hint="llmcf run RECIPE",
        )


@dataclass(frozen=True)
class Predicted:
    """An arm's predictions of the test split.

    Attributes:
        arm: Its name in this run.
        seed: Its seed.
        made: The artifact.
    """

    arm: str
    seed: int
    made: Made


@dataclass(frozen=True)
class Run:
    """The samples and matches of a run and the predictions of its arms.

    Attributes:
        name: The recipe's.
        key: Of the artifact that the run ends in.
        store: Where its artifacts are.
        ingests: Every distinct artifact of ingest.
        matches: Every distinct artifact of matches; none where no arm reads examples.
        predicted: Every arm and seed, in the order of the comparison.
        missing: Steps that have not been made.
        last: The artifact that the run ends in; None where it is not made yet.
    """

    name: str
    key: str
    store: ArtifactStore
    ingests: tuple[Made, ...]
    matches: tuple[Made, ...]
    predicted: tuple[Predicted, ...] = ()
    missing: tuple[str, ...] = ()
    last: Made | None = None

    def readers(self, match: Made) -> list[Predicted]:
        """The predictions that were made with these matches."""
        return [
            p for p in self.predicted if any(m.manifest.key == match.manifest.key for m in p.made.below(Match.name))
        ]


def run_of_recipe(context: Context) -> Run:
    """What there is of a recipe's comparison.

    Raises:
        StoreError: The samples or matches are not made yet.
    """
    steps = plan(context, [Evaluate()])
    last = steps[-1].node
    matches = [step.node for step in steps if isinstance(step.node.stage, Match)]
    ingests = [
        step.node for step in steps if isinstance(step.node.stage, Ingest) and not isinstance(step.node.stage, Base)
    ]
    found = [made for node in matches if (made := _trace(context.store, node.key))]
    if matches and not found:
        raise StoreError("no matches yet", code="not-made", where=context.recipe.name, hint="llmcf match RECIPE")
    ingested = [made for node in ingests if (made := _trace(context.store, node.key))]
    if not ingested:
        raise StoreError("no samples yet", code="not-made", where=context.recipe.name, hint="llmcf ingest RECIPE")
    arms = [(n.stage.arm, n.stage.seed, n.key) for n in last.needs.values() if isinstance(n.stage, Predict)]
    missing = [step.node.label for step in steps if step.runs and isinstance(step.node.stage, Match | Predict)]
    return Run(
        context.recipe.name, last.key, context.store, tuple(ingested), tuple(found), _predicted(context.store, arms),
        tuple(missing), _trace(context.store, last.key),
    )  # fmt: skip


def samples_of(context: Context) -> Path:
    """The folder of a recipe's samples.

    Raises:
        StoreError: They are not made yet.
    """
    node = plan(context, [Ingest()])[-1].node
    if context.store.manifest(node.stage.name, node.key) is None:
        raise StoreError("no samples yet", code="not-made", where=context.recipe.name, hint="llmcf ingest RECIPE")
    return context.store.folder(node.stage.name, node.key)


def run_of_folder(folder: Path) -> Run:
    """The run that an artifact (of `evaluate`, `match` or whatever was made from samples) ends.

    Raises:
        StoreError: The folder is no artifact, or was not made from samples.
    """
    if not (folder / MANIFEST).is_file():
        raise StoreError("not a complete artifact", code="artifact-unusable", where=str(folder), hint="llmcf status")
    manifest = read_manifest(folder / MANIFEST)
    store = ArtifactStore(folder.absolute().parent.parent)
    last = _trace(store, manifest.key)
    if last is None:
        raise StoreError("not in an artifact folder", code="artifact-unusable", where=str(folder), hint="llmcf status")
    matches = {made.manifest.key: made for made in last.below(Match.name)}
    ingests = {made.manifest.key: made for made in last.below(Ingest.name)}
    extended = {need.manifest.key for made in ingests.values() for need in made.needs.values()}
    ingests = {key: made for key, made in ingests.items() if key not in extended}
    if not ingests:
        raise StoreError(
            f"a result of {manifest.stage} was not made from samples", code="artifact-unusable", where=str(folder)
        )
    compared: list[Compared] = []
    if manifest.stage == Evaluate.name:
        compared = from_json(Comparison, manifest.report, str(folder)).compared
    arms = [(one.arm, one.seed, one.key) for one in compared if one.stage == Predict.name]
    found = tuple(ingests.values()), tuple(matches.values()), _predicted(store, arms)
    return Run(manifest.recipe, manifest.key, store, *found, last=last)


def _trace(store: ArtifactStore, key: str) -> Made | None:
    """An artifact with all that it was made from; None where it is not there."""
    known: dict[str, Made | None] = {}

    def follow(key: str) -> Made | None:
        if key not in known:
            stage = store.stage_of(key)
            manifest = store.manifest(stage, key) if stage else None
            known[key] = None
            if stage and manifest:
                known[key] = Made(store.folder(stage, key), manifest, _needs(manifest, follow))
        return known[key]

    return follow(key)


def _needs(manifest: Manifest, follow: Callable[[str], Made | None]) -> dict[str, Made]:
    inputs: Mapping[str, str] = manifest.material.get("inputs", {})
    found = {role: follow(key) for role, key in inputs.items()}
    return {role: made for role, made in found.items() if made is not None}


def _predicted(store: ArtifactStore, arms: Sequence[tuple[str, int, str]]) -> tuple[Predicted, ...]:
    """The predictions of (arm, seed, key), as far as they are there."""
    found = [(arm, seed, _trace(store, key)) for arm, seed, key in arms]
    return tuple(Predicted(arm, seed, made) for arm, seed, made in found if made is not None)


def arms_of(predicted: Sequence[Predicted]) -> list[str]:
    """Names of the arms, each once, in order."""
    return list(dict.fromkeys(p.arm for p in predicted))
