"""Events of a pair that the user had taken before: re-buys, new ratings."""

from __future__ import annotations

from typing import Any

from llmcf_cli.data.raw import scalar
from llmcf_cli.data.report import StepLog
from llmcf_cli.recipe.dataset import Repeats


def drop_repeats(con: Any, repeats: Repeats, log: StepLog) -> int:
    """Delete every later event of a pair from `clean`, unless they are to be kept.

    Returns:
        How many there are.
    """
    total: int = scalar(con, "SELECT count(*) FROM clean")
    found: int = total - scalar(con, "SELECT count(*) FROM (SELECT DISTINCT user_id, item_id FROM clean)")
    if repeats == "keep":
        log.add("repeats", total, 0, f"{found:,} events ({found / max(total, 1):.1%}) repeat an earlier pair, all kept")
        return found
    if found:
        con.execute(
            "DELETE FROM clean WHERE (user_id, item_id, time) NOT IN "
            "(SELECT (user_id, item_id, min(time)) FROM clean GROUP BY user_id, item_id)"
        )
    reason = "repeated pairs (dataset.repeats: first)" if found else "no pair occurs twice"
    log.add("drop repeats", total - found, found, reason)
    return found
