"""The planted world itself: who reads what when, what is hidden, and how it would be said.

Legend: U users, I items, N ratings, A attributes, V values, C circles, G genres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.planted.config import PlantedConfig

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "pace": ("brisk", "leisurely", "breathless", "halting", "steady", "uneven", "gentle", "relentless"),
    "mood": ("bleak", "playful", "tender", "sinister", "wistful", "defiant", "serene", "feverish"),
    "setting": ("harbour", "desert", "metropolis", "monastery", "battlefield", "orchard", "glacier", "jungle"),
    "ending": ("tragic", "triumphant", "ambiguous", "ironic", "peaceful", "abrupt", "bittersweet", "cryptic"),
    "narrator": ("detective", "child", "ghost", "soldier", "scholar", "thief", "widow", "machine"),
    "theme": ("revenge", "friendship", "exile", "ambition", "memory", "justice", "faith", "hunger"),
}
"""Hidden attributes and their values."""
GENRES = ("mystery", "romance", "fantasy", "history", "travel", "satire", "horror", "biography")
CIRCLES = ("students", "nurses", "farmers", "engineers", "teachers", "sailors")
SPAN = 10 * 365 * 86_400
"""Seconds from the first to the last moment."""
_LATE = 0.8  # of the span; books that come out later are cold
_BLOCKS = 400  # moments at which the shop's offer changes
_FIRST = ("Amber", "Silent", "Hollow", "Crimson", "Distant", "Broken", "Golden", "Winter", "Paper", "Hidden", "Velvet",
          "Iron", "Salt", "Glass", "Copper", "Ivory", "Ashen", "Scarlet", "Lonely", "Electric", "Marble", "Wooden",
          "Lunar", "Solar", "Northern", "Southern", "Eastern", "Western", "Painted", "Frozen", "Burning", "Sunken",
          "Flying", "Whispering", "Forgotten", "Borrowed", "Stolen", "Seventh", "Last", "First")  # fmt: skip
_SECOND = ("Lantern", "River", "Garden", "Compass", "Mirror", "Bridge", "Letter", "Tower", "Island", "Clock",
           "Feather", "Violin", "Market", "Staircase", "Orchid", "Anchor", "Candle", "Ladder", "Window",
           "Kingdom", "Raven", "Carousel", "Telescope", "Umbrella", "Cathedral", "Locket", "Meadow", "Piano",
           "Quarry", "Railway", "Sparrow", "Theatre", "Vineyard", "Workshop", "Almanac", "Bakery", "Canal",
           "Diary", "Engine", "Fountain", "Gallery", "Hammer", "Inn", "Jewel", "Kettle", "Labyrinth", "Manor",
           "Needle", "Oath", "Parade")  # fmt: skip


@dataclass(frozen=True)
class World:
    """All there is.

    Attributes:
        titles: Of each book.
        genre_I: int, of each book.
        hidden_IA: int, the value of each hidden attribute of each book.
        stated_IA: bool, whether the book's own text states it.
        circle_U: int, of each reader.
        told_U: int, the circle that the reader's column names; of some it is another.
        taste_UAV: What a reader's liking of a book gains by a value, in logits.
        user_N, item_N: Who rated what.
        time_N: int, seconds since 1970.
        rating_N: int, 1 to 5; from 4 on it was liked.
    """

    titles: list[str]
    genre_I: np.ndarray
    hidden_IA: np.ndarray
    stated_IA: np.ndarray
    circle_U: np.ndarray
    told_U: np.ndarray
    taste_UAV: np.ndarray
    user_N: np.ndarray
    item_N: np.ndarray
    time_N: np.ndarray
    rating_N: np.ndarray

    @property
    def attributes(self) -> list[str]:
        """Names of the hidden attributes."""
        return list(ATTRIBUTES)[: self.hidden_IA.shape[1]]

    def phrase(self, attribute: int, value: int) -> str:
        """How a value of an attribute is said, e.g. `a bleak mood`."""
        name = self.attributes[attribute]
        word = ATTRIBUTES[name][value]
        return f"{'an' if word[0] in 'aeiou' else 'a'} {word} {name}"

    def tables(self) -> dict[str, pa.Table]:
        """`interactions`, `items` and `users`, as a shop would have them: without what is hidden."""
        blurbs = []
        for item, title in enumerate(self.titles):
            told = [self.phrase(int(a), int(self.hidden_IA[item, a])) for a in np.flatnonzero(self.stated_IA[item])]
            about = f" It has {listed(told)}." if told else ""
            blurbs.append(f"{title}, a {GENRES[self.genre_I[item]]} book.{about}")
        return {
            "interactions": pa.table({
                "user_id": [f"u{u}" for u in self.user_N], "item_id": [f"i{i}" for i in self.item_N],
                "rating": self.rating_N, "timestamp": self.time_N,
            }),
            "items": pa.table({
                "item_id": [f"i{i}" for i in range(len(self.titles))],
                "genre": [GENRES[g] for g in self.genre_I], "blurb": blurbs,
            }),
            "users": pa.table({
                "user_id": [f"u{u}" for u in range(len(self.told_U))], "circle": [CIRCLES[c] for c in self.told_U],
            }),
        }  # fmt: skip


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def make_world(config: PlantedConfig) -> World:
    """The world of these settings; the same settings give the same world."""
    rng = np.random.default_rng(derive_seed(config.seed, "planted"))
    genre_I, hidden_IA = rng.integers(len(GENRES), size=config.items), _hidden(rng, config)
    stated_IA = rng.random(hidden_IA.shape) < config.in_text
    circle_U = rng.integers(len(CIRCLES), size=config.users)
    told_U = np.where(rng.random(config.users) < 0.8, circle_U, rng.integers(len(CIRCLES), size=config.users))
    taste_UAV = _tastes(rng, config)[circle_U]
    user_N, item_N, time_N = _events(rng, config)
    attribute_A = np.arange(config.attributes)
    liking_N = taste_UAV[user_N[:, None], attribute_A, hidden_IA[item_N]].sum(1)
    liking_N += (0.5 * rng.standard_normal((len(CIRCLES), len(GENRES))))[circle_U[user_N], genre_I[item_N]]
    liking_N += (0.5 * rng.standard_normal(config.users))[user_N] + (0.5 * rng.standard_normal(config.items))[item_N]
    liked_N = rng.random(len(user_N)) < 1 / (1 + np.exp(-liking_N))
    rating_N = np.where(liked_N, rng.integers(4, 6, len(user_N)), rng.integers(1, 4, len(user_N)))
    return World(
        _titles(rng, config.items), genre_I, hidden_IA, stated_IA, circle_U, told_U, taste_UAV,
        user_N, item_N, time_N, rating_N,
    )  # fmt: skip


def _hidden(rng: np.random.Generator, config: PlantedConfig) -> np.ndarray:
    return rng.integers(config.values, size=(config.items, config.attributes))


def _tastes(rng: np.random.Generator, config: PlantedConfig) -> np.ndarray:
    """Of each circle, [C, A, V]; of each attribute the mean is 0, of a book's sum the variance is strength²."""
    shape = (len(CIRCLES), config.attributes, config.values)
    common_1AV, own_CAV = rng.standard_normal((1, *shape[1:])), rng.standard_normal(shape)
    taste_CAV = np.sqrt(config.shared) * common_1AV + np.sqrt(1 - config.shared) * own_CAV
    taste_CAV -= taste_CAV.mean(2, keepdims=True)
    scale = config.strength / np.sqrt((taste_CAV**2).mean(2).sum(1).mean())
    return np.asarray(taste_CAV * scale)


def _events(rng: np.random.Generator, config: PlantedConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readers come and stay for a while; of what is out, they take the popular and the new. Sorted by time."""
    first_I = np.where(rng.random(config.items) < 0.4, 0.0, rng.uniform(0, _LATE, config.items))
    first_I = np.where(rng.random(config.items) < config.cold_items, rng.uniform(_LATE, 1, config.items), first_I)
    fame_I = rng.lognormal(0, 0.7, config.items)
    arrival_U, activity_U = rng.uniform(0, 0.97, config.users), rng.lognormal(0, 0.7, config.users)
    fresh = round(config.ratings * (1 - config.repeats))
    taken: set[int] = set()
    rows: list[np.ndarray] = []
    while len(taken) < fresh:
        count = fresh - len(taken)
        user_N = rng.choice(config.users, count, p=activity_U / activity_U.sum())
        time_N = arrival_U[user_N] + (1 - arrival_U[user_N]) * rng.beta(1, 3, count)
        rows.append(_new_pairs(rng, user_N, time_N, first_I, fame_I, taken))
    row_NX = np.concatenate(rows)
    again = config.ratings - fresh
    if again:
        source_NX = row_NX[rng.choice(len(row_NX), again)]
        later_N = source_NX[:, 2] + (1 - source_NX[:, 2]) * rng.uniform(0.01, 1, again)
        row_NX = np.concatenate([row_NX, np.column_stack([source_NX[:, :2], later_N])])
    row_NX = row_NX[np.lexsort(row_NX.T)]
    seconds_N = 1_000_000_000 + np.round(row_NX[:, 2] * SPAN).astype(np.int64)
    return row_NX[:, 0].astype(np.int64), row_NX[:, 1].astype(np.int64), seconds_N


def _new_pairs(
    rng: np.random.Generator, user_N: np.ndarray, time_N: np.ndarray, first_I: np.ndarray, fame_I: np.ndarray,
    taken: set[int],
) -> np.ndarray:  # fmt: skip
    """(user, item, time) of the drawn pairs that are new; adds them to `taken`."""
    rows: list[tuple[int, int, float]] = []
    block_N = (time_N * _BLOCKS).astype(int)
    for block in np.unique(block_N):
        of_block = np.flatnonzero(block_N == block)
        now = block / _BLOCKS
        weight_I = np.where(first_I <= now, fame_I * (0.3 + np.exp(-(now - first_I) / 0.2)), 0.0)
        item_n = rng.choice(len(first_I), len(of_block), p=weight_I / weight_I.sum())
        for row, item in zip(of_block, item_n, strict=True):
            pair = int(user_N[row]) * len(first_I) + int(item)
            if pair not in taken:
                taken.add(pair)
                rows.append((int(user_N[row]), int(item), float(time_N[row])))
    return np.array(rows, dtype=float).reshape(-1, 3)


def _titles(rng: np.random.Generator, count: int) -> list[str]:
    pairs = [f"The {first} {second}" for first in _FIRST for second in _SECOND]
    order = rng.permutation(len(pairs))
    return [
        pairs[order[n % len(pairs)]] + (f", volume {n // len(pairs) + 1}" if n >= len(pairs) else "")
        for n in range(count)
    ]
