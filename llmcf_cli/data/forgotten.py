"""The list of users that no ingest may read: salted digests of their ids, in a file beside the recipe.

Digests and not ids, because what a recipe says is copied into every artifact and bundle, and the ids are what is to be
gone from there; of a file, artifacts keep only its digest. They hide an id from whoever reads the file in passing, not
from whoever tries all possible ids.
"""

import hashlib
import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import Field, ValidationError

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.types import Config
from llmcf_cli.data.raw import RawData, Role, columns_of, name, reading, scalar, text
from llmcf_cli.data.report import StepLog
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.values import as_id

MAX_BYTES = 1 << 28
"""Of a list: some three million users."""
_TABLE = "forgotten"


class _File(Config):
    """A list as it is written."""

    format: Literal[1] = 1
    """Version of this layout."""
    salt: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    """What stands before every id."""
    users: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    """SHA-256 of salt and id, in order."""


@dataclass(frozen=True)
class Forgotten:
    """Users that are to be forgotten.

    Attributes:
        salt: What stands before every id.
        users: SHA-256 (hex) of salt and id of each.
    """

    salt: str
    users: frozenset[str] = frozenset()

    @classmethod
    def fresh(cls) -> Self:
        """Nobody, under a salt that nobody else has."""
        return cls(secrets.token_hex(16))

    @classmethod
    def read(cls, file: Path) -> Self:
        """The list in a file.

        Raises:
            DataError: It is missing, too large, or no such list.
        """
        try:
            found = _File.model_validate(read_json(file, MAX_BYTES))
        except ValidationError as error:
            first = error.errors()[0]
            what = f"is not a list of forgotten users: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise DataError(what, code="forget-list", where=str(file),
                            hint="restore the file that `llmcf forget` wrote") from error  # fmt: skip
        return cls(found.salt, frozenset(found.users))

    def digest(self, user: str) -> str:
        """How a user stands in the list."""
        return hashlib.sha256(f"{self.salt}{user}".encode()).hexdigest()

    def only(self, users: Iterable[str]) -> Self:
        """A list of these users alone, by their ids."""
        return replace(self, users=frozenset(map(self.digest, users)))

    def with_all(self, other: Self) -> Self:
        """All that are in either list; both have one salt."""
        return replace(self, users=self.users | other.users)

    def without(self, other: Self) -> Self:
        """Those that are not in the other list; both have one salt."""
        return replace(self, users=self.users - other.users)

    def written(self) -> str:
        """The content of a file; the same users under the same salt have the same."""
        content = _File(salt=self.salt, users=tuple(sorted(self.users)))
        return json.dumps(content.model_dump(mode="json"), indent=1) + "\n"

    def among(self, id_sql: str) -> str:
        """SQL that is true of the ids on the list and false of all others, NULL too, once `put_into` was called."""
        return f"coalesce(sha256({text(self.salt)} || {id_sql}) IN (SELECT digest FROM temp.{_TABLE}), false)"

    def put_into(self, con: Any) -> None:
        """Give a DuckDB connection the list as a temporary table, which a connection that may only read takes, too."""
        con.register("_listed", pa.table({"digest": pa.array(sorted(self.users), pa.string())}))
        con.execute(f"CREATE OR REPLACE TEMP TABLE {_TABLE} AS FROM _listed")
        con.unregister("_listed")


def leave_out(con: Any, raw: RawData, file: Path | None, log: StepLog) -> RawData:
    """A data set without the rows of forgotten users: no later step sees, counts or quotes them.

    Args:
        con: DuckDB connection of the tables.
        raw: The tables, with their derived columns.
        file: The list; None: nobody is forgotten.
        log: Gets the steps `forget`, of each table that had such rows.

    Raises:
        DataError: The file is no list.
    """
    if file is None:
        return raw
    listed = Forgotten.read(file)
    listed.put_into(con)
    columns: dict[Role, str | None] = {"interactions": raw.meaning.user, "users": raw.meaning.keys.get("user")}

    def change(role: Role, table: Table) -> Table:
        column = columns.get(role)
        with reading(table.origin):
            types = columns_of(con, table.relation)
            if column is None or column not in types:  # whoever reads the column next says what is missing
                return table
            theirs = listed.among(as_id(name(column), types[column]))
            dropped = scalar(con, f"SELECT count(*) FROM {table.relation} WHERE {theirs}")
            if not dropped:
                return table
            view = name(f"remembered_{role}")
            con.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM {table.relation} WHERE NOT {theirs}")
            kept = scalar(con, f"SELECT count(*) FROM {view}")
        log.add(f"forget {role}", kept, dropped, "users on the list dataset.forgotten")
        return replace(table, relation=view)

    return raw.reshaped(change)


def listed_among(con: Any, listed: Forgotten, relation: str, column: str) -> Collection[str]:
    """Digests of the listed users whose ids are in a column."""
    listed.put_into(con)
    rows = con.execute(
        f"SELECT DISTINCT sha256({text(listed.salt)} || {column}) FROM {relation} WHERE {listed.among(column)}"
    ).fetchall()
    return {digest for (digest,) in rows}
