"""`dataset.features`: which columns of items and users become features, in which type, and what they look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError, closest
from llmcf_cli.core.place import Place
from llmcf_cli.data.entities import RESERVED
from llmcf_cli.data.raw import Entity, columns_of, name, text
from llmcf_cli.data.remedies import in_expression, number_expression, quoted
from llmcf_cli.data.report import FeatureCount
from llmcf_cli.features.choice import MAX_VALUES, Choice
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.features import FeatureSection
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES
from llmcf_cli.tabular.values import as_number, present

_ENTITIES: tuple[Entity, ...] = ("item", "user")


def chosen_features(con: Any, section: DatasetSection) -> tuple[Choice, ...]:
    """The features of a data set, checked against the columns of `item_feature` and `user_feature`.

    Without `dataset.features` they are the columns that the source declares to hold several values.

    Raises:
        RecipeError: A feature is no column, holds lists and is not `multi`, or is `multi` and holds none; all of them.
    """
    problems: list[LlmcfError] = []
    found: list[Choice] = []
    for entity in _ENTITIES:
        columns = {c: kind for c, kind in columns_of(con, f"{entity}_feature").items() if c != f"{entity}_id"}
        if section.features is None:
            declared = getattr(section.source, "multi", ())
            found += [Choice(entity, column, "multi") for column in columns if column in declared]
            continue
        features = section.features.item if entity == "item" else section.features.user
        for column, feature in features.items():
            column = f"{column}_" if column.lower() in RESERVED[entity] and f"{column}_" in columns else column
            where = f"dataset.features.{entity}.{column}"
            problem = kind_problem(entity, column, feature, columns, where)
            if problem is not None:
                problems.append(problem)
            else:
                found.append(_choice(entity, column, feature))
    if problems:
        raise RecipeError(problems)
    return tuple(found)


def feature_problem(column: str, columns: Sequence[str], entity: Entity, where: Place | str) -> LlmcfError | None:
    """That a feature is no column of its table; None: it is one."""
    if column in columns:
        return None
    if not columns:
        return LlmcfError(f"the data set has no {entity} columns", code="feature-unknown", where=where)
    near = closest(column, columns)
    what = f"unknown {entity} column {column!r}" + (f"; did you mean {near!r}?" if near else "")
    return LlmcfError(
        what,
        code="feature-unknown",
        where=where,
        allowed=tuple(columns),
        hint="name a column of the table, or derive one",
    )


def kind_problem(
    entity: Entity, column: str, feature: FeatureSection, columns: Mapping[str, str], where: Place | str
) -> LlmcfError | None:  # fmt: skip
    """What is wrong with a feature: it is no column, or its column is not of its kind; None: nothing.

    Args:
        entity: Whose feature it is.
        column: Its column.
        feature: What the recipe says of it.
        columns: Columns of the table → DuckDB type; empty: not known yet.
        where: Its place in the recipe.
    """
    problem = feature_problem(column, list(columns), entity, where)
    if problem is not None or not columns[column]:
        return problem
    is_list = columns[column].endswith("[]")
    if is_list and feature.kind != "multi":
        hint = f"make it multi, or derive one value of it in dataset.derive.{entity}s"
        return LlmcfError(
            f"holds lists, so it cannot be {feature.kind}",
            code="feature-kind",
            where=where,
            allowed=("multi",),
            hint=hint,
        )
    if not is_list and feature.kind == "multi":
        hint = f"name it in dataset.source.multi, or derive a list: parts({in_expression(column)}, {text('|')})"
        return LlmcfError("holds single texts, not lists", code="feature-kind", where=where, hint=hint)
    return None


def feature_sql(choice: Choice, sql_type: str) -> str:
    """SQL of a feature's value, of the type that its kind has in the tables `item` and `user`.

    Args:
        choice: The feature.
        sql_type: DuckDB type of its column.
    """
    column = name(choice.name)
    if choice.kind == "multi":
        return f"coalesce(CAST({column} AS VARCHAR[]), [])"
    if choice.kind == "categorical":
        return f"CAST({column} AS VARCHAR)"
    return as_number(column, sql_type)


def stored_type(choice: Choice) -> str:
    """DuckDB type of a feature in the tables `item` and `user`."""
    return {"multi": "VARCHAR[]", "categorical": "VARCHAR", "numeric": "DOUBLE"}[choice.kind]


def feature_counts(
    con: Any, choices: Sequence[Choice], section: DatasetSection
) -> tuple[FeatureCount, ...]:  # fmt: skip
    """What the features look like over the items and users that have interactions.

    Args:
        con: Connection with `item_number`, `item_feature`, `user_number` and `user_feature`.
        choices: The features.
        section: The recipe's `dataset`; its `max_bad_rows` is the share of the values of a numeric feature that may be
            no numbers.

    Raises:
        DataError: More of them are none.
    """
    return tuple(_count(con, choice, section) for choice in choices)


def _count(con: Any, choice: Choice, section: DatasetSection) -> FeatureCount:
    entity, column = choice.entity, name(choice.name)
    sql_type = columns_of(con, f"{entity}_feature")[choice.name]
    rows = (
        f"(SELECT {column} AS raw, {feature_sql(choice, sql_type)} AS value FROM {entity}_number "
        f"LEFT JOIN {entity}_feature USING ({entity}_id))"
    )
    cut, bad = 0, 0
    examples: tuple[str, ...] = ()
    if choice.kind == "multi":
        empty, kept = "len(value) = 0", f"value[:{choice.max_values}]"
        cut = con.execute(
            f"SELECT coalesce(sum(greatest(len(value) - {choice.max_values}, 0)), 0) FROM {rows}"
        ).fetchone()[0]
        values = f"(SELECT DISTINCT rowid, value FROM (SELECT rowid, unnest(value) AS value FROM " \
                 f"(SELECT row_number() OVER () AS rowid, {kept} AS value FROM {rows})))"  # fmt: skip
    else:
        empty, values = "value IS NULL", f"(SELECT value FROM {rows} WHERE value IS NOT NULL)"
    total, missing = con.execute(f"SELECT count(*), count(*) FILTER ({empty}) FROM {rows}").fetchone()
    if choice.kind == "numeric":
        bad, examples = _not_numbers(con, choice, rows, sql_type)
        if bad > section.max_bad_rows * (total - missing + bad):
            raise _no_numbers(con, choice, bad, examples, total - missing + bad, rows, section)
    (distinct,) = con.execute(f"SELECT count(DISTINCT value) FROM {values}").fetchone()
    top = con.execute(
        f"SELECT value, count(*) AS n FROM {values} GROUP BY value ORDER BY n DESC, value LIMIT 1"
    ).fetchone()
    most, times = (_shown(top[0]), top[1]) if top else ("", 0)
    present = total - missing
    return FeatureCount(
        entity, choice.name, choice.kind, distinct, missing / max(total, 1), most, times / max(total, 1), int(cut), bad,
        examples, tuple(_warnings(choice, distinct, present, cut, bad)),
    )  # fmt: skip


def _not_numbers(con: Any, choice: Choice, rows: str, sql_type: str) -> tuple[int, tuple[str, ...]]:
    bad = f"{present('raw', sql_type)} IS NOT NULL AND value IS NULL"
    found = con.execute(
        f"SELECT CAST(raw AS VARCHAR), count(*), sum(count(*)) OVER () FROM {rows} WHERE {bad} "
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    return (int(found[0][2]) if found else 0), tuple(value for value, *_ in found)


def _no_numbers(
    con: Any, choice: Choice, bad: int, examples: tuple[str, ...], given: int, rows: str, section: DatasetSection
) -> DataError:  # fmt: skip
    """The error of a numeric feature; names an expression that reads its values, as they are written."""
    table, column = f"{choice.entity}s", choice.name
    derived = getattr(section.derive, table).get(column)
    source = in_expression(column) if derived is None else derived.strip()
    made = number_expression(con, rows, "CAST(raw AS VARCHAR)", source) or f"coalesce(number({source}), null)"
    return DataError(
        f"{bad:,} of {given:,} values are not numbers, e.g. {', '.join(map(repr, examples[:3]))}; dataset.max_bad_rows "
        f"allows {section.max_bad_rows:.1%}", code="feature-numbers",
        where=f"dataset.features.{choice.entity}.{column}",
        hint=f"derive a number: dataset.derive.{table}.{column}: {quoted(made)}; make the feature categorical; or "
        "raise dataset.max_bad_rows",
    )  # fmt: skip


def _warnings(choice: Choice, distinct: int, present: int, cut: int, bad: int) -> list[str]:
    found = []
    if present == 0:
        found.append("no values")
    elif distinct == 1 and (choice.kind != "multi"):
        found.append("the same value everywhere")
    elif choice.kind == "categorical" and distinct == present and present > 1:
        found.append("every value is unique, so it adds nothing to the id")
    if cut:
        found.append(f"{cut:,} values beyond max_values ({choice.max_values}) are ignored")
    if bad:
        found.append(f"{bad:,} values are not numbers and count as missing")
    return found


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choice(entity: Entity, column: str, feature: FeatureSection) -> Choice:
    return Choice(
        entity, column, feature.kind, feature.max_values or MAX_VALUES, feature.transform or "standard",
        feature.buckets or 10,
    )  # fmt: skip
