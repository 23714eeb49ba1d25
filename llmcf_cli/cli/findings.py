"""What each stage found, in a few lines from its report: the functions that `findings` of a stage name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from llmcf_cli.cli.console import console
from llmcf_cli.cli.tables import number, optional, plain_table, text_table
from llmcf_cli.llm.asking import tables as ability_tables

if TYPE_CHECKING:
    from llmcf_cli.llm.asking.reports import TeacherReport
    from llmcf_cli.llm.writing.reports import CoTReport
    from llmcf_cli.stages.steps.ability import AbilityReport
    from llmcf_cli.stages.steps.baseline import BaselineReport
    from llmcf_cli.stages.steps.collab import CollabReport
    from llmcf_cli.stages.steps.embed import EmbedReport, EncodedTexts, ExamplesReport
    from llmcf_cli.stages.steps.knowledge import KnowledgeStageReport
    from llmcf_cli.stages.steps.match import MatchStageReport
    from llmcf_cli.stages.steps.refresh import RefreshReport
    from llmcf_cli.stages.steps.search import SearchReport
    from llmcf_cli.stages.steps.train_llm import TrainLLMReport
    from llmcf_cli.stages.steps.train_rec import ArmReport, TrainRecReport

_FEW = 8
"""Entries of a mapping that stand on one line."""
_FEW_SAMPLES = 100
"""Validation samples below which a choice by them means little."""


def each_field(report: Any) -> None:
    """Any report, for a stage that names nothing else.

    Fields that are a number, a text or a mapping of few stand one a line, lists of dataclasses below as tables.
    """
    table, lists = plain_table(), {}
    table.show_header = False
    for field in fields(report):
        title, value = field.name.replace("_", " "), getattr(report, field.name)
        if isinstance(value, str | float | int | None):
            table.add_row(title, _told(value))
        elif isinstance(value, Mapping) and len(value) <= _FEW:
            table.add_row(title, ", ".join(f"{name} {number(one)}" for name, one in value.items()))
        elif isinstance(value, list | tuple) and value and all(is_dataclass(row) for row in value):
            lists[title] = value
    console().print(table)
    for title, rows in lists.items():
        names = [field.name for field in fields(rows[0])]
        cells = [[_told(getattr(row, name)) for name in names] for row in rows]
        text_table([name.replace("_", " ") for name in names], cells, title=title)


def _told(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else number(value)


def at_the_end(report: Any) -> None:
    """Nothing yet: the end of the run shows it."""


def _counted(counts: Mapping[str, int]) -> str:
    """`3 prompts lost …, 1 text …`, without what there is none of."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def train_llm(report: TrainLLMReport) -> None:
    """The mix and the loss."""
    table = plain_table(
        "mix", "available", "taken", "share (asked)", "tokens", "answer tokens", "left out or shortened"
    )
    for part in report.mix.parts:
        counts = ", ".join(f"{reason}: {count:,}" for reason, count in part.counts.items() if count)
        table.add_row(
            part.source,
            f"{part.available:,}",
            f"{part.samples:,}",
            f"{part.share:.1%} ({part.asked:.1%})",
            f"{part.tokens:,}",
            f"{part.answer_tokens:,}",
            counts or "none",
        )
    console().print(table)
    for part in report.mix.parts:
        for row in part.bad:
            console().print(f"left out: {row}", style="yellow", markup=False, soft_wrap=True)
    tuned = report.tune
    resumed = f", resumed from step {tuned.resumed_from:,}" if tuned.resumed_from else ""
    console().print(
        f"{tuned.steps:,} steps{resumed}, {tuned.tokens:,} tokens at {tuned.tokens_per_second:,.0f} tokens/s "
        f"in {tuned.precision}"
    )
    losses = [loss for _, loss in tuned.loss]
    half = (len(losses) + 1) // 2
    means = [sum(part) / len(part) for part in (losses[:half], losses[half:]) if part]
    console().print(
        "mean loss in the first and second half of the steps: " + ", ".join(f"{mean:.3f}" for mean in means)
    )


def gen_cot(report: CoTReport) -> None:
    """What was kept and dropped, what it cost, and an example."""
    from llmcf_cli.llm.writing.cost import comparison_rows

    dropped = ", ".join(f"{reason}: {count:,}" for reason, count in report.dropped.items()) or "none"
    console().print(
        f"{report.kept:,} of {report.wanted:,} chains of thought kept (dropped: {dropped}); "
        f"{report.regenerated:,} retried, {report.rescued:,} of them then kept; "
        f"{report.generated:,} texts generated, {report.cached:,} found in the cache, {report.failed:,} "
        f"failures, {report.tokens_per_second:,.0f} tokens/s"
    )
    for what, count in report.changed.items():
        console().print(f"{count:,} prompts: {what}", style="yellow", markup=False)
    said = {
        "prompts without their oldest history": report.histories_shortened,
        "texts end in mid-sentence": report.cut_off, "samples have an item without text": report.blank,
    }  # fmt: skip
    if any(said.values()):
        console().print(_counted(said), style="yellow", markup=False)
    for reason, count in report.set_aside.items():
        console().print(f"{count:,} set aside: {reason}", style="yellow", markup=False)
    if report.generated:
        table = plain_table("cost", "estimate", "actual", "difference")
        for row in comparison_rows(report.estimate, report.actual):
            table.add_row(*row)
        console().print(table)
    if len(report.steps) > 1:
        steps = [f"{name} {s['generated']:,} texts, {s['new_tokens']:,} tokens" for name, s in report.steps.items()]
        console().print(f"written now: {'; '.join(steps)}", markup=False)
    console().print("judge: " + ", ".join(f"{name} {value:.2f}" for name, value in report.scores.items()))
    for example in report.examples[:1]:
        console().print(f"e.g. {example['decision']}: {example['item']}", markup=False, style="dim")
        console().print(f"     {' '.join(example['text'].split())}", markup=False, style="dim")


def collab(report: CollabReport) -> None:
    """The vectors."""
    console().print(
        f"{report.items:,} items as {report.dim}-dimensional vectors from {report.positives:,} positives, "
        f"{report.variance_kept:.1%} of the variance kept; {report.folds} folds in {report.seconds:.1f} s"
    )


def embed(report: EmbedReport) -> None:
    """The vectors of items."""
    _encoded(f"{report.items:,} items", report)
    if report.copied:
        console().print(f"{report.copied:,} of them copied from the base")


def refresh(report: RefreshReport) -> None:
    """What is new to the model."""
    console().print(
        f"{report.items:,} new items and {report.users:,} new users, known by features, texts and histories"
        + ("; weights unchanged" if report.learned is None else "")
    )
    if learned := report.learned:
        kept = f"the weights of epoch {learned.epoch}" if learned.epoch else "the earlier weights"
        console().print(
            f"learned from {learned.new:,} new rows and {learned.replayed:,} replayed ones, {learned.values:,} new "
            f"values; {learned.epochs} epochs, kept: {kept}; {learned.monitor} on {learned.validation:,} validation "
            f"samples {learned.before:.4f} → {learned.after:.4f}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        if 0 < learned.validation < _FEW_SAMPLES:
            console().print(
                f"! {learned.validation:,} validation samples are too few to choose weights by: add rows, or raise "
                "refresh.validation",
                style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip
    if report.without_text:
        console().print(f"! {report.without_text:,} new items have no text", style="yellow")
    for one in report.unknown:
        what = f"! {one.feature}: {one.rows:,} new rows have values unseen in training"
        console().print(what, style="yellow", markup=False)


def examples(report: ExamplesReport) -> None:
    """The vectors of examples."""
    _encoded(f"{report.examples:,} examples", report)
    if report.dropped:
        console().print(f"{report.dropped:,} chains of thought dropped by cot.review")
    if report.unknown_reviews:
        what = f"! {report.unknown_reviews:,} verdicts in cot.review match none of these texts"
        console().print(what, style="yellow", soft_wrap=True)


def _encoded(what: str, report: EmbedReport | ExamplesReport) -> None:
    console().print(f"{what} as {report.dim}-dimensional vectors, encoded in {report.seconds:.1f} s")
    _read(report.read)


def _read(read: EncodedTexts) -> None:
    """The texts that the encoder cut."""
    if read.cut:
        console().print(
            f"! {read.cut:,} of {read.texts:,} texts ({read.cut_share:.1%}) are longer than the "
            f"{read.longest:,} tokens that the encoder reads: it ignores the rest",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip


def match(report: MatchStageReport) -> None:
    """The audit, and what an index finds."""
    audit = report.audit
    violations = sum(kind.count for kind in audit.violations)
    style = "green" if violations == 0 else "bold red"
    kinds = ", ".join(kind.kind for kind in audit.violations)
    console().print(f"audit: {violations} violations ({kinds})", style=style, markup=False)
    console().print(
        f"{audit.samples:,} samples × {audit.k}, {audit.positive_share or 0:.1%} of the examples positive, "
        f"{audit.padding_share:.1%} of the places empty, {audit.examples_used:,} of "
        f"{report.match.examples:,} examples used"
    )
    shift = report.own_item
    if shift is not None and shift.misleads:
        console().print(
            "! positive examples of the sample's own item: the share of positive samples that have one, minus that of "
            f"negative samples, is {100 * shift.train:+.1f} points in train and {100 * shift.validation:+.1f} on "
            "validation. What a model learns from this in train does not hold elsewhere: compare with "
            "`match.exclude: own_item`",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
    found = report.match.search
    if found is not None:
        kinds = ", ".join(f"{name} {pool['kind']}" for name, pool in found["pools"].items())
        console().print(
            f"index ({kinds}): {found['recall']:.2%} of the exact result on {found['queries']:,} queries, "
            f"p50 {found['p50_ms']:.2f} and p99 {found['p99_ms']:.2f} ms per query "
            f"(exact: p50 {found['exact_p50_ms']:.2f})"
        )


def knowledge(report: KnowledgeStageReport) -> None:
    """The texts, whom they reach, and two of them."""
    console().print(
        f"texts about {report.users:,} users and {report.items:,} items as {report.dim}-dimensional vectors "
        f"({report.empty:,} empty); {report.generated:,} texts generated, {report.cached:,} found in the "
        f"cache, {report.tokens_per_second:,.0f} tokens/s"
    )
    left = {"prompts without their oldest history": report.histories_shortened,
            "users and items left out: no text": report.blank, **report.changed}  # fmt: skip
    if any(left.values()):
        console().print(_counted(left), style="yellow", markup=False)
    _read(report.read)
    reach = [f"{split} {share['user']:.0%} and {share['item']:.0%}" for split, share in report.reach.items()]
    console().print(f"samples with a text about their user and item: {', '.join(reach)}")
    for example in report.examples[:: max(1, len(report.examples) - 1)]:
        text = " ".join(example["text"].split())
        console().print(f"e.g. {example['entity']} {example['row']}: {text}", markup=False, style="dim")


def teacher(report: TeacherReport) -> None:
    """The answers."""
    auc = "only one label" if report.auc is None else f"AUC {report.auc:.4f}"
    console().print(
        f"{report.scored:,} of {report.wanted:,} train samples scored ({auc} on them), {report.too_long:,} "
        f"questions too long, {report.histories_shortened:,} without their oldest history; "
        f"{report.asked:,} questions asked, {report.cached:,} found in the cache, "
        f"{report.questions_per_second:,.1f} questions/s; P(yes) + P(no) averages {report.mass:.2g}",
        soft_wrap=True,
    )


def ability(report: AbilityReport) -> None:
    """The measures."""
    shown = [
        f"{ability_tables.NAMES[name]} {ability_tables.shown(name, asdict(estimate))}"
        for name, estimate in report.measures.items()
    ]
    console().print(", ".join(shown), markup=False)
    console().print(
        f"{report.samples:,} samples; {report.too_long:,} questions too long, {report.histories_shortened:,} "
        "without their oldest history"
    )
    console().print(
        f"{report.asked:,} questions asked, {report.cached:,} found in the cache, "
        f"{report.questions_per_second:,.1f} questions/s; P(yes) + P(no) averages {report.mass:.2g}",
        soft_wrap=True,
    )
    if report.alarm:
        console().print(f"! {report.alarm}", style="bold red", markup=False, soft_wrap=True)


def search(report: SearchReport) -> None:
    """The best trial."""
    settings = ", ".join(f"{path} {number(value)}" for path, value in report.best.items())
    console().print(
        f"best of {report.trials} trials: validation {report.monitor_title} {report.value:.4f} "
        f"(the recipe's own settings: {optional(report.start)}) with {settings}",
        markup=False,
    )


def train_rec(report: TrainRecReport) -> None:
    """The best epoch."""
    console().print(
        f"best epoch {report.best_epoch} of {len(report.epochs)}: validation {_monitored(report)}, "
        f"{report.num_parameters:,} parameters, {report.samples_per_second:,.0f} samples/s"
    )
    if report.best_epoch == len(report.epochs):
        console().print("! still improving at the last epoch: raise rec.fit.epochs", style="yellow", markup=False)


def baseline(report: BaselineReport) -> None:
    """The measure on validation."""
    console().print(f"validation {_monitored(report)}, fitted in {report.seconds:.1f} s")


def _monitored(report: ArmReport) -> str:
    """The measure that choices went by, at its best."""
    value = report.best.get(report.monitor)
    return f"{report.monitor_title} {'undefined' if value is None else f'{value:.4f}'}"
