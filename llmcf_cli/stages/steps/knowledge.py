"""`knowledge`: the tuned language model writes about users and items, and the texts become vectors in LanceDB."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.features.vectors import vector_column
from llmcf_cli.llm.writing.reports import KnowledgeReport
from llmcf_cli.llm.writing.travel import StepCalls
from llmcf_cli.recipe.asking import KnowledgeSection
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.words import words_of
from llmcf_cli.stages.engine.base import Context, Job, Node, Stage
from llmcf_cli.stages.steps.embed import EncodedTexts, text_encoder
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.writing import (
    SPARED,
    WritingModel,
    places,
    texts_here,
    with_local_files,
    writing_model,
    writing_stages,
)
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import connect_read, open_lance, read_parquet
from llmcf_cli.store.tables import knowledge


class KnowledgeOutput(Output):
    """Texts about users and items."""

    texts = File("knowledge_text.parquet", "table knowledge_text")
    lance = File("lance", "LanceDB table knowledge")


@dataclass(frozen=True, kw_only=True)
class KnowledgeStageReport(KnowledgeReport):
    """What was written and encoded.

    Attributes:
        dim: Numbers in a vector.
        read: What the encoder read.
        reach: Split → share of its samples whose user's, and whose item's, text is for them.
    """

    dim: int
    read: EncodedTexts
    reach: dict[str, dict[str, float]]


class Knowledge(Stage):
    """Preferences of users and facts about items, by the encoder of `match.space`; runs where an arm reads them."""

    name = "knowledge"
    version = 2
    report = KnowledgeStageReport
    output = KnowledgeOutput
    reads_texts = True
    sparing = SPARED

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "knowledge": section_of(recipe), "match.space": recipe.match.space}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), *writing_stages(section_of(recipe).engine))

    def run(self, job: Job) -> KnowledgeStageReport:
        from llmcf_cli.llm.writing.knowledge import write_knowledge, write_knowledge_from_data

        out, section = KnowledgeOutput(job.out), section_of(job.recipe)
        if "data" in section.engine.needs:
            report = write_knowledge_from_data(
                section, data=job.database, source=job.recipe.dataset.source, out=out.texts, seed=job.recipe.seed,
                words=words_of(job.recipe.dataset.label), progress=job.progress,
            )  # fmt: skip
        else:
            model = writing_model(job.context, job.inputs, job.keys, section.engine)
            arguments = _arguments(job.context, job.inputs, model)
            report = write_knowledge(**arguments, out=out.texts, progress=job.progress, pool=model.pool)
        dim, read = _encode(job, read_parquet(out.texts))
        reach = _reach(job.database, out.texts)
        return KnowledgeStageReport(**vars(report), dim=dim, read=read, reach=reach)

    def spared(self, node: Node) -> str:
        return texts_here(node)


def calls_of(node: Node, users: Collection[int] | None = None) -> list[StepCalls]:
    """What a recipe's `knowledge` asks its model; nothing where the engine writes from the data.

    Args:
        node: The stage.
        users: Rows of the users that are meant; None: all.

    Raises:
        LlmcfError: The stages that it reads are not made.
    """
    from llmcf_cli.llm.writing.knowledge import list_calls

    if "data" in section_of(node.context.recipe).engine.needs:
        return []
    node.require_needs()
    folders, keys = places(node)
    model = writing_model(node.context, folders, keys, section_of(node.context.recipe).engine)
    return list_calls(**_arguments(node.context, folders, model), users=users)


def _arguments(context: Context, inputs: Mapping[str, Path], model: WritingModel) -> dict[str, Any]:
    """What writing and the list of its calls share."""
    from llmcf_cli.recipe.prompt import load_prompt

    section, locate = section_of(context.recipe), context.locate.path
    section = section.model_copy(update={"engine": with_local_files(section.engine, context.locate)})
    return {
        "section": section, "data": IngestOutput(inputs["ingest"]).database, "model": model.folder,
        "model_digest": model.name,
        "prompts": {
            entity: load_prompt(locate(file)) for entity, file in
            (("user", section.user_prompt), ("item", section.item_prompt)) if file is not None
        },
        "cache": context.generations, "seed": context.recipe.seed, "words": words_of(context.recipe.dataset.label),
    }  # fmt: skip


def section_of(recipe: Recipe) -> KnowledgeSection:
    """The recipe's `knowledge`.

    Raises:
        LlmcfError: It has none.
    """
    if recipe.knowledge is None:
        raise LlmcfError(
            "the recipe has no section `knowledge`", code="section-missing", where="knowledge",
            hint="add `knowledge: {user_prompt: prompts/kar_user.yaml, item_prompt: prompts/kar_item.yaml}`, or "
            "`knowledge: {engine: facts}`, which needs no language model",
        )  # fmt: skip
    return recipe.knowledge


def _encode(job: Job, texts: pa.Table) -> tuple[int, EncodedTexts]:
    """Write the vectors; their length, and what the encoder read."""
    encoder = text_encoder(job)
    vector_NT = encoder.encode(texts["text"], progress=job.progress, what="knowledge")
    spec = knowledge(encoder.dim)
    data = texts.drop_columns(["text"]).append_column("vector", vector_column(vector_NT)).cast(spec.schema)
    open_lance(KnowledgeOutput(job.out).lance).create_table(spec.name, data)
    return encoder.dim, EncodedTexts(**encoder.counts)


def _reach(database: Path, texts: Path) -> dict[str, dict[str, float]]:
    """Share of each split's samples whose user's, and whose item's, text is for them."""
    with connect_read(database) as connection:
        rows = connection.execute(
            """
            SELECT split, avg((u.row IS NOT NULL)::INT), avg((i.row IS NOT NULL)::INT) FROM sample
            LEFT JOIN read_parquet($texts) u ON u.entity = 'user' AND u.row = user_row AND sample.time > u.as_of
            LEFT JOIN read_parquet($texts) i ON i.entity = 'item' AND i.row = item_row
            GROUP BY split ORDER BY min(sample.time), split
            """,
            {"texts": str(texts)},
        ).fetchall()
    return {split: {"user": user, "item": item} for split, user, item in rows}
