"""`ingest`: raw tables → users, items, interactions and labelled samples with their histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.types import ComponentConfig, Config, FilePath
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.report import IngestReport
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import AddedSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.engine.report import from_json


class Listed(Config):
    """The users that are not read."""

    file: FilePath
    """Their list."""


BASE = "base"
"""Role of the result that an addition extends."""


class Ingest(Stage):
    """Reads the data set and makes samples, as SQL in DuckDB.

    With `dataset.added` the last addition extends the result of a recipe without it, the base: its key is among the
    inputs. With `dataset.recut` the base has all additions, under the cuts of before.
    """

    name = "ingest"
    version = 4
    report = IngestReport
    output = IngestOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        section = recipe.dataset
        found: dict[str, Any] = {"seed": recipe.seed, "dataset": section.model_copy(update={"added": ()})}
        if section.forgotten is not None:
            found["forgotten"] = Listed(file=section.forgotten)
        if section.recut is not None:
            return {**found, "recut": section.recut}
        # As a source: its settings say which files beside the added ones it reads, too.
        return {**found, "added": added_source(section.source, section.added[-1])} if section.added else found

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Base.of_recipe(recipe),) if recipe.dataset.added else ()

    def run(self, job: Job) -> IngestReport:
        from llmcf_cli.data.append import append
        from llmcf_cli.data.ingest import ingest
        from llmcf_cli.data.raw import SOURCE
        from llmcf_cli.data.recut import recut

        section, seed, locate = job.recipe.dataset, job.recipe.seed, job.context.locate.path
        out = IngestOutput(job.out).database
        if not section.added:
            return ingest(section, locate=locate, seed=seed, out=out, progress=job.progress)
        base = IngestOutput(job.inputs[BASE]).database
        if section.recut is not None:
            times = registry().build(SOURCE, section.source).times
            return recut(base, job.report_of(Base.of_recipe(job.recipe)), section, section.recut, times, out=out)
        source = added_source(section.source, section.added[-1])
        return append(base, section, source, locate=locate, seed=seed, out=out, progress=job.progress)

    def judge(self, recipe: Recipe, report: Mapping[str, Any]) -> None:
        from llmcf_cli.data.alarms import stop_at_limits

        stop_at_limits(from_json(IngestReport, report, self.label), recipe.dataset)


@dataclass(frozen=True)
class Base(Ingest):
    """The ingest that the last of `dataset.added`, or `dataset.recut`, extends.

    Attributes:
        additions: How many it has itself.
    """

    additions: int

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Base:
        """That of a recipe with additions."""
        section = recipe.dataset
        return cls(len(section.added) - (section.recut is None))

    @property
    def variant(self) -> str:
        return f"base with {self.additions} added" if self.additions else "base"

    @property
    def role(self) -> str:
        return BASE

    def view(self, recipe: Recipe) -> Recipe:
        earlier = recipe.dataset.model_copy(update={"added": recipe.dataset.added[: self.additions], "recut": None})
        return recipe.model_copy(update={"dataset": earlier})


def added_source(source: ComponentConfig, added: AddedSection) -> ComponentConfig:
    """The settings of a source with the files of an addition in the place of its own."""
    roles: Mapping[str, str] = getattr(source, "roles", {})
    return source.model_copy(update={roles[role]: file for role, file in added if file is not None})
