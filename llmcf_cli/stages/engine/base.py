"""What a stage is: key material, needs, and work that fills a folder and ends in a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.types import key_view
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.scale import LOCAL, Executor
from llmcf_cli.stages.engine.origins import plugin_of, plugins_of
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.store.artifacts import MANIFEST, ArtifactStore, artifact_key, read_manifest
from llmcf_cli.store.assets import Locator
from llmcf_cli.store.layout import Output

GENERATIONS = "cache/generation.sqlite"
"""Where generated texts are, in an artifact folder."""


@dataclass(frozen=True)
class Context:
    """What all stages of a run share.

    Attributes:
        recipe: The resolved recipe.
        store: Where artifacts are.
        locate: Resolves the files, folders and assets the recipe names.
        models: Machine-wide cache of converted models.
        launch: Settings of `accelerate launch` whose processes share the tuning; None: one process.
        executor: Where `gen-cot` generates and `match` searches.
        shared: Address in object storage where the executor's workers read examples; None: in the artifact folder.
    """

    recipe: Recipe
    store: ArtifactStore
    locate: Locator
    models: Path
    launch: Path | None = None
    executor: Executor = LOCAL
    shared: str | None = None

    @property
    def generations(self) -> Path:
        """SQLite file of every generated text, shared by all recipes that use this artifact root."""
        return self.store.root / GENERATIONS

    @property
    def answers(self) -> Path:
        """DuckDB file of every answer a teacher gave, shared likewise."""
        return self.store.root / "cache" / "answer.duckdb"


@dataclass(frozen=True)
class Job:
    """One attempt at a stage's work.

    Attributes:
        context: What the run shares.
        out: Empty folder to fill.
        work: Folder for checkpoints, kept between attempts.
        inputs: Role of a needed stage → its folder; without those that it has to spare.
        keys: Role of a needed stage → its key.
        progress: Where to report.
        forced: Whether the user asked to do it again.
    """

    context: Context
    out: Path
    work: Path
    inputs: Mapping[str, Path]
    keys: Mapping[str, str]
    progress: Progress
    forced: bool = False

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.context.recipe

    @property
    def database(self) -> Path:
        """The DuckDB file that ingest made."""
        return IngestOutput(self.inputs["ingest"]).database

    def report_of(self, stage: Stage) -> Any:
        """What a needed stage reported, of its class.

        Raises:
            StoreError: Another version made it.
        """
        folder = self.inputs[stage.role]
        return from_json(type(stage).report, read_manifest(folder / MANIFEST).report, str(folder))


class NeedError(StoreError):
    """A stage that was to do without the result of another needs it after all.

    Attributes:
        role: What it calls the other.
    """

    def __init__(self, what: str, role: str) -> None:
        super().__init__(what, code="not-made", hint=f"llmcf {role} RECIPE")
        self.role = role


class Stage(ABC):
    """A step of the pipeline. A subclass declares what determines its result, how to make it, and what is left.

    It is registered as `registry.add("stage", NAME, target=…, summary=…)`, which makes it a command; nothing else
    lists stages.
    """

    name: ClassVar[str]
    """Command and folder name, as registered."""
    version: ClassVar[int]
    """Raised when the stage's code gives other results for the same material."""
    report: ClassVar[type[Any]]
    """Dataclass that `run` returns. Its module imports nothing heavy."""
    output: ClassVar[type[Output]]
    """The layout of its folder."""
    tracked: ClassVar[bool] = False
    """Whether what its tasks measure goes to the recipe's trackers."""
    reads_texts: ClassVar[bool] = False
    """Whether it is of no use where items have no text, so that it does not start there."""
    sparing: ClassVar[frozenset[str]] = frozenset()
    """Roles of needed stages whose results it can do without, where `spared` says so; `run` raises `NeedError` where
    it needs one after all."""

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        """All that its command makes of a recipe: one, unless there is one per arm, seed or model."""
        return (cls(),)

    @property
    def variant(self) -> str:
        """Which of the stage's results this is; empty where there is one."""
        return ""

    @property
    def label(self) -> str:
        """`name` or `name[variant]`, for people."""
        return labelled(self.name, self.variant)

    @property
    def role(self) -> str:
        """What the stages that read this one call it: its name, unless they read several, so no key has an arm's."""
        return self.name

    @property
    def owner(self) -> str:
        """The arm of the comparison that it belongs to; empty for a stage that arms may share."""
        return ""

    def view(self, recipe: Recipe) -> Recipe:
        """The recipe that this stage and all it needs go by: an arm's stages see the arm's."""
        return recipe

    @abstractmethod
    def sections(self, recipe: Recipe) -> dict[str, Any]:
        """The parts of the recipe that determine the result, by key path."""

    @abstractmethod
    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        """The stages whose results this one reads."""

    @abstractmethod
    def run(self, job: Job) -> Any:
        """Fill `job.out`; return the report, of the declared class."""

    def judge(self, recipe: Recipe, report: Mapping[str, Any]) -> None:
        """Judge a finished result by settings that say what is acceptable and so are in no key.

        Args:
            recipe: The recipe of this run, which may ask for more than the one that the result was made by.
            report: What `run` returned.

        Raises:
            LimitError: It is not acceptable.
        """
        return

    def spared(self, node: Node) -> str:
        """Why it is worth a try without the results of `sparing` that are not there; empty where it is not."""
        return ""

    def cost(self, node: Node) -> Sequence[tuple[str, str]]:
        """What a language model's part in it will cost, as (what, how much) for people; empty without such a part.

        Raises:
            LlmcfError: That cannot be known yet.
        """
        return ()


@dataclass(frozen=True)
class ComparingStage(Stage):
    """A stage that compares others, and goes on without those that fail.

    Attributes:
        failed: (name, reason) of what could not be made: the result says so.
    """

    failed: tuple[tuple[str, str], ...] = ()

    @abstractmethod
    def compared(self, recipe: Recipe) -> Sequence[tuple[str, Stage]]:
        """(name, stage) of all that is compared where nothing fails."""


@dataclass(frozen=True)
class ArmStage(Stage):
    """A stage of one arm of the comparison.

    Attributes:
        arm: Name of the arm.
    """

    arm: str

    @property
    def owner(self) -> str:
        return self.arm

    @property
    def variant(self) -> str:
        return self.arm

    def view(self, recipe: Recipe) -> Recipe:
        return recipe.arms.get(self.arm, recipe)


@dataclass(frozen=True)
class SeededArmStage(ArmStage):
    """A stage of one arm and seed.

    Attributes:
        seed: The seed.
    """

    seed: int

    @property
    def variant(self) -> str:
        return f"{self.arm} seed={self.seed}"


@dataclass(frozen=True)
class Node:
    """A stage with its key, in a plan.

    Attributes:
        stage: The stage.
        context: What it runs in, with the recipe it goes by.
        needs: Role → node of each stage it reads.
        variant: Which of the stage's results this is in this plan: the stage's own, or the arm where an arm needs
            another result of a stage that the recipe has too.
    """

    stage: Stage
    context: Context
    needs: Mapping[str, Node]
    variant: str

    @property
    def label(self) -> str:
        """What it is called in this plan: `match`, `match[random examples]`."""
        return labelled(self.stage.name, self.variant)

    @cached_property
    def material(self) -> dict[str, Any]:
        """What determines the result: sections, keys of inputs, content digests, versions of stage and plugins."""
        sections = self.stage.sections(self.context.recipe)
        return {
            "stage": self.stage.name,
            "stage_version": self.stage.version,
            **{path: key_view(value, self.context.locate.digest) for path, value in sections.items()},
            "inputs": {role: node.key for role, node in self.needs.items()},
            "plugins": {**dict(plugins_of(list(sections.values()))), **plugin_of(type(self.stage))},
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the material."""
        return artifact_key(self.material)

    @cached_property
    def depth(self) -> int:
        """Length of the longest chain of stages below this one."""
        return 1 + max((node.depth for node in self.needs.values()), default=-1)

    @property
    def folder(self) -> Path:
        """Where the result is or will be."""
        return self.context.store.folder(self.stage.name, self.key)

    @property
    def made(self) -> bool:
        """Whether the result is there and looks whole."""
        return self.context.store.look(self.stage.name, self.key).whole is not None

    def check(self) -> None:
        """Examine the result, before it is read outside a run.

        Raises:
            StoreError: It is damaged.
        """
        self.context.store.manifest(self.stage.name, self.key)

    def require_needs(self) -> None:
        """Examine the results that this one is made from, before they are read outside a run.

        Raises:
            LlmcfError: One that it cannot spare is not made; or one is damaged.
        """
        for role, need in self.needs.items():
            if not need.made and role in self.stage.sparing:
                continue
            if not need.made:
                what = f"needs {need.label}, which has not been made yet"
                raise StoreError(what, code="not-made", where=self.label, hint=f"llmcf {self.stage.name} RECIPE")
            need.check()

    def require(self) -> Any:
        """Examine the result and those that it was made from, before they are read outside a run.

        Returns:
            The stage's report.

        Raises:
            StoreError: It is not made, damaged or of another version.
        """
        manifest = self.context.store.manifest(self.stage.name, self.key)
        if manifest is None:
            hint = f"llmcf {self.stage.name} RECIPE"
            raise StoreError(
                f"{self.label} has not been made yet", code="not-made", where=self.context.recipe.name, hint=hint
            )
        for need in self.needs.values():
            need.check()
        return from_json(type(self.stage).report, manifest.report, str(self.folder))


def labelled(stage: str, variant: str) -> str:
    """A stage's result for people: `stage`, or `stage[variant]`."""
    return f"{stage}[{variant}]" if variant else stage
