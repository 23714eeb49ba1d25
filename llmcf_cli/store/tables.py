"""Every table's schema, once. DDL, writers, readers and documentation derive from here.

Entities are addressed by dense row numbers: 1-based for users and items, so that 0 is padding in any array of rows;
0-based for samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Table or file stem.
        meaning: One line: what a row is.
        schema: Fixed columns (Arrow).
        primary_key: Columns that identify a row.
        open_columns: What further columns may follow the fixed ones; empty: none.
    """

    name: str
    meaning: str
    schema: pa.Schema
    primary_key: tuple[str, ...]
    open_columns: str = ""

    def ddl(self, *, create: str = "CREATE TABLE", within: str = "") -> str:
        """Statement for DuckDB that makes the table.

        Args:
            create: May be `CREATE TABLE IF NOT EXISTS`.
            within: An attached database; empty: that of the connection.
        """
        columns = [f'"{f.name}" {sql_type(f.type)}{"" if f.nullable else " NOT NULL"}' for f in self.schema]
        key = ", ".join(f'"{c}"' for c in self.primary_key)
        place = f'{within}."{self.name}"' if within else f'"{self.name}"'
        return f"{create} {place} ({', '.join(columns)}, PRIMARY KEY ({key}))"


def sql_type(arrow: pa.DataType) -> str:
    """DuckDB's name for an Arrow type.

    Raises:
        KeyError: The type is used by no table here.
    """
    if pa.types.is_fixed_size_list(arrow):
        return f"{sql_type(arrow.value_type)}[{arrow.list_size}]"
    if pa.types.is_decimal(arrow):
        return f"DECIMAL({arrow.precision},{arrow.scale})"
    if pa.types.is_list(arrow):
        return f"{sql_type(arrow.value_type)}[]"
    return _SQL[arrow]


_SQL = {
    pa.int8(): "TINYINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN",
}  # fmt: skip


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


USER = Table(
    "user",
    "a user that has at least one sample or interaction",
    pa.schema([_required("user_row", pa.int32()), _required("user_id", pa.string()), _required("text", pa.string())]),
    ("user_row",),
    open_columns="user features, as `feature` lists them: VARCHAR (categorical), VARCHAR[] (multi) or DOUBLE (numeric)",
)
ITEM = Table(
    "item",
    "an item of the catalogue",
    pa.schema([_required("item_row", pa.int32()), _required("item_id", pa.string()), _required("text", pa.string())]),
    ("item_row",),
    open_columns="item features, as `feature` lists them: VARCHAR (categorical), VARCHAR[] (multi) or DOUBLE (numeric)",
)
FEATURE = Table(
    "feature", "a column of `user` or `item` that models read, and how",
    pa.schema([
        _required("entity", pa.string()), _required("name", pa.string()), _required("kind", pa.string()),
        _required("max_values", pa.int32()), _required("transform", pa.string()), _required("buckets", pa.int32()),
    ]),
    ("entity", "name"),
)  # fmt: skip
INTERACTION = Table(
    "interaction",
    "an event that passed the checks and filters; time: seconds since 1970 in UTC, or the position; place: its number, "
    "from 1, among its user's events by time, ties in the seeded order of splits and histories",
    pa.schema([
        _required("user_row", pa.int32()), _required("item_row", pa.int32()), pa.field("rating", pa.float64()),
        _required("time", pa.decimal128(18, 6)), _required("place", pa.int32()),
    ]),
    ("user_row", "item_row", "time"),
)  # fmt: skip
MICROSECONDS = "(CAST(trunc(time) AS BIGINT) * 1000000 + CAST(time % 1 * 1000000 AS BIGINT))"
"""SQL of an interaction's seconds in microseconds, BIGINT; ten times as fast as one product of wider decimals."""
SAMPLE_TIME = (
    f"CASE WHEN (SELECT value FROM meta WHERE key = 'clock') = 'global' THEN {MICROSECONDS} "
    "ELSE CAST(time AS BIGINT) END"
)
"""SQL of an interaction's time in the unit of a sample's."""


SAMPLE = Table(
    "sample",
    "a labelled (user, item) pair with the history strictly before its time: microseconds since 1970 in UTC, or the "
    "position",
    pa.schema([
        _required("sample_id", pa.int64()), _required("user_row", pa.int32()), _required("item_row", pa.int32()),
        _required("label", pa.int8()), _required("time", pa.int64()), _required("split", pa.string()),
        _required("history", pa.list_(pa.int32())),
    ]),
    ("sample_id",),
)  # fmt: skip
HISTORY = Table(
    "history", "the latest events of a user, oldest first: what `dataset.history` keeps of them as of the data's end",
    pa.schema([
        _required("user_row", pa.int32()), _required("items", pa.list_(pa.int32())),
        _required("times", pa.list_(pa.int64())),
    ]),
    ("user_row",),
)  # fmt: skip
INGEST_STEP = Table(
    "ingest_step", "what a step of ingest kept and dropped, and why",
    pa.schema([
        _required("step", pa.int32()), _required("name", pa.string()), _required("kept", pa.int64()),
        _required("dropped", pa.int64()), _required("reason", pa.string()),
    ]),
    ("step",),
)  # fmt: skip
META = Table(
    "meta", "a fact about a database as text: its clock, source and counts",
    pa.schema([_required("key", pa.string()), _required("value", pa.string())]),
    ("key",),
)  # fmt: skip
_CALL = (
    _required("prompt_hash", pa.string()), _required("model_digest", pa.string()),
    _required("decode_hash", pa.string()), _required("sample_index", pa.int32()),
)  # fmt: skip
_CALL_KEY = tuple(field.name for field in _CALL)

GENERATION = Table(
    "generation", "one generated text, cached by everything that determines it",
    pa.schema([
        *_CALL, _required("text", pa.string()),
        _required("finish_reason", pa.string()), _required("prompt_tokens", pa.int32()),
        _required("new_tokens", pa.int32()), _required("seconds", pa.float64()),
        # Null in rows from before they were kept.
        pa.field("decode", pa.string()), pa.field("seed", pa.int64()), pa.field("attempts", pa.int32()),
        pa.field("finished", pa.int64()), _required("checksum", pa.int64()),
    ]),
    _CALL_KEY,
)  # fmt: skip
GENERATION_FAILURE = Table(
    "generation_failure", "a call that failed and has not succeeded since; set aside once it has no attempt left",
    pa.schema([
        *_CALL, _required("reason", pa.string()), _required("retryable", pa.bool_()),
        _required("attempts", pa.int32()), _required("failed", pa.int64()),
    ]),
    _CALL_KEY,
)  # fmt: skip
GENERATION_LEASE = Table(
    "generation_lease", "a call that a worker is making now",
    pa.schema([*_CALL, _required("worker", pa.string())]),
    _CALL_KEY,
)  # fmt: skip
TRAVELLING_TEXT = Table(
    "text", "a generated text on its way to another machine: named as in `generation`, with its settings; scores and "
    "`kept` where a judge has seen it",
    pa.schema([
        *_CALL, _required("step", pa.string()), _required("about", pa.string()), _required("text", pa.string()),
        _required("finish_reason", pa.string()), _required("prompt_tokens", pa.int32()),
        _required("new_tokens", pa.int32()), _required("decode", pa.string()),
        *(pa.field(name, pa.float32()) for name in (
            "coherence", "completeness", "relevance", "consistency", "score")),
        pa.field("kept", pa.bool_()),
    ]),
    _CALL_KEY,
)  # fmt: skip
KNOWLEDGE_TEXT = Table(
    "knowledge_text", "what the language model wrote about a user or an item; usable for samples later than `as_of`",
    pa.schema([
        _required("entity", pa.string()), _required("row", pa.int32()), _required("as_of", pa.int64()),
        _required("text", pa.string()),
    ]),
    ("entity", "row"),
)  # fmt: skip
ANSWER = Table(
    "answer", "a model's yes or no to one question, cached by everything that determines it",
    pa.schema([
        _required("prompt_hash", pa.string()), _required("model_digest", pa.string()),
        _required("asking_hash", pa.string()), _required("logit", pa.float32()), _required("mass", pa.float32()),
    ]),
    ("prompt_hash", "model_digest", "asking_hash"),
)  # fmt: skip
_SCORES = tuple(
    _required(name, pa.float32()) for name in ("coherence", "completeness", "relevance", "consistency", "score")
)
COT = Table(
    "cot", "the chain of thought kept for a train sample",
    pa.schema([
        _required("sample_id", pa.int64()), _required("prompt_hash", pa.string()), _required("prompt", pa.string()),
        _required("text", pa.string()), *_SCORES,
    ]),
    ("sample_id",),
)  # fmt: skip
COT_CANDIDATE = Table(
    "cot_candidate", "a text that was judged for a train sample; `reason` says why it is of no use, empty if it is",
    pa.schema([
        _required("sample_id", pa.int64()), _required("sample_index", pa.int32()), _required("text", pa.string()),
        *_SCORES, _required("reason", pa.string()), _required("truncated", pa.bool_()), _required("kept", pa.bool_()),
    ]),
    ("sample_id", "sample_index"),
)  # fmt: skip
COT_DROPPED = Table(
    "cot_dropped", "a chosen train sample without a chain of thought, and why",
    pa.schema([
        _required("sample_id", pa.int64()), _required("prompt_hash", pa.string()), _required("reason", pa.string()),
        _required("detail", pa.string()),
    ]),
    ("sample_id",),
)  # fmt: skip
COT_REVIEW = Table(
    "cot_review", "somebody's verdict, keep or drop, on a text that is known by its SHA-256",
    pa.schema([
        _required("text_sha256", pa.string()), _required("verdict", pa.string()), _required("note", pa.string()),
        _required("reviewed", pa.string()), _required("sample_id", pa.int64()),
    ]),
    ("text_sha256",),
)  # fmt: skip
COT_PART = Table(
    "cot_part", "what one step of the prompt wrote for a kept chain of thought; samples may share it",
    pa.schema([
        _required("sample_id", pa.int64()), _required("place", pa.int32()), _required("step", pa.string()),
        _required("prompt_hash", pa.string()), _required("text", pa.string()),
    ]),
    ("sample_id", "place"),
)  # fmt: skip

TEACHER_SCORE = Table(
    "teacher_score", "the language model's answer to a train sample: log(P(Yes) / P(No)), and mass P(Yes) + P(No)",
    pa.schema([
        _required("sample_id", pa.int64()), _required("logit", pa.float32()), _required("mass", pa.float32()),
    ]),
    ("sample_id",),
)  # fmt: skip


def item_text(dim: int) -> Table:
    """LanceDB `item_text`: the text vector of an item, `dim` numbers of unit L2 norm (zeros for an empty text)."""
    return Table(
        "item_text", "text vector of an item",
        pa.schema([_required("item_row", pa.int32()), _required("item_id", pa.string()),
                   _required("vector", pa.list_(pa.float32(), dim))]),
        ("item_row",),
    )  # fmt: skip


def knowledge(dim: int) -> Table:
    """LanceDB `knowledge`: the vector of a text of `knowledge_text`, unit L2 norm."""
    return Table(
        "knowledge", "vector of what the language model wrote about a user or an item",
        pa.schema([_required("entity", pa.string()), _required("row", pa.int32()), _required("as_of", pa.int64()),
                   _required("vector", pa.list_(pa.float32(), dim))]),
        ("entity", "row"),
    )  # fmt: skip


def cot_example(dim: int, space_dim: int, steps: Sequence[str] = ()) -> Table:
    """LanceDB `cot_example`: an in-context example (x_i, cot_i, y_i) with its search and reasoning vectors.

    Args:
        dim: Numbers of a text vector; all are of unit L2 norm, or zeros where there is no text.
        space_dim: Numbers of a search vector.
        steps: Steps of the prompt whose parts of the chain of thought have vectors of their own, as `STEP_vector`.
    """
    return Table(
        "cot_example", "an in-context example with the vectors it is found and read by",
        pa.schema([
            _required("sample_id", pa.int64()), _required("user_row", pa.int32()), _required("item_row", pa.int32()),
            _required("label", pa.int8()), _required("time", pa.int64()), _required("split", pa.string()),
            _required("vector", pa.list_(pa.float32(), space_dim)),
            _required("cot_vector", pa.list_(pa.float32(), dim)),
            *(_required(f"{step}_vector", pa.list_(pa.float32(), dim)) for step in steps),
        ]),
        ("sample_id",),
    )  # fmt: skip


def example_match(k: int) -> Table:
    """The examples of a sample, best first; -1 and score 0 where there are fewer than `k`."""
    return Table(
        "example_match", "the retrieved examples of a sample",
        pa.schema([
            _required("sample_id", pa.int64()), _required("example_sample_id", pa.list_(pa.int64(), k)),
            _required("score", pa.list_(pa.float32(), k)),
        ]),
        ("sample_id",),
    )  # fmt: skip


def prediction(truth: pa.Field, *output: pa.Field) -> Table:
    """A task's stored predictions: the target in the column `truth`, the prediction in the columns `output`."""
    return Table(
        "prediction", "a model's output for a sample of the test split",
        pa.schema([
            _required("sample_id", pa.int64()), _required("user_row", pa.int32()), _required("item_row", pa.int32()),
            _required("user_id", pa.string()), _required("item_id", pa.string()), _required("time", pa.int64()),
            truth, _required("split", pa.string()), *output,
        ]),
        ("sample_id",),
    )  # fmt: skip


METRIC = Table(
    "metric", "a measure of one arm and seed on one split",
    pa.schema([
        _required("arm", pa.string()), _required("seed", pa.int64()), _required("split", pa.string()),
        _required("metric", pa.string()), _required("value", pa.float64()),
    ]),
    ("arm", "seed", "split", "metric"),
)  # fmt: skip
ABILITY_ANSWER = Table(
    "ability_answer", "a model's answer to the recommendation question about a held-out sample, as in `teacher_score`",
    pa.schema([
        _required("sample_id", pa.int64()), _required("label", pa.int8()), _required("logit", pa.float32()),
        _required("mass", pa.float32()),
    ]),
    ("sample_id",),
)  # fmt: skip
ABILITY_ITEM = Table(
    "ability_item", "a model's answer to a benchmark's question: 1 or 0, or nats of log-probability for `perplexity`",
    pa.schema([
        _required("task", pa.string()), _required("row", pa.int64()), _required("metric", pa.string()),
        _required("value", pa.float64()),
    ]),
    ("task", "row", "metric"),
)  # fmt: skip
ABILITY = Table(
    "ability", "a measure of one language model, with its standard error over samples or questions",
    pa.schema([
        _required("model", pa.string()), _required("measure", pa.string()), _required("unit", pa.string()),
        _required("value", pa.float64()), pa.field("standard_error", pa.float64()), _required("n", pa.int64()),
    ]),
    ("model", "measure"),
)  # fmt: skip
