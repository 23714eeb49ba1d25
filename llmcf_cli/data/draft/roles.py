"""Which file and which columns are what: interactions, users, items, ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.data.draft.asking import Decisions, Question
from llmcf_cli.data.draft.columns import Profile, profiles
from llmcf_cli.data.draft.files import File
from llmcf_cli.data.draft.times import Timed, find_time
from llmcf_cli.data.draft.words import ITEM, RATING, USER, says, words
from llmcf_cli.data.raw import Entity
from llmcf_cli.tabular.sql import name, scalar
from llmcf_cli.tabular.values import as_id, is_list

_MEANT: Mapping[Entity, frozenset[str]] = {"user": USER, "item": ITEM}
_JOINED = 0.5
"""Share of the ids of the interactions that a table must have to be about them, where no name says so."""
_UNIQUE = 0.9
"""Share of a table's rows that must have an id of their own in its id column."""
_MOST_RATINGS = 101


@dataclass(frozen=True)
class Table:
    """A file and what its values say."""

    file: File
    profiles: Mapping[str, Profile]


@dataclass(frozen=True)
class Roles:
    """What is what.

    Attributes:
        interactions: The table of them.
        user, item: Their id columns.
        order: The time; or the name of the column of positions.
        rating: Column of ratings or labels; None: there is none.
        entities: Tables of items and users, with their id columns.
    """

    interactions: Table
    user: str
    item: str
    order: Timed | str
    rating: str | None
    entities: Mapping[Entity, tuple[Table, str]] = field(default_factory=dict)


def find_roles(con: Any, files: Sequence[File], decisions: Decisions) -> Roles:
    """Find them.

    Raises:
        UnclearError: Something is not clear.
        DataError: A table has no columns to choose from.
    """
    tables = [Table(file, profiles(con, file)) for file in files]
    main = _interactions(tables, decisions)
    decisions.require()
    assert main is not None
    if len(main.profiles) < 3:
        raise DataError(
            f"has {len(main.profiles)} columns; interactions have a user, an item, and a time or position",
            code="column-missing", where=str(main.file.path), allowed=tuple(main.profiles),
            hint="if the columns are separated by another character, give --delimiter",
        )  # fmt: skip
    if not next(iter(main.profiles.values())).rows:
        raise DataError("no rows below the column names", code="data-empty", where=str(main.file.path),
                        hint="give a table with rows")  # fmt: skip
    others = [table for table in tables if table is not main]
    for table in others:
        _refuse_second(table, main)
    ids = {entity: _id_column(main, entity, others, decisions) for entity in _MEANT}
    if all(ids.values()) and ids["user"] == ids["item"]:
        ids["item"] = None
    taken = {column for column in ids.values() if column}
    order = find_time(con, main.file, main.profiles, taken, decisions)
    ordering = order.column if isinstance(order, Timed) else order
    rating = _rating(main, taken | {ordering or ""}, decisions)
    for entity in _MEANT:
        if ids[entity] is None:
            left = {*filter(None, ids.values()), ordering, rating}
            ids[entity] = _only_left(main, entity, left, decisions)
    decisions.require()
    user, item = ids["user"], ids["item"]
    assert user
    assert item
    assert order is not None
    entities = _entities(con, main, {"user": user, "item": item}, others, decisions)
    decisions.require()
    return Roles(main, user, item, order, rating, entities)


def _interactions(tables: Sequence[Table], decisions: Decisions) -> Table | None:
    if len(tables) == 1:
        return tables[0]
    paths = {str(table.file.path): table for table in tables}
    told = decisions.told("--interactions", tuple(paths))
    if told is not None:
        return paths[told]
    both = [t for t in tables if all(any(says(c, meant) for c in t.profiles) for meant in _MEANT.values())]
    repeated = [t for t in both or tables if not any(_is_key(p) and _names_any(c) for c, p in t.profiles.items())]
    found = repeated if len(repeated) == 1 else both
    if len(found) == 1:
        why = "its columns name users and items" if both else "its ids repeat"
        decisions.note("interactions", found[0].file.path.name, why, "dataset.source.interactions")
        return found[0]
    for table, other in pairwise(both):
        _refuse_second(other, table)
    answers = {path: f"columns {', '.join(list(table.profiles)[:8])}" for path, table in paths.items()}
    answer = decisions.settle(Question("--interactions", "several files may be the interactions", answers, ""))
    return None if answer is None else paths[answer]


def _refuse_second(table: Table, first: Table) -> None:
    """Tables with the same columns are parts of one.

    Raises:
        DataError: They are.
    """
    if set(table.profiles) == set(first.profiles):
        raise DataError(
            f"has the same columns as {first.file.path}", code="table-twice", where=str(table.file.path),
            hint="join both into one file, or give one of them",
        )  # fmt: skip


def _names_any(column: str) -> bool:
    return any(says(column, meant) for meant in _MEANT.values())


def _is_key(profile: Profile) -> bool:
    return profile.present > 0 and profile.distinct >= _UNIQUE * profile.rows


def _id_column(main: Table, entity: Entity, others: Sequence[Table], decisions: Decisions) -> str | None:
    """The id column by its name, or as another table's key is called so; None: no name says so, or several do."""
    where, option = str(main.file.path), f"--{entity}"
    told = decisions.told(option, tuple(main.profiles), where)
    if told is not None:
        decisions.note(entity, told, "as given", f"dataset.source.columns.{entity}")
        return told
    may = {c: p for c, p in main.profiles.items() if not is_list(p.kind) and p.present and not p.fractions}
    points = {column: says(column, _MEANT[entity]) for column in may}
    best = max(points.values(), default=0)
    found = [column for column, value in points.items() if value == best and value]
    if len(found) > 1:
        keyed = [c for c in found if any(c in t.profiles and _is_key(t.profiles[c]) for t in others)]
        found = keyed if len(keyed) == 1 else found
    if len(found) > 1:
        answers = {c: f"{may[c].distinct:,} different, e.g. {may[c].example!r}" for c in found}
        answer = decisions.settle(Question(option, f"several columns may name the {entity}", answers, where))
        return answer or found[0]  # what is unclear is told with the rest
    if not found:
        return None
    decisions.note(entity, found[0], f"its name; {may[found[0]].distinct:,} different, e.g. {may[found[0]].example!r}",
                   f"dataset.source.columns.{entity}")  # fmt: skip
    return found[0]


def _only_left(main: Table, entity: Entity, left_out: set[str | None], decisions: Decisions) -> str | None:
    """The only column whose values repeat and that is nothing else, or what the user says."""
    may = {
        c: p for c, p in main.profiles.items()
        if c not in left_out and not is_list(p.kind) and 1 < p.distinct < p.present and not p.fractions
    }  # fmt: skip
    answers = {c: f"{p.distinct:,} different, e.g. {p.example!r}" for c, p in may.items()}
    if not answers:
        answers = {"COLUMN": "the column of its ids"}
    what = f"no column name says that it is the {entity} id"
    answer = decisions.settle(Question(f"--{entity}", what, answers, str(main.file.path)))
    if answer is not None:
        decisions.note(entity, answer, "as given", f"dataset.source.columns.{entity}")
    return answer


def _rating(main: Table, taken: set[str], decisions: Decisions) -> str | None:
    where = str(main.file.path)
    told = decisions.told("--rating", ("none", *main.profiles), where)
    if told is not None:
        return None if told == "none" else told
    found = [
        c for c, p in main.profiles.items()
        if c not in taken and RATING & set(words(c)) and p.numeric and 1 < p.distinct <= _MOST_RATINGS
    ]  # fmt: skip
    if len(found) < 2:
        return found[0] if found else None
    answers = {c: f"{main.profiles[c].least:g} to {main.profiles[c].most:g}" for c in found} | {"none": "no rating"}
    answer = decisions.settle(Question("--rating", "several columns may be the rating", answers, where))
    return None if answer in (None, "none") else answer


def _entities(
    con: Any, main: Table, ids: Mapping[Entity, str], others: Sequence[Table], decisions: Decisions
) -> dict[Entity, tuple[Table, str]]:
    """Which of the other tables is about items and which about users, and by which column."""
    found: dict[Entity, tuple[Table, str]] = {}
    for table in others:
        path = str(table.file.path)
        told = next((e for e in ids if decisions.given.get(f"--{e}s") == path), None)
        keys = {entity: _key(con, main, ids[entity], table, entity) for entity in ids}
        fits = [told] if told else [entity for entity, key in keys.items() if key is not None]
        if len(fits) > 1:
            named = [e for e in fits if (key := keys[e]) and (key[0] == ids[e] or says(key[0], _MEANT[e]))]
            fits = named or fits
        if len(fits) != 1 or keys[fits[0]] is None:
            what = "its ids match both users and items" if fits else "no column matches the ids of users or items"
            hint = f"say which it is: --items {path} or --users {path}" if fits else "leave the file out, or correct it"
            decisions.unclear.append(LlmcfError(what, code="tables-unclear", where=path, hint=hint))
            continue
        entity = fits[0]
        if entity in found:
            first = found[entity][0].file.path
            raise DataError(
                f"is a second table of {entity}s, after {first}", code="table-twice", where=path,
                hint="give one of them, or join them into one file",
            )  # fmt: skip
        column, share = keys[entity] or ("", 0.0)
        found[entity] = (table, column)
        chosen = f"{table.file.path.name}, by {column}"
        decisions.note(f"{entity}s", chosen, f"has {share:.1%} of the {entity}s", f"dataset.source.{entity}s")
    return found


def _key(con: Any, main: Table, wanted: str, table: Table, entity: Entity) -> tuple[str, float] | None:
    """A table's id column of users or items, and the share of those in the interactions that it has."""
    may = [c for c, p in table.profiles.items() if p.present and not is_list(p.kind) and not p.fractions]
    same = [c for c in may if c.lower() == wanted.lower()]
    named = [c for c in may if says(c, _MEANT[entity]) >= 2 or (words(c) == ("id",) and _is_key(table.profiles[c]))]
    shares = {c: _share(con, main, wanted, table, c) for c in same or named or may}
    if not same and not named:
        shares = {c: s for c, s in shares.items() if _is_key(table.profiles[c])}
    best = max(shares, key=lambda c: shares[c], default=None)
    if best is None or shares[best] < (0.01 if same else _JOINED):
        return None
    return best, shares[best]


def _share(con: Any, main: Table, wanted: str, table: Table, column: str) -> float:
    ours = as_id(name(wanted), main.profiles[wanted].kind)
    theirs = as_id(name(column), table.profiles[column].kind)
    found = scalar(con, f"SELECT count(DISTINCT {ours}) FROM {main.file.rows} WHERE {ours} IN "
                        f"(SELECT {theirs} FROM {table.file.rows} WHERE {theirs} IS NOT NULL)")  # fmt: skip
    return float(found) / max(main.profiles[wanted].distinct, 1)
