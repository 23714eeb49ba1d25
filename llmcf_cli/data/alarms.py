"""What an ingest found that makes results doubtful: alarms that are shown, and limits that stop the run."""

from __future__ import annotations

from collections.abc import Iterator

from llmcf_cli.core.errors import LimitError
from llmcf_cli.data.raw import Meaning
from llmcf_cli.data.remedies import in_expression, quoted
from llmcf_cli.data.report import Alarm, IngestReport, JoinCount
from llmcf_cli.recipe.dataset import DatasetSection

FEW = 30
"""Samples of a label below which an AUC is little more than chance."""
_FEW_NEW = 20
"""Of fewer new items (users) that an addition brings, all may lack a row: it is told, and stops nothing."""
_NEAR = 0.05
_SIGNIFICANT = 0.01


def stop_at_limits(report: IngestReport, section: DatasetSection) -> None:
    """Stop where a count says that no result of these data would mean anything.

    Raises:
        LimitError: A limit of `dataset.limits` is passed; says which, by what.
    """
    limits = section.limits
    for join in report.joins:
        share = join.unjoined / join.wanted
        if share > limits.unjoined and not (report.added and join.wanted < _FEW_NEW):
            raise LimitError("unjoined", share, limits.unjoined, _unjoined(join), hint=_JOIN_HINT)
    total = sum(count.positive + count.negative for count in report.samples)
    shares = {
        "empty_histories": (report.history_empty / total, f"{report.history_empty:,} of {total:,} samples have no "
                            "earlier event of their user", "check the time column in dataset.source.columns"),
        "tied_events": (report.tied_events / report.interactions, f"{report.tied_events:,} of "
                        f"{report.interactions:,} events have the same user and time as another, so their order is "
                        "random", "name a column with finer times in dataset.source.columns"),
    }  # fmt: skip
    for name, (share, what, hint) in shares.items():
        limit = getattr(limits, name)
        if share > limit:
            raise LimitError(name, share, limit, what, hint=hint)
    for count in report.samples:
        for label, samples in (("positive", count.positive), ("negative", count.negative)):
            if samples < limits.per_class:
                what = f"the {count.split} split has {samples:,} {label} of {count.positive + count.negative:,} samples"
                raise LimitError("per_class", samples, limits.per_class, what, hint=_CLASS_HINT)


_JOIN_HINT = "check that both tables write ids the same way, and check item_key or user_key in dataset.source"
_CLASS_HINT = "give the split more rows (dataset.split), or change where positive begins (dataset.label)"


def stop_at_blank_texts(items: int, blank: int, limit: float) -> None:
    """Stop a stage that reads texts where nearly all are blank.

    Args:
        items: All items.
        blank: Those without a text.
        limit: The recipe's `dataset.limits.blank_texts`.

    Raises:
        LimitError: There are more.
    """
    share = blank / max(items, 1)
    if share > limit:
        raise LimitError(
            "blank_texts", share, limit, f"{blank:,} of {items:,} items have no text",
            hint="name an item table in dataset.source and its columns in dataset.text.item, or compare only arms that "
            "do not read texts: rec.compare: [none]",
        )  # fmt: skip


def find_alarms(report: IngestReport, section: DatasetSection, meaning: Meaning) -> Iterator[Alarm]:
    """What a user should know before going on.

    Args:
        report: What ingest found.
        section: The recipe's `dataset`.
        meaning: What the columns of its interactions mean.
    """
    for similar in report.similar:
        column = meaning.item if similar.entity == "item" else meaning.user
        examples = "; ".join(", ".join(map(repr, alike)) for alike in similar.examples[:3])
        derived = section.derive.interactions.get(column)
        made = quoted(f"upper({in_expression(column) if derived is None else derived.strip()})")
        yield Alarm(
            "similar_ids", f"{similar.ids:,} {similar.entity} ids differ only in case or surrounding punctuation; they "
            f"may be only {similar.different:,} different ones: {examples}",
            f"if so, derive one id: dataset.derive.interactions.{column}: {made}, and likewise in the "
            f"{similar.entity} table, if there is one" if meaning.settings else "",
        )  # fmt: skip
    for texts in report.texts:
        if texts.blank and texts.entity == "item":
            yield Alarm(
                "blank_texts", f"{texts.blank:,} of {texts.rows:,} items have no text ({texts.samples:,} samples)",
                "dataset.text.item",
            )  # fmt: skip
    for join in report.joins:
        if join.unjoined:
            yield Alarm("unjoined", _unjoined(join), _JOIN_HINT)
    yield from _order_alarms(report)
    yield from split_alarms(report, section)


SPLIT_ALARMS = frozenset({"few_samples", "taken_before", "no_repeats", "train_negative", "negatives"})
"""Codes of `split_alarms`."""


def split_alarms(report: IngestReport, section: DatasetSection) -> Iterator[Alarm]:
    """The part of `find_alarms` that depends on which samples are of which split."""
    yield from _class_alarms(report)
    yield from _rule_alarms(report, section)


def _order_alarms(report: IngestReport) -> Iterator[Alarm]:
    total = sum(count.positive + count.negative for count in report.samples)
    if 2 * report.history_empty > total:
        yield Alarm(
            "empty_histories", f"{report.history_empty:,} of {total:,} samples have no earlier event of their user"
        )
    if 10 * report.tied_events > report.interactions:
        yield Alarm(
            "tied_events", f"{report.tied_events:,} of {report.interactions:,} events share their user and time with "
            "another: their order is random, by the seed, and none is in another's history",
            "use finer times, unless they belong to one purchase",
        )  # fmt: skip


def _class_alarms(report: IngestReport) -> Iterator[Alarm]:
    for count in report.samples:
        least, label = min((count.positive, "positive"), (count.negative, "negative"))
        if least < FEW:
            yield Alarm("few_samples", f"the {count.split} split has {least:,} {label} samples: AUC means little")


def _rule_alarms(report: IngestReport, section: DatasetSection) -> Iterator[Alarm]:
    found = {rule.code: rule.auc for rule in report.rules if rule.auc is not None}
    taken = found.get("taken_before", 0.5)
    if abs(taken - 0.5) > _NEAR:
        yield Alarm(
            "taken_before", f'the rule "{_meaning(report, "taken_before")}" alone reaches AUC {taken:.3f} on '
            "validation: compare gains with it, and look at the slices of first and repeated pairs",
            "" if section.repeats == "first" else "dataset.repeats: first keeps only first events",
        )  # fmt: skip
    if section.repeats == "keep" and report.negatives is not None and not report.repeats:
        yield Alarm(
            "no_repeats", "no pair occurs twice; yet with dataset.repeats: keep, a negative may be an item taken "
            "earlier, and no positive is", "set dataset.repeats: first",
        )  # fmt: skip
    for rule in report.rules:
        expected = 0.5 if rule.expected is None else rule.expected
        if rule.code != "train_negative" or report.negatives is None or rule.auc is None:
            continue
        if abs(rule.auc - expected) > _NEAR:
            yield Alarm(
                "train_negative", f"train negatives alone reach AUC {rule.auc:.3f} on validation ({expected:.3f} "
                "expected): they reveal what their users take",
            )  # fmt: skip
    audit = report.negatives
    if audit is not None and audit.violations:
        yield Alarm("negatives", f"{audit.violations:,} negatives are items that should not be drawn")
    if audit is not None and audit.p < _SIGNIFICANT:
        yield Alarm(
            "negatives", f"{audit.taken_later:,} train negatives are items that their user takes later "
            f"({audit.expected:,.1f} expected, p = {audit.p:.3f}): they reveal what users take later",
        )  # fmt: skip


def _meaning(report: IngestReport, code: str) -> str:
    return next(rule.meaning for rule in report.rules if rule.code == code)


def _unjoined(join: JoinCount) -> str:
    counts = [*join.events, *[0] * (len(join.examples) - len(join.events))]
    named = [f"{one!r}{f' ({n:,} events)' if n else ''}" for one, n in zip(join.examples, counts, strict=True)]
    examples = f", most often {', '.join(named)}" if named else ""
    listed = f"; ids in that table without events: {', '.join(map(repr, join.listed))}" if join.listed else ""
    return (
        f"{join.unjoined:,} of {join.wanted:,} {join.entity}s have no row in the {join.entity} table{examples}{listed}"
    )
