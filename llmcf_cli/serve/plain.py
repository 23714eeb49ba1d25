"""Values of requests that are ids already, as nearly all are: they need no conversion, which a request would wait for.

Whatever is written in any other way goes through the readers of tables; a property test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from llmcf_cli.tabular.values import MISSING, WHITE

LARGEST = 1 << 53
"""Whole numbers below it are the same in any JSON reader."""


def plain_requests(rows: Sequence[Mapping[str, Any]], position: bool) -> pa.Table | None:
    """Requests as `to_requests` gives them, where every value is plain: ids are, histories are lists of ids, no times.

    Args:
        rows: Mappings with user_id, item_id and, if there are any, history and time.
        position: Whether times would be positions.

    Returns:
        None where one value has to be converted.
    """
    if not rows or any(row.get("time") is not None or row.keys() < {"user_id", "item_id"} for row in rows):
        return None
    users, items = (plain_ids([row.get(name) for row in rows]) for name in ("user_id", "item_id"))
    histories = [row.get("history") for row in rows]
    if not all(history is None or type(history) is list for history in histories):
        return None
    events = plain_ids(list(chain.from_iterable(history for history in histories if history)))
    if users is None or items is None or events is None or events.null_count:
        return None
    offsets, end = [], 0
    for history in histories:
        offsets.append(None if history is None else end)
        end += len(history or ())
    lists = pa.ListArray.from_arrays(pa.array([*offsets, end], pa.int32()), events)
    time = pa.nulls(len(rows), pa.int64() if position else pa.timestamp("us", "UTC"))
    return pa.table({"user_id": users, "item_id": items, "history": lists, "time": time})


def plain_ids(values: Sequence[Any]) -> pa.Array | None:
    """Ids as text, string [n], null where there is none; None where one value has to be converted."""
    made = [_plain(value) for value in values]
    if any(text is _CONVERT for text in made):
        return None
    try:
        return pa.array(made, pa.string())
    except UnicodeEncodeError:  # half a character: the readers say where
        return None


_CONVERT = object()


def _plain(value: Any) -> Any:
    """The value as an id, None for none; `_CONVERT` where that takes a reader."""
    if value is None:
        return None
    if type(value) is str:
        whole = value and value[0] not in WHITE and value[-1] not in WHITE and "\0" not in value
        as_float = whole and "." in value and value.rstrip("0").endswith(".")  # `12.0` may be the number 12
        return value if whole and not as_float and value not in MISSING else _CONVERT
    if type(value) is int and -LARGEST < value < LARGEST:
        return str(value)
    return _CONVERT
