"""What the refreshes of a replay's arm cost, whatever other arms have made already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.stages.engine.base import Node
from llmcf_cli.stages.engine.run import Step
from llmcf_cli.stages.steps import gen_cot, knowledge
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.knowledge import Knowledge, KnowledgeOutput, section_of
from llmcf_cli.store.open import read_parquet

_SHORT = 16
_BLOCK = 5_000


@dataclass(frozen=True)
class Cost:
    """What making something took.

    Attributes:
        calls: Calls of a language model.
        texts: Texts that were written, by a language model or by an engine that writes from the data.
        prompt_tokens: Tokens that the language model read.
        new_tokens: Tokens that it wrote.
        seconds: Time of all stages as they ran; texts that another arm has had written are in the cache then.
        bytes: Size of their results, without files that these have from what they were made of.
    """

    calls: int = 0
    texts: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(one + two for one, two in zip(vars(self).values(), vars(other).values(), strict=True)))


def cost_of(steps: Sequence[Step], seen: set[tuple[str, str]], told: set[str]) -> Cost:
    """What the results of a plan took that are new to an arm.

    Args:
        steps: As planned; results that are not there count nothing.
        seen: (stage, key) of the results that the arm had; those of the plan are added.
        told: Short digests of the calls that it had made; likewise.
    """
    total = Cost()
    for step in steps:
        node = step.node
        known = (node.stage.name, node.key)
        manifest = node.context.store.look(*known).whole
        if manifest is None or known in seen:
            continue
        seen.add(known)
        looked = [need.context.store.look(need.stage.name, need.key) for need in node.needs.values()]
        there = {record.sha256 for one in looked if one.manifest for record in one.manifest.files.values()}
        size = sum(record.size for record in manifest.files.values() if record.sha256 not in there)
        total += Cost(seconds=manifest.seconds, bytes=size)
        for call, cost in _calls(node, told):
            told.add(call)
            total += cost
    return total


def _calls(node: Node, told: set[str]) -> Iterator[tuple[str, Cost]]:
    """The calls that a result was made with and that are not among some, each with its cost."""
    from llmcf_cli.llm.writing.workers import SharedTexts

    if isinstance(node.stage, GenCoT) and "data" in node.context.recipe.cot.engine.needs:
        output = CoTOutput(node.folder)
        for file in (output.cots, output.dropped):
            for prompt in read_parquet(file, ["prompt_hash"])["prompt_hash"].to_pylist():
                if (call := prompt[:_SHORT]) not in told:
                    yield call, Cost(texts=1)
    elif isinstance(node.stage, Knowledge) and "data" in section_of(node.context.recipe).engine.needs:
        # A model would be asked again about a user once there are later events to write from.
        for about in read_parquet(KnowledgeOutput(node.folder).texts, ["entity", "row", "as_of"]).to_pylist():
            if (call := digest_json(about)[:_SHORT]) not in told:
                yield call, Cost(texts=1)
    elif isinstance(node.stage, GenCoT | Knowledge):
        asked = (gen_cot if isinstance(node.stage, GenCoT) else knowledge).calls_of(node)
        with SharedTexts(node.context.generations) as cache:
            for one in asked:
                for start in range(0, len(one.prompts), _BLOCK):
                    for prompt, index, *_, read, written in cache.rows(
                        one.model, one.decode, one.prompts[start : start + _BLOCK]
                    ):
                        call = digest_json([one.model, one.decode, prompt, index])[:_SHORT]
                        if call not in told:
                            yield call, Cost(1, 1, read, written)
