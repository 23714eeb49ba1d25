"""A first recipe for some files: how they are read, what is predicted, and why, as comments."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.text import visible
from llmcf_cli.core.yamlfile import dump_lines
from llmcf_cli.data.draft.amazon import amazon_source
from llmcf_cli.data.draft.asking import Decision, Decisions, Question
from llmcf_cli.data.draft.files import File, read
from llmcf_cli.data.draft.reading import Chosen, choose
from llmcf_cli.data.draft.roles import Roles, find_roles
from llmcf_cli.data.draft.times import Timed
from llmcf_cli.data.draft.words import EVENT, QUANTITY, words
from llmcf_cli.data.raw import TABLES, Entity
from llmcf_cli.data.remedies import in_expression
from llmcf_cli.store.open import connect_write
from llmcf_cli.tabular.sql import name, scalar
from llmcf_cli.tabular.values import as_id

_CONVENTION = 0.8
"""Share of the greatest rating from which on one is positive: 4 of 5, as papers have it."""
_ZEROS = 0.3
"""Share of ratings of zero past which zero may mean that nothing was rated."""
_TIMES = 10
"""Different times below which a cut in time says little."""


_SHOWN = 20
"""Columns that are not read, of a table, that are named."""
_DENSE = 10_000
"""Items up to which EASE, which solves for a square of them, takes seconds."""
_SAMPLED = 20_000
"""Items from which the softmax over all of them is taken over a sample."""

_HEAD = ("# Written by `llmcf init`; the comments give the reason for each value. Correct what is wrong.",)
_TO_GO_ON = "# Next: k_core under dataset leaves out rare users and items"
_FOOT = {
    "ranking": (
        f"{_TO_GO_ON}; rec.compare: [none, text, ict] adds LLM-CF",
        "# with the quickstart's language model. docs/your-own-data.md has more.",
    ),
    "retrieval": (f"{_TO_GO_ON}; docs/retrieval.md says what else", "# there is to compare, LLM-CF among it."),
}


@dataclass(frozen=True)
class Draft:
    """A recipe for some tables.

    Attributes:
        text: The recipe, as YAML with comments.
        decisions: What was decided and why, in order.
        text_arm: Whether items have texts, so that there is an arm that reads them.
    """

    text: str
    decisions: tuple[Decision, ...]
    text_arm: bool


def draft(paths: Sequence[Path], out: Path, decisions: Decisions) -> Draft:
    """Look at all rows of the files and write a recipe for them, which compares a model with and without texts.

    Args:
        paths: The files, in any order.
        out: Where the recipe will be: it names the files from there.
        decisions: Answers to what the files do not decide.

    Raises:
        UnclearError: Something is not clear, and nobody answers.
        DataError: A file cannot be read, or is no table of interactions.
    """
    with tempfile.TemporaryDirectory(prefix=".llmcf-init-") as folder:
        con = connect_write(Path(folder) / "look.duckdb")
        try:
            con.execute("SET TimeZone = 'UTC'")
            files = [read(con, path, number, decisions) for number, path in enumerate(paths)]
            decisions.require()
            roles = find_roles(con, [file for file in files if file is not None], decisions)
            data, has_text = _recipe(con, roles, out, decisions)
        finally:
            con.close()
    decisions.require()
    return Draft(_written(data, decisions.made, out), tuple(decisions.made), has_text)


def _recipe(con: Any, roles: Roles, out: Path, decisions: Decisions) -> tuple[dict[str, Any], bool]:
    main = roles.interactions
    chosen: dict[Entity, Chosen] = {
        entity: choose(entity, table.profiles, key, decisions) for entity, (table, key) in roles.entities.items()
    }
    where = [*_filter(con, roles, decisions)]
    label = _label(con, roles, decisions)
    _repeats(con, roles, decisions)
    dataset: dict[str, Any] = {"source": _source(roles, chosen, out.parent)}
    if where:
        dataset["filter"] = {"interactions": " and ".join(where)}
    dataset |= {"repeats": "first", "label": label, "split": _split(con, roles, decisions)}
    conflicts = {TABLES[e]: answer for e in roles.entities if (answer := _conflicts(con, roles, e, decisions))}
    if conflicts:
        dataset["conflicts"] = conflicts
    item = chosen.get("item")
    text = ", ".join(f"{{{{{column}}}}}" for column in item.text) if item else ""
    dataset["text"] = {"item": text, "user": ""}
    features = {entity: dict(found.features) for entity, found in chosen.items() if found.features}
    dataset["features"] = features or None
    if not features:
        del dataset["features"]
    _unread(roles, chosen, where, decisions)
    lists = decisions.told("--task", ("ranking", "retrieval")) == "retrieval"
    rec = _retrieval(roles, bool(text), decisions) if lists else _ranking(bool(text), decisions)
    if lists:
        dataset["history"] = {"max_length": 50}
    return {
        "extends": "quickstart",
        "name": _name(main.file.path),
        "description": f"A first look at {main.file.path.name}, without a language model.",
        "dataset": dataset,
        "rec": rec,
    }, bool(text)


def _ranking(text: bool, decisions: Decisions) -> dict[str, Any]:
    """The section `rec` of a recipe that scores given items."""
    arms = ["none", "text"] if text else ["none"]
    decisions.note("compared", ", ".join(arms), "the backbone alone" + (
        ", and with texts; no language model" if text else "; without texts of items there is nothing to add"
    ), "rec.compare")  # fmt: skip
    return {"augment": arms[-1], "compare": arms, "baselines": ["popularity"], "objectives": ["bce"]}


def _retrieval(roles: Roles, text: bool, decisions: Decisions) -> dict[str, Any]:
    """The section `rec` of a recipe that makes lists of the whole catalogue: small batches, and much patience, as first
    tables are small."""
    items = roles.interactions.profiles[roles.item].distinct
    arms = ["none", "text_init"] if text else ["none"]
    simple = ["top_popular", *["top_recent"] * isinstance(roles.order, Timed), "item_neighbours"]
    simple += ["ease"] * (items <= _DENSE) + ["text_neighbours"] * text
    decisions.note("task", "retrieval", "as given: lists of the whole catalogue, from the order of each user's events",
                   "rec.task")  # fmt: skip
    decisions.note("compared", ", ".join(arms), "SASRec alone" + ", and initialised from texts" * text
                   + "; no language model; baselines without training for comparison", "rec.compare")  # fmt: skip
    objective: Any = "softmax" if items <= _SAMPLED else {"type": "sampled_softmax", "negatives": 256}
    return {
        "task": "retrieval",
        "backbone": {"type": "sasrec", "embedding_dim": 64, "layers": 1, "heads": 1, "dropout": 0.3},
        "augment": arms[-1], "objectives": [objective],
        "fit": {"batch_size": 64, "learning_rate": 1.0e-3, "weight_decay": 0.0, "epochs": 100, "patience": 8},
        "compare": arms, "baselines": simple, "references": ["none"],
    }  # fmt: skip


def _unread(roles: Roles, chosen: Mapping[Entity, Chosen], where: Sequence[str], decisions: Decisions) -> None:
    """Note the columns of each table that the recipe does not read."""
    order = roles.order.column if isinstance(roles.order, Timed) else roles.order
    tables = [(roles.interactions, {roles.user, roles.item, order, roles.rating})]
    tables += [(table, {key, *chosen[e].text, *chosen[e].features}) for e, (table, key) in roles.entities.items()]
    for place, (table, read_) in enumerate(tables):
        asked = where if place == 0 else ()
        left = [
            column for column in table.file.kinds
            if column not in read_ and not any(_asks(condition, column) for condition in asked)
        ]  # fmt: skip
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            about = "interactions have no features" if place == 0 else "to read one: dataset.text, dataset.features"
            decisions.note(f"not read of {table.file.path.name}", ", ".join(left[:_SHOWN]) + more, about)


def _asks(condition: str, column: str) -> bool:
    written = in_expression(column)
    return condition.startswith((f"{written} ", f"number({written})"))


def _name(path: Path) -> str:
    stem = path.name.split(".")[0] or "data"
    return "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in stem).strip("_").lower() or "data"


def _source(roles: Roles, chosen: Mapping[Entity, Chosen], folder: Path) -> dict[str, Any]:
    """The section `dataset.source`: of one format where all files are, else `tables`."""
    known = amazon_source(roles)
    files: dict[str, File] = {"interactions": roles.interactions.file}
    files |= {TABLES[entity]: table.file for entity, (table, _) in roles.entities.items()}
    named = {role: _relative(file.path, folder) for role, file in files.items()}
    if known is not None:
        found: dict[str, Any] = {"type": "amazon", "year": known, "reviews": named["interactions"]}
        return found | ({"metadata": named["items"]} if "items" in named else {})
    columns = {"user": roles.user, "item": roles.item}
    if roles.rating is not None:
        columns["rating"] = roles.rating
    if isinstance(roles.order, Timed):
        columns["time"] = roles.order.column
        if roles.order.format is not None:
            columns["time_format"] = roles.order.format
        if roles.order.zone is not None:
            columns["time_zone"] = roles.order.zone
    else:
        columns["position"] = roles.order
    source: dict[str, Any] = {"type": "tables", **named, "columns": columns}
    for entity, (_, key) in roles.entities.items():
        if key != columns[entity]:
            source[f"{entity}_key"] = key
    multi = [column for found in chosen.values() for column in found.multi]
    if multi:
        source["multi"] = multi
        separator = next((found.separator for found in chosen.values() if found.separator), None)
        if separator is not None and separator != "|":
            source["separator"] = separator
    forms = {
        role: form for role, file in files.items()
        if (form := file.form.model_dump(mode="json", exclude_defaults=True))
    }  # fmt: skip
    if forms:
        source["formats"] = forms
    return source


def _relative(path: Path, folder: Path) -> str:
    """A path as the recipe names it: from its own folder, where the file lies below that."""
    path, folder = path.absolute(), folder.absolute()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def _filter(con: Any, roles: Roles, decisions: Decisions) -> list[str]:
    """Conditions that leave out rows without a user, an item or a time, returns, and events of other kinds."""
    main, found = roles.interactions, []
    order = roles.order.column if isinstance(roles.order, Timed) else roles.order
    rows = next(iter(main.profiles.values())).rows
    for column in (roles.user, roles.item, order, roles.rating):
        if column is not None and (missing := rows - main.profiles[column].present):
            found.append(f"{in_expression(column)} is not null")
            decisions.note(f"rows without {column}", "left out", f"{missing:,} of {rows:,} rows have none",
                           "dataset.filter.interactions")  # fmt: skip
    for column, profile in main.profiles.items():
        if column in (roles.user, roles.item, order, roles.rating):
            continue
        said = set(words(column))
        if said & QUANTITY and profile.numeric and (profile.least or 0) <= 0:
            count = scalar(con, f"SELECT count(*) FROM {main.file.rows} WHERE try_cast({name(column)} AS DOUBLE) <= 0")
            found.append(f"number({in_expression(column)}) > 0")
            decisions.note("returns", "left out", f"{count:,} rows have a {column} of zero or less",
                           "dataset.filter.interactions")  # fmt: skip
        elif said & EVENT and not profile.numeric and not profile.is_list and 2 <= profile.distinct <= 20:
            found += _events(con, roles, column, decisions)
    return found


def _events(con: Any, roles: Roles, column: str, decisions: Decisions) -> list[str]:
    """The condition for events of one kind, where there are several; none where all are alike."""
    file = roles.interactions.file
    counts = con.execute(
        f"SELECT {name(column)}::VARCHAR, count(*) FROM {file.rows} WHERE {name(column)} IS NOT NULL "
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    answers = {value: f"{count:,} rows" for value, count in counts} | {"all": "every row, of any kind"}
    answer = decisions.settle(Question(
        "--event", f"{column} tells several kinds of events apart: which is to be predicted?", answers, str(file.path)
    ))  # fmt: skip
    if answer is None:
        return []
    decisions.note("events", answer, f"as given, from {column}", "dataset.filter.interactions")
    quoted = answer.replace("\\", "\\\\").replace('"', '\\"')
    return [] if answer == "all" else [f'{in_expression(column)} = "{quoted}"']


def _label(con: Any, roles: Roles, decisions: Decisions) -> dict[str, Any]:
    main, where = roles.interactions, str(roles.interactions.file.path)
    told = decisions.told("--label", ("rating", "implicit"), where)
    column = roles.rating
    if column is None or told == "implicit":
        why = "as given" if told else "no column is a rating: every row is a positive, negatives are drawn"
        decisions.note("label", "implicit", why, "dataset.label.type")
        return {"type": "implicit", "negatives": "popularity", "per_positive": 1}
    profile = main.profiles[column]
    least, most = profile.least or 0.0, profile.most or 0.0
    zeros = scalar(con, f"SELECT count(*) FROM {main.file.rows} WHERE try_cast({name(column)} AS DOUBLE) = 0")
    if told is None and most > 1 and zeros > _ZEROS * profile.present:
        told = decisions.settle(Question("--label", f"{zeros:,} of {profile.present:,} values of {column} are 0", {
            "rating": "0 is the lowest rating", "implicit": "0 means that nothing was rated; every row is a positive",
        }, where))  # fmt: skip
        if told == "implicit":
            decisions.note("label", "implicit", "as given", "dataset.label.type")
            return {"type": "implicit", "negatives": "popularity", "per_positive": 1}
    start = _positive_from(con, roles, column, decisions)
    why = f"{column} has {profile.distinct} values from {least:g} to {most:g}"
    share = f"{_share_of(con, roles, column, start):.1%} are positive"
    decisions.note("label", f"rating, positive from {start:g}", f"{why}; {share}", "dataset.label.positive_from")
    return {"type": "rating", "positive_from": start}


def _share_of(con: Any, roles: Roles, column: str, start: float) -> float:
    value = f"try_cast({name(column)} AS DOUBLE)"
    ((share,),) = con.execute(
        f"SELECT avg(({value} >= {start!r})::INT) FROM {roles.interactions.file.rows} WHERE {value} IS NOT NULL"
    ).fetchall()
    return float(share or 0.0)


def _positive_from(con: Any, roles: Roles, column: str, decisions: Decisions) -> float:
    """The least positive rating: by convention, or as told where that puts nearly all on one side."""
    profile, where = roles.interactions.profiles[column], str(roles.interactions.file.path)
    told = decisions.given.get("--positive-from")
    if told is not None:
        return float(told)
    if profile.distinct == 2:
        return float(profile.most or 1.0)
    rows = roles.interactions.file.rows
    values = [v for (v,) in con.execute(
        f"SELECT DISTINCT try_cast({name(column)} AS DOUBLE) AS v FROM {rows} WHERE v IS NOT NULL ORDER BY v"
    ).fetchall()]  # fmt: skip
    start = next((value for value in values if value >= _CONVENTION * values[-1]), values[-1])
    if values[0] >= 0 and 0.05 <= _share_of(con, roles, column, start) <= 0.95:
        return float(start)
    answers = {f"{v:g}": f"{_share_of(con, roles, column, v):.1%} are positive" for v in values[1:][:20]}
    answer = decisions.settle(Question("--positive-from", f"which {column} or higher is positive?", answers, where))
    return float(answer) if answer is not None else float(start)


def _repeats(con: Any, roles: Roles, decisions: Decisions) -> None:
    main = roles.interactions
    user, item = (as_id(name(c), main.profiles[c].kind) for c in (roles.user, roles.item))
    ((rows, pairs),) = con.execute(
        f"SELECT count(*), count(DISTINCT ({user}, {item})) FROM {main.file.rows} "
        f"WHERE {user} IS NOT NULL AND {item} IS NOT NULL"
    ).fetchall()
    again = rows - pairs
    why = "no user has an item twice"
    if again:
        why = f"{again:,} of {rows:,} rows repeat a pair of user and item; `keep` would predict these, too"
    decisions.note("repeats", "first", why, "dataset.repeats")


def _split(con: Any, roles: Roles, decisions: Decisions) -> dict[str, Any]:
    if isinstance(roles.order, Timed):
        times = roles.interactions.profiles[roles.order.column].distinct
        if times >= _TIMES:
            decisions.note("split", "global_time", "times compare between users: the last tenth is the test split",
                           "dataset.split.type")  # fmt: skip
            return {"type": "global_time", "validation": 0.1, "test": 0.1}
        why = f"only {times} different times"
    else:
        why = "only the order of each user's events is known"
    decisions.note(
        "split", "leave_one_out", f"{why}: each user's last event is in the test split", "dataset.split.type"
    )
    return {"type": "leave_one_out"}


def _conflicts(con: Any, roles: Roles, entity: Entity, decisions: Decisions) -> str | None:
    """Which row of an id stays, where they differ."""
    table, key = roles.entities[entity]
    columns = ", ".join(map(name, table.profiles))
    same = as_id(name(key), table.profiles[key].kind)
    differ = scalar(con, f"SELECT count(*) FROM (SELECT {same} AS k FROM (SELECT DISTINCT {columns} FROM "
                         f"{table.file.rows}) WHERE k IS NOT NULL GROUP BY k HAVING count(*) > 1)")  # fmt: skip
    if not differ:
        return None
    answers = {"first": "the first row of the file stays", "last": "the last one does"}
    question = Question(
        "--conflicts", f"{differ:,} {entity} ids have several, different rows", answers, str(table.file.path)
    )
    answer = decisions.settle(question)
    if answer is not None:
        decisions.note(f"{entity}s with rows that differ", answer, f"as given; {differ:,} ids",
                       f"dataset.conflicts.{TABLES[entity]}")  # fmt: skip
    return answer


def _written(data: Mapping[str, Any], made: Sequence[Decision], out: Path) -> str:
    """The recipe as YAML: what was decided stands as a comment above the line that says it."""
    reasons: dict[str, list[str]] = {}
    for decision in made:
        if decision.path:
            reasons.setdefault(decision.path, []).append(f"{decision.what}: {decision.why}")
    lines = [f"# llmcf run {visible(out.name)}", *_HEAD, ""]
    for line, path in dump_lines(dict(data)):
        indent = line[: len(line) - len(line.lstrip())]
        lines += [f"{indent}# {' '.join(visible(reason).split())}" for reason in reasons.pop(path, ())]
        lines.append(line)
    foot = _FOOT[data["rec"].get("task", "ranking")]
    return "\n".join([*lines, "", *foot, ""])
