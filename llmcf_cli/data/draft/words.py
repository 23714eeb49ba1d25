"""What names of columns say."""

from __future__ import annotations

import re

USER = frozenset({
    "user", "usr", "customer", "cust", "client", "member", "visitor", "buyer", "shopper", "reviewer",
    "account", "person", "subscriber", "viewer", "listener", "reader", "player", "patron", "guest", "profile",
    "student", "u", "kunde", "benutzer", "nutzer",
})  # fmt: skip
ITEM = frozenset({
    "item", "product", "prod", "movie", "film", "book", "isbn", "asin", "sku", "stock", "article", "song", "track",
    "artist", "album", "show", "game", "recipe", "restaurant", "business", "hotel", "news", "video", "post", "course",
    "good", "offer", "listing", "app", "content", "anime", "place", "venue", "i", "artikel", "produkt",
})  # fmt: skip
IDENTITY = frozenset({"id", "no", "nr", "number", "code", "key", "uuid", "guid", "asin", "isbn", "sku", "nummer"})
OTHER = frozenset({
    "name", "title", "description", "desc", "type", "category", "categories", "country", "city", "age", "gender",
    "price", "count", "rating", "date", "time", "url", "link", "text", "review", "brand", "year", "state", "zip",
    "quantity",
})  # fmt: skip
"""Words of a column that tells something about a user or an item, and does not name it."""
RATING = frozenset({"rating", "rate", "star", "score", "overall", "grade", "vote", "label", "click", "clicked", "like",
                    "liked", "purchase", "purchased", "bought", "target", "feedback"})  # fmt: skip
TIME = frozenset({"time", "timestamp", "date", "datetime", "day", "ts", "created", "when", "unix", "epoch", "at"})
POSITION = frozenset({"position", "order", "seq", "sequence", "rank", "step", "index", "pos"})
LISTS = frozenset({"genre", "genres", "category", "categories", "tag", "tags", "class", "keyword", "keywords", "topic",
                   "topics", "cuisine", "cuisines", "label"})  # fmt: skip
TITLE = ("title", "name", "description", "desc", "headline", "subject", "summary")
QUANTITY = frozenset({"quantity", "qty", "units"})
EVENT = frozenset({"event", "action", "behavior", "behaviour", "activity", "interaction"})
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def words(column: str) -> tuple[str, ...]:
    """The words of a name in lower case: `reviewerID` → reviewer, id; `visitorid` → visitor, id."""
    found: list[str] = []
    for part in map(str.lower, _PART.findall(column)):
        stem = part[:-2] if part.endswith("id") and part[:-2] in USER | ITEM else part
        found += [stem, "id"] if stem != part else [part]
    return tuple(word[:-1] if word.endswith("s") and word[:-1] in USER | ITEM | RATING else word for word in found)


def says(column: str, meant: frozenset[str]) -> int:
    """How clearly a name says that its column names one of `meant`: 3 of `user_id`, 2 of `user`, 1, or 0."""
    found = words(column)
    if not meant & set(found):
        return 0
    if len(found) == 1:
        return 3 if found[0] in IDENTITY else 2
    if OTHER & set(found):
        return 0
    return 3 if IDENTITY & set(found) else 1
