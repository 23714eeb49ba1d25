"""What in an artifact folder holds some users: found by looking into tables, and by what a result was made from.

A result names the samples that it was made from, so whatever was made from samples with a user's rows holds that user:
as rows, as vectors, as weights that learned from them. Its tables are read, too, to say how many rows they have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.data.forgotten import Forgotten, listed_among
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.engine.base import Context, labelled
from llmcf_cli.stages.look.clean import PARTIAL, planned_keys, present, size_of
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.match import Match
from llmcf_cli.store.artifacts import KEY_LENGTH, MANIFEST, ArtifactStore, Manifest
from llmcf_cli.store.locks import in_use
from llmcf_cli.store.open import connect_read, read_lance
from llmcf_cli.store.recuts import base_of
from llmcf_cli.tabular.sql import columns_of, name, scalar, text

Kind = Literal["result", "unfinished", "index", "answers", "page", "bundle"]
"""`result`: an artifact; `unfinished`: what a stopped run left; `index`: of approximate search; `answers`: the cache of
a model's answers; `page`: a report or audit of a result; `bundle`: one outside the artifact folder."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf", ".npz")
_ROWS = """
CREATE OR REPLACE TEMP TABLE their_rows AS SELECT user_row FROM "user" WHERE {theirs};
CREATE OR REPLACE TEMP TABLE their_samples AS
    SELECT sample_id FROM sample WHERE user_row IN (SELECT user_row FROM temp.their_rows)
"""


@dataclass(frozen=True)
class Holder:
    """Something that holds users who are looked for.

    Attributes:
        path: The file or folder.
        kind: What it is.
        label: Stage and variant, or what it is in words.
        recipe: Name of the recipe that it was made for; empty where it does not say.
        why: What makes it hold them.
        rows: Table in it → rows of theirs.
        learned: Whether it has weights that were fitted to samples, theirs among them.
        bytes: Its size.
        stays: Why it cannot go; empty: it can.
        ours: Whether it belongs to the recipe.
        stage, key: Of a result, or what is left of one.
        depth: Length of the longest chain of results that it was made from.
    """

    path: Path
    kind: Kind
    label: str
    recipe: str
    why: str
    rows: Mapping[str, int] = field(default_factory=dict)
    learned: bool = False
    bytes: int = 0
    stays: str = ""
    ours: bool = True
    stage: str = ""
    key: str = ""
    depth: int = 0


@dataclass(frozen=True)
class Sought:
    """Who is looked for, and whose results are meant.

    Attributes:
        users: The users.
        before: The recipe, and those of its refreshes, as they made what holds the users.
        after: The same, as they leave the users out.
        served: Bundle that must stay → why.
    """

    users: Forgotten
    before: Sequence[Context]
    after: Sequence[Context]
    served: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def planned(self) -> frozenset[str]:
        """Keys of what the recipe made with the users."""
        return frozenset(key for context in self.before for key in planned_keys(context)) - self.clear

    @cached_property
    def clear(self) -> frozenset[str]:
        """Keys of what the recipe makes without them."""
        return frozenset(key for context in self.after for key in planned_keys(context))

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the recipes."""
        return frozenset(context.recipe.name for context in (*self.before, *self.after))


@dataclass(frozen=True)
class Holders:
    """What holds the users.

    Attributes:
        found: All that does, what was made last first.
        known: Digests of the users that were found in samples or bundles.
        samples: Key of an ingest → rows of the users in it.
    """

    found: tuple[Holder, ...]
    known: frozenset[str]
    samples: Mapping[str, frozenset[int]]


def holders(store: ArtifactStore, sought: Sought) -> Holders:
    """Look for users in all that an artifact folder has, but for the cache of texts, and in bundles elsewhere.

    Raises:
        StoreError: Samples cannot be read.
    """
    made = {manifest.key[:KEY_LENGTH]: manifest for manifest in store.manifests()}
    look = _Look(store, sought, made)
    found = [holder for key in made if (holder := look.result(key)) is not None]
    found += look.leftovers()
    found += [page for holder in found for page in _pages(store.root, holder)]
    found += look.caches({holder.key for holder in found})
    found += look.elsewhere()
    order = sorted(found, key=lambda one: (one.kind == "result", -one.depth, str(one.path)))
    return Holders(tuple(order), frozenset(look.known), look.samples)


class _Look:
    """One look at an artifact folder."""

    def __init__(self, store: ArtifactStore, sought: Sought, made: Mapping[str, Manifest]) -> None:
        self._store, self._sought, self._made = store, sought, made
        self.known: set[str] = set()
        self.samples = {
            key: rows for key, manifest in made.items()
            if manifest.stage == Ingest.name and (rows := self._people(store.folder(Ingest.name, key)))
        }  # fmt: skip
        root = store.root.resolve()
        self._served = {
            bundle.resolve().relative_to(root).parts[1]: why for bundle, why in sought.served.items()
            if bundle.resolve().is_relative_to(root)
        }  # fmt: skip

    def result(self, key: str) -> Holder | None:
        """What there is to say of an artifact; None where it holds nobody who is looked for."""
        manifest, sought = self._made[key], self._sought
        folder = self._store.folder(manifest.stage, key)
        below, depth, missing = self._below(key)
        samples = sorted(below & self.samples.keys())
        rows: dict[str, int] = {}
        for one in samples or (None,):
            for table, count in self._rows(folder, one).items():
                rows[table] = max(rows.get(table, 0), count)
        ours = key in sought.planned or manifest.recipe in sought.names
        learned = bool(samples) and any(path.suffix in _WEIGHTS for path in folder.rglob("*"))
        if rows or samples:
            why = "their rows" if rows else "made from samples with their rows"
        elif missing and ours and key not in sought.clear:
            why = "what it was made from is gone, so it may contain their rows"
        else:
            return None
        why = f"{why}; weights that learned from them" if learned else why
        stays = self._served.get(key, "")
        if not ours:
            stays = f"belongs to another recipe, named {manifest.recipe}: run llmcf forget with that recipe's file"
        elif not stays:
            stays = _busy(self._store, manifest.stage, key)
        return Holder(folder, "result", labelled(manifest.stage, manifest.variant), manifest.recipe, why, rows, learned,
                      size_of(folder), stays, ours, manifest.stage, key, depth)  # fmt: skip

    def leftovers(self) -> Iterator[Holder]:
        """What stopped runs left of results that hold the users, or of results that are not known any more."""
        for stage, key in present(self._store.root):
            folder, partial = self._store.folder(stage, key), self._store.root / stage / PARTIAL / key
            unreadable = key not in self._made and folder.exists()
            if key in self._sought.clear or not (unreadable or partial.is_dir()):
                continue
            path = folder if unreadable else partial
            ours = key in self._sought.planned
            if key in self._made and not ours:  # beside a result that is told of, and goes with it
                continue
            why = "belongs to a result with their rows" if ours else "its origin is unknown"
            stays = _busy(self._store, stage, key) if ours else "may belong to anything: llmcf clean lists it"
            yield Holder(path, "unfinished", f"{stage}, unfinished", "", why, bytes=size_of(path), stays=stays,
                         ours=ours, stage=stage, key=key)  # fmt: skip

    def caches(self, holding: Collection[str]) -> Iterator[Holder]:
        """Indexes of search and answers of models; other results have them made again."""
        cache = self._store.root / "cache"
        matches = [manifest for manifest in self._made.values() if manifest.stage == Match.name]
        kept = {_index_of(one) for one in matches if one.key[:KEY_LENGTH] not in holding}
        for folder in sorted((cache / "match").glob("*")):
            if self.samples and folder.name not in kept:
                why = "examples of samples with their rows, or of samples that are gone"
                yield Holder(folder, "index", "index of examples", "", why, bytes=size_of(folder))
        answers = cache / "answer.duckdb"
        if answers.is_file() and any(key in self._sought.planned or self._made[key].recipe in self._sought.names
                                     for key in self.samples):  # fmt: skip
            why = "numbers by digests of prompts with histories; whose is unknown"
            yield Holder(answers, "answers", "answers of language models", "", why, bytes=answers.stat().st_size)

    def elsewhere(self) -> Iterator[Holder]:
        """Bundles outside the artifact folder that a pointer names."""
        import duckdb

        for bundle, why in self._sought.served.items():
            if bundle.resolve().is_relative_to(self._store.root.resolve()):
                continue
            if rows := self._rows(bundle, None):
                with duckdb.connect() as con:
                    for file in bundle.rglob("user.parquet"):  # a cascade has two
                        table = f"read_parquet({text(str(file))})"
                        self.known |= set(listed_among(con, self._sought.users, table, "user_id"))
                yield Holder(bundle, "bundle", "bundle elsewhere", "", "their rows; weights that learned from them",
                             rows, True, size_of(bundle), why)  # fmt: skip

    def _people(self, folder: Path) -> frozenset[int]:
        """Rows of the users in an ingest's table."""
        with connect_read(IngestOutput(folder).database) as con:
            self.known |= set(listed_among(con, self._sought.users, '"user"', "user_id"))
            theirs = self._sought.users.among("user_id")
            return frozenset(row for (row,) in con.execute(f'SELECT user_row FROM "user" WHERE {theirs}').fetchall())

    def _below(self, key: str) -> tuple[set[str], int, bool]:
        """What a result was made from, itself included; how deep; and whether some of it is gone."""
        manifest = self._made.get(key)
        if manifest is None:
            return {key}, 0, True
        parts = [self._below(one[:KEY_LENGTH]) for one in manifest.material.get("inputs", {}).values()]
        below = {key}.union(*(part[0] for part in parts))
        return below, 1 + max((part[1] for part in parts), default=-1), any(part[2] for part in parts)

    def _rows(self, folder: Path, samples: str | None) -> dict[str, int]:
        """Table in a folder → rows of the users, by ids and, with the samples that numbers in it mean, by numbers."""
        import duckdb

        database = None if samples is None else IngestOutput(self._store.folder(Ingest.name, samples)).database
        with duckdb.connect() if database is None else connect_read(database) as con:
            users = self._sought.users
            users.put_into(con)
            if database is not None:
                con.execute(_ROWS.format(theirs=users.among("user_id")))
            return dict(_counted(con, folder, users, database))


def _counted(con: Any, folder: Path, users: Forgotten, database: Path | None) -> Iterator[tuple[str, int]]:
    """(Table, rows of the users) of all tables in a folder that have some."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if path.suffix == ".parquet" and path.is_file():
            tables = {inside: f"read_parquet({text(str(path))})"}
        elif path.suffix == ".lance" and path.is_dir():
            con.register("looked_at", read_lance(path.parent, path.stem))
            tables = {inside: "looked_at"}
        elif database is not None and path in (database, base_of(database)):
            tables = _inner(con, inside)
        else:
            continue
        for table, relation in tables.items():
            condition = _theirs(columns_of(con, relation), users, numbered=database is not None)
            if condition is not None and (count := scalar(con, f"SELECT count(*) FROM {relation} WHERE {condition}")):
                yield table, count


def _inner(con: Any, file: str) -> dict[str, str]:
    rows = con.execute(
        "SELECT database_name, schema_name, table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary"
    ).fetchall()
    return {f"{file}: {table}": f"{name(base)}.{name(schema)}.{name(table)}" for base, schema, table in rows}


def _theirs(columns: Collection[str], users: Forgotten, *, numbered: bool) -> str | None:
    """SQL that is true of the users' rows in a table with these columns; None where nothing says whose they are."""
    found = [users.among("user_id")] if "user_id" in columns else []
    if numbered:
        rows, samples = "(SELECT user_row FROM temp.their_rows)", "(SELECT sample_id FROM temp.their_samples)"
        found += [f"user_row IN {rows}"] if "user_row" in columns else []
        found += [f"sample_id IN {samples}"] if "sample_id" in columns else []
        found += [f"(entity = 'user' AND row IN {rows})"] if {"entity", "row"} <= set(columns) else []
        if "example_sample_id" in columns:
            found.append("list_has_any(example_sample_id::BIGINT[], (SELECT list(sample_id) FROM temp.their_samples))")
    return " OR ".join(found) or None


def _pages(root: Path, holder: Holder) -> Iterator[Holder]:
    """Reports and audits of a result, which are called by its key."""
    if holder.kind != "result":
        return
    for path in sorted(root.glob(f"*/{holder.key}*")):
        if path.parent.name != holder.stage:
            size = size_of(path) if path.is_dir() else path.stat().st_size
            yield Holder(path, "page", f"{path.parent.name} of {holder.label}", holder.recipe, "shows such a result",
                         bytes=size, stays="" if holder.ours else holder.stays, ours=holder.ours)  # fmt: skip


def _index_of(match: Manifest) -> str:
    """Name of the folder of a result's index; see `match.index_folder`."""
    inputs = {role: key for role, key in match.material["inputs"].items() if role in ("ingest", "embed")}
    return digest_json({"space": match.material["match.space"], "inputs": inputs})[:KEY_LENGTH]


def _busy(store: ArtifactStore, stage: str, key: str) -> str:
    if store.making(stage, key):
        return "is being made: wait until that finishes, then run this again"
    if in_use(store.folder(stage, key) / MANIFEST):
        return "is being read: wait until that finishes, then run this again"
    return ""
