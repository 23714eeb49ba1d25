"""Amazon reviews: which of the releases a table is of."""

from __future__ import annotations

from llmcf_cli.data.draft.roles import Roles

_OLD = {"reviewerID", "asin", "overall", "unixReviewTime"}
_NEW = {"user_id", "parent_asin", "rating", "timestamp"}


def amazon_source(roles: Roles) -> int | None:
    """The year of the release, by the names of its fields; None: the table is something else."""
    columns = set(roles.interactions.profiles)
    items = roles.entities.get("item")
    described = set(items[0].profiles) if items else set()
    if columns >= _NEW:
        return 2023
    if not columns >= _OLD:
        return None
    return 2018 if "verified" in columns or "category" in described else 2014
