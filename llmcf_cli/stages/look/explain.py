"""A recipe's stored matches of one sample, explained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmcf_cli.core.errors import StoreError, UnknownNameError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.stages.engine.base import Context, Node
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.embed import EmbedOutput
from llmcf_cli.stages.steps.match import Match, MatchOutput

if TYPE_CHECKING:
    from llmcf_cli.match.explain import Explanation


def matched_node(context: Context, arm: str | None = None) -> Node:
    """The recipe's matches, or those of one of its arms.

    Raises:
        UnknownNameError: There is no such arm.
        StoreError: They have not been made.
    """
    recipe = context.recipe
    if arm is not None:
        if arm not in recipe.arms:
            raise UnknownNameError("arm", arm, recipe.arms, where="--arm")
        recipe = recipe.arms[arm]
    steps = plan(replace(context, recipe=recipe), [Match()])
    if steps[-1].runs:
        raise StoreError(
            f"no matches yet: {steps[-1].reason}", code="not-made", where=recipe.name, hint="llmcf match RECIPE"
        )
    return steps[-1].node


def explain_match(node: Node, sample_id: int) -> Explanation:
    """What the sample was matched with; see `match.explain`.

    Raises:
        StoreError: The sample was not matched, or what is read is damaged.
    """
    from llmcf_cli.match.explain import explain
    from llmcf_cli.store.open import read_lance

    texts = node.needs["examples"].needs["gen-cot"]
    for read in (node, texts, *node.needs.values()):
        read.check()
    folders = {role: need.folder for role, need in node.needs.items()}
    recipe = node.context.recipe
    return explain(
        sample_id, recipe.match.space, database=IngestOutput(folders["ingest"]).database,
        matches=MatchOutput(node.folder).matches,
        cots=CoTOutput(texts.folder).cots,
        item_text=read_lance(EmbedOutput(folders["embed"]).lance, "item_text"),
        history_length=recipe.dataset.history.max_length, query=recipe.match.query,
    )  # fmt: skip
