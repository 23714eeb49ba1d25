"""Whether results on disk are what was made, by the digest of every file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmcf_cli.core.progress import Progress
from llmcf_cli.stages.engine.base import Context, labelled
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.store.artifacts import ArtifactStore, Found


@dataclass(frozen=True)
class Verified:
    """A result and what was found of it.

    Attributes:
        label: Stage and variant; of a result that does not say, its folder.
        found: What there is; neither manifest nor faults: nothing.
    """

    label: str
    found: Found

    @property
    def bytes(self) -> int:
        """Size of its files, as it says."""
        manifest = self.found.manifest
        return sum(record.size for record in manifest.files.values()) if manifest else 0


def verify_recipe(context: Context, progress: Progress) -> Iterator[Verified]:
    """Every result that a recipe's comparison is made of, in the order of their making."""
    steps = plan(context, [Evaluate()])
    with progress.task("verify", len(steps), "artifacts") as task:
        for step in steps:
            yield Verified(step.node.label, context.store.examine(step.node.stage.name, step.node.key))
            task.advance()


def verify_all(store: ArtifactStore, progress: Progress) -> Iterator[Verified]:
    """Every result under a root."""
    with progress.task("verify", len(store.folders()), "artifacts") as task:
        for found in store.all():
            manifest = found.manifest
            name = str(found.folder.relative_to(store.root))
            if manifest is not None:
                name = labelled(manifest.stage, manifest.variant)
            yield Verified(name, found)
            task.advance()
