"""Settings of spaces and searchers; importing this must stay cheap."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from llmcf_cli.core.types import Broken, ComponentConfig, FileRef, Runtime, rule
from llmcf_cli.recipe.component import FileOr

Weight = Annotated[float, Field(ge=0)]


class SpaceConfig(ComponentConfig):
    """History ⊕ item. Score = history_weight·⟨h, h_i⟩ + item_weight·⟨t, t_i⟩ of unit vectors."""

    encoder: Annotated[str | SerializeAsAny[ComponentConfig], FileRef(), FileOr("encoder")]
    """What turns texts into vectors: the folder of a sentence encoder, e.g. `asset:minilm-l6-v2`, or a component, e.g.
    `{type: hashing}`."""
    history_weight: Weight = 0.5
    """Weight of the similarity of histories. The paper uses 0.5 for ranking and 1 for candidate retrieval."""
    item_weight: Weight = 0.5
    """Weight of the similarity of items. The paper uses 0.5 for ranking and 0 for candidate retrieval."""

    @rule("history_weight", "item_weight")
    def _some_weight(self) -> Iterator[Broken]:
        if self.history_weight == 0 and self.item_weight == 0:
            yield Broken("history_weight and item_weight are both 0, so every example would be equally near")


class TextSpaceConfig(SpaceConfig):
    """The paper's space: items are similar if their texts are."""

    type: Literal["text"] = "text"


class RandomSearchConfig(ComponentConfig):
    """Control: random examples among the allowed ones. The difference from it is what matching adds."""

    type: Literal["random"] = "random"
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw."""


class AnnSearchConfig(ComponentConfig):
    """Approximate search in LanceDB for many examples; guards, balance and padding stay exact.

    The examples of each label have an index of their own. Every run measures what an index misses against exact search.
    """

    type: Literal["ann"] = "ann"
    index: Literal["auto", "flat", "ivf_flat", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"] = "auto"
    """Kind of index. `auto` chooses by the number of examples of a label: `flat` (exact, nothing is built) below
    `flat_below`, then `ivf_flat`, and `ivf_rq` (one bit per number, rescored) from `compress_from` on. If a kind needs
    more examples than there are, the kind before it is used."""
    flat_below: Annotated[int, Field(ge=1)] = 20_000
    """Number of examples of a label below which all of them are compared."""
    compress_from: Annotated[int, Field(ge=1)] = 2_000_000
    """Number of examples of a label from which `auto` compresses vectors."""
    partition_rows: Annotated[int, Field(ge=16)] = 512
    """Examples per partition of an IVF index."""
    probes: Annotated[int, Field(ge=1)] = 8
    """Number of partitions searched per query and label; `llmcf match tune` finds the smallest that suffices."""
    refine: Annotated[int, Field(ge=1)] = 4
    """For compressed kinds: number of candidates, per wanted example, that are rescored with their full vectors."""
    time_block: Annotated[int, Field(ge=16)] = 4096
    """Number of examples between two cuts in time. Examples before a query's cut are searched in the index, with one
    filter for all queries of that cut. Examples from the cut to the query's own time are all compared."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Minimum share of the exact result that must be found; an index that falls short is refused."""
    checked_queries: Annotated[int, Field(ge=64)] = 1024
    """Number of queries on which recall and latency are measured."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed that chooses these queries."""
    query_block: Annotated[int, Field(ge=1), Runtime()] = 16_384
    """Number of queries sorted by time at once; limits memory."""


class ExactSearchConfig(ComponentConfig):
    """Exact search; none of its settings can change a result."""

    type: Literal["exact"] = "exact"
    query_block: Annotated[int, Field(ge=1), Runtime()] = 1024
    """Number of queries scored at once; together with `example_block`, it limits memory."""
    example_block: Annotated[int, Field(ge=1), Runtime()] = 4096
    """Number of examples scored at once."""
    product: Annotated[Literal["float32", "bfloat16"], Runtime()] = "float32"
    """Number format in which candidates are found. `bfloat16` pays off if the processor multiplies it faster (many
    GPUs, CPUs with AMX or AVX512-BF16); candidates that it cannot tell apart are rescored in float32 and then
    exactly."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime()] = "auto"
    """Where scores are computed; `auto` takes a GPU if there is one."""
