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
    """What turns texts into vectors: a sentence encoder's folder, e.g. `asset:minilm-l6-v2`, or a component, e.g.
    `{type: hashing}`."""
    history_weight: Weight = 0.5
    """Weight of the likeness of histories; 0.5 for ranking and 1 for candidate retrieval in the paper."""
    item_weight: Weight = 0.5
    """Weight of the likeness of items; 0.5 for ranking and 0 for candidate retrieval in the paper."""

    @rule("history_weight", "item_weight")
    def _some_weight(self) -> Iterator[Broken]:
        if self.history_weight == 0 and self.item_weight == 0:
            yield Broken("history_weight and item_weight are both 0, which makes every example equally near")


class TextSpaceConfig(SpaceConfig):
    """The paper's: items are alike if their texts are."""

    type: Literal["text"] = "text"


class RandomSearchConfig(ComponentConfig):
    """Control: random examples among the allowed ones. What matching adds is the difference to this."""

    type: Literal["random"] = "random"
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the draw."""


class AnnSearchConfig(ComponentConfig):
    """Approximate search in LanceDB for many examples; guards, balance and padding stay exact.

    Examples of one label are one index. What an index leaves out is measured against exact search in every run.
    """

    type: Literal["ann"] = "ann"
    index: Literal["auto", "flat", "ivf_flat", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"] = "auto"
    """`auto`: `flat` (exact, nothing is built) below `flat_below` examples of a label, `ivf_flat` from there,
    `ivf_rq` (one bit per number, rescored) from `compress_from`. A kind that needs more examples than there are
    gives way to the one before it."""
    flat_below: Annotated[int, Field(ge=1)] = 20_000
    """Examples of a label below which all of them are compared."""
    compress_from: Annotated[int, Field(ge=1)] = 2_000_000
    """Examples of a label from which `auto` compresses vectors."""
    partition_rows: Annotated[int, Field(ge=16)] = 512
    """Examples per partition of an IVF index."""
    probes: Annotated[int, Field(ge=1)] = 8
    """Partitions looked into per query and label; `llmcf match tune` finds the fewest that do."""
    refine: Annotated[int, Field(ge=1)] = 4
    """Compressed kinds: candidates per wanted example that are rescored by their full vectors."""
    time_block: Annotated[int, Field(ge=16)] = 4096
    """Examples between two cuts in time. Before the cut of a query the index is asked, with one filter for all queries
    of that cut; from the cut to the query's own time all examples are compared."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Least share of the exact result that must be found; an index that misses it is refused."""
    checked_queries: Annotated[int, Field(ge=64)] = 1024
    """Queries that recall and latency are measured on."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of these queries."""
    query_block: Annotated[int, Field(ge=1), Runtime()] = 16_384
    """Queries sorted by time at once; bounds the memory used."""


class ExactSearchConfig(ComponentConfig):
    """Exact search; none of its settings can change a result."""

    type: Literal["exact"] = "exact"
    query_block: Annotated[int, Field(ge=1), Runtime()] = 1024
    """Queries scored at once; with `example_block` it bounds the memory used."""
    example_block: Annotated[int, Field(ge=1), Runtime()] = 4096
    """Examples scored at once."""
    product: Annotated[Literal["float32", "bfloat16"], Runtime()] = "float32"
    """Numbers in which candidates are found. `bfloat16` pays where the processor multiplies it faster (many GPUs, CPUs
    with AMX or AVX512-BF16); what it cannot tell apart is scored in float32 and then exactly."""
    device: Annotated[Literal["auto", "cpu", "cuda"], Runtime()] = "auto"
    """Where scores are computed; `auto` takes a GPU when there is one."""
