"""What a refresh adds to texts that a language model wrote: of later rows alone, by the model that wrote the others.

Each stage here goes by the recipe as of one entry of `refresh.learned`, so later refreshes find its very artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.cut import Cuts
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.plugin import registry
from llmcf_cli.rec.input.needs import closure, declaration
from llmcf_cli.recipe.refresh import LearnedSection, NewExamplesSection, RefreshLevel
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import TrainSampleSection
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.embed import Embed, Examples
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.knowledge import Knowledge
from llmcf_cli.stages.steps.task_data import served_needs
from llmcf_cli.stages.steps.train_llm import TrainLLM
from llmcf_cli.store.open import connect_read, read_meta
from llmcf_cli.tabular.sql import scalar

if TYPE_CHECKING:
    from llmcf_cli.rec.bundle.bundle import Bundle
    from llmcf_cli.rec.recommender import Recommender

Learned = tuple[LearnedSection, ...]


def as_learned(recipe: Recipe, learned: LearnedSection) -> Recipe:
    """The recipe as it was when a model learned."""
    added = recipe.model_dump(mode="json")["dataset"]["added"][: learned.additions]
    cuts = None if learned.recut is None else learned.recut.model_dump()
    return recipe.with_changes({"dataset.recut": None}).with_changes({"dataset.added": added, "dataset.recut": cuts})


def known_until(learned: Learned, level: RefreshLevel) -> LearnedSection:
    """The last entry before the one to come by which all train rows were known to what a level brings up to date."""
    return next(one for one in reversed(learned[:-1]) if one.level in ("full", level))


def new_since(learned: Learned, level: RefreshLevel, database: Path) -> int:
    """Time from which on train rows are new to what a level brings up to date, in microseconds since 1970.

    Args:
        learned: With the entry to come.
        level: Its level.
        database: DuckDB file of the ingest by its cuts.
    """
    from llmcf_cli.data.recut import OWN

    moved = known_until(learned, level).recut
    return int(read_meta(database)[OWN]) if moved is None else Cuts.of_written(moved.model_dump()).validation_from


@dataclass(frozen=True)
class FrozenLLM(TrainLLM):
    """The language model as it was tuned when the model was trained.

    Attributes:
        learned: What it was tuned with.
    """

    learned: LearnedSection

    @property
    def variant(self) -> str:
        return "as tuned"

    def view(self, recipe: Recipe) -> Recipe:
        return as_learned(recipe, self.learned)


@dataclass(frozen=True)
class _OfAddition(Stage):
    """A stage by the recipe as of the latest entry of `refresh.learned`.

    Attributes:
        learned: The last of them is the level `examples` that it is for.
    """

    learned: Learned

    @property
    def variant(self) -> str:
        return f"of addition {self.learned[-1].additions}"

    def view(self, recipe: Recipe) -> Recipe:
        return as_learned(recipe, self.learned[-1])


@dataclass(frozen=True)
class NewCoT(_OfAddition, GenCoT):
    """Chains of thought for a sample of the train rows that are new to the examples, and of no others."""

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        since = known_until(self.learned, "examples").recut
        return {
            **super().sections(recipe), "refresh.examples": self._wanted,
            "refresh.since": "dataset.split" if since is None else since,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return _by_frozen(super().needs(recipe), self.learned)

    def chosen(self, recipe: Recipe, database: Path) -> tuple[TrainSampleSection, int | None]:
        """The share of `refresh.examples` of the rows that are new, drawn as `cot.sample` says.

        Raises:
            DataError: None is new.
        """
        since = new_since(self.learned, "examples", database)
        with connect_read(database) as con:
            count = "SELECT count(*) FROM sample WHERE split = 'train' AND time"
            before, new = (scalar(con, f"{count} {sign} {since}") for sign in ("<", ">="))
        if not new:
            raise DataError("no train rows are new to the examples", code="split-impossible", where="dataset.recut",
                            hint="add more rows")  # fmt: skip
        sample = recipe.cot.sample
        share = self._wanted.share or sample.fraction or min(1.0, (sample.count or 0) / max(before, 1))
        return sample.model_copy(update={"count": None, "fraction": share}), since

    @property
    def _wanted(self) -> NewExamplesSection:
        wanted = self.learned[-1].examples
        assert wanted is not None
        return wanted


@dataclass(frozen=True)
class NewExamples(_OfAddition, Examples):
    """The examples that these chains of thought make, and no others."""

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [Ingest(), NewCoT(self.learned), Embed()]


@dataclass(frozen=True)
class NewKnowledge(_OfAddition, Knowledge):
    """What is written about users and items once later rows are train rows; known prompts are cached."""

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return _by_frozen(super().needs(recipe), self.learned)


_GROWING: Mapping[str, Callable[[Learned], Stage]] = {"examples": NewExamples, "knowledge": NewKnowledge}


def growing_stages(recipe: Recipe, learned: Learned) -> list[Stage]:
    """The stages that make what the level `examples` adds to a recipe's arm; none where it reads no such texts."""
    names = [stage for name in closure(served_needs(recipe)) for stage in declaration(name).grows]
    return [_GROWING[name](learned) for name in names]


def recall_of(job: Job, bundle: Bundle, model: Recommender) -> dict[str, Any] | None:
    """How many of the exact result's examples an approximate search finds among a model's; None where it is exact.

    Queries are samples outside the test split.

    Raises:
        LlmcfError: Fewer than its `min_recall`.
    """
    from llmcf_cli.features.batch import encode_rows
    from llmcf_cli.match.ann import AnnSearcher
    from llmcf_cli.match.guard import Keys, guard_of
    from llmcf_cli.match.materialise import sampled
    from llmcf_cli.match.recall import Probe, require
    from llmcf_cli.match.space import SPACE

    if "examples" not in bundle.inputs:
        return None
    config: Any = bundle.inputs["examples"].config
    if not isinstance(config.search, AnnSearchConfig):
        return None
    resources, space = model.resources, registry().build(SPACE, config.space)
    bank = resources.get("examples")
    index = AnnSearcher(config.search).prepare(
        bank.vector_ES, Keys.of(bank.samples), bank.samples.label_N, balance=config.balance,
        guard=guard_of(config, bundle.clock),
    )  # fmt: skip
    rows = encode_rows(
        sampled(job.database, config.search.checked_queries, config.search.seed), resources.spec.history_length
    )
    asked = rows if config.query == "row" else rows.without_items()
    query_NS = space.query_vectors(
        space.item_vectors(resources.get("text")), asked.item_row_N, asked.history_row_NL
    )  # fmt: skip
    measured = Probe(index, query_NS, Keys.of(asked), config.k, job.progress).measure(index)
    require(measured, config.search.min_recall)
    return {"pools": index.kinds, **asdict(measured)}


def _by_frozen(needs: Sequence[Stage], learned: Learned) -> list[Stage]:
    """The same stages, with the language model that wrote the texts of before."""
    return [FrozenLLM(learned[0]) if isinstance(need, TrainLLM) else need for need in needs]
