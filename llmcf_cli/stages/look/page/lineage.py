"""What a run's result was made from: every artifact, and a drawing of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmcf_cli.stages.engine.base import labelled
from llmcf_cli.stages.look.made import Made
from llmcf_cli.store.artifacts import KEY_LENGTH

MOST = 14
"""Artifacts that are drawn one by one; of more, those of a stage are one box."""
_BOX, _HIGH, _GAP_X, _GAP_Y = 138, 44, 44, 14


@dataclass(frozen=True)
class Artifact:
    """An artifact.

    Attributes:
        label: Its stage, and which of the stage's results it is.
        key: Its key, short.
        started: UTC time at which its making began.
        seconds: How long it took.
        megabytes: Of its files.
        settings: Parts of the recipe that determine it, beside its inputs.
        inputs: Labels of what it was made from.
    """

    label: str
    key: str
    started: str
    seconds: float
    megabytes: float
    settings: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Box:
    """A box of the drawing."""

    x: float
    y: float
    title: str
    below: str
    told: str


@dataclass(frozen=True)
class Drawing:
    """Boxes, and lines from what was made to what was made from it."""

    width: float
    height: float
    box: float
    high: float
    boxes: tuple[Box, ...]
    paths: tuple[str, ...]


def everything(last: Made) -> list[Made]:
    """All artifacts below one, itself last; what others were made from comes before them."""
    found: dict[str, Made] = {}

    def follow(made: Made) -> None:
        if made.manifest.key in found:
            return
        for need in made.needs.values():
            follow(need)
        found[made.manifest.key] = made

    follow(last)
    return list(found.values())


def label_of(made: Made) -> str:
    """`stage` or `stage[variant]`."""
    return labelled(made.manifest.stage, made.manifest.variant)


def artifacts(last: Made) -> list[Artifact]:
    """Every artifact below one, in an order in which they can be made."""
    return [
        Artifact(
            label_of(made), made.manifest.key[:KEY_LENGTH], made.manifest.started[:19].replace("T", " "),
            made.manifest.seconds, sum(record.size for record in made.manifest.files.values()) / 1e6,
            tuple(name for name in made.manifest.material if name not in _NO_SETTINGS),
            tuple(label_of(need) for need in made.needs.values()),
        )
        for made in everything(last)
    ]  # fmt: skip


_NO_SETTINGS = ("stage", "stage_version", "inputs", "plugins")


def draw(last: Made) -> Drawing:
    """A drawing of them, in columns: each right of all that it was made from."""
    found = everything(last)
    together = len(found) > MOST
    names = {made.manifest.key: made.manifest.stage if together else made.manifest.key for made in found}
    depth: dict[str, int] = {}
    members: dict[str, list[Made]] = {}
    edges: set[tuple[str, str]] = set()
    for made in found:
        name = names[made.manifest.key]
        members.setdefault(name, []).append(made)
        for need in made.needs.values():
            below = names[need.manifest.key]
            if below != name:
                edges.add((below, name))
                depth[name] = max(depth.get(name, 0), depth.get(below, 0) + 1)
        depth.setdefault(name, 0)
    columns: dict[int, list[str]] = {}
    for name in members:
        columns.setdefault(depth[name], []).append(name)
    tallest = max(map(len, columns.values()))
    height = tallest * (_HIGH + _GAP_Y) + _GAP_Y
    places: dict[str, tuple[float, float]] = {}
    for column, inside in columns.items():
        free = height - len(inside) * (_HIGH + _GAP_Y) + _GAP_Y
        for row, name in enumerate(inside):
            places[name] = (_GAP_Y + column * (_BOX + _GAP_X), free / 2 + row * (_HIGH + _GAP_Y))
    width = 2 * _GAP_Y + (max(columns) + 1) * (_BOX + _GAP_X) - _GAP_X
    boxes = tuple(_box(members[name], *places[name]) for name in members)
    return Drawing(width, height, _BOX, _HIGH, boxes, tuple(_paths(sorted(edges), places)))


def _box(members: list[Made], x: float, y: float) -> Box:
    first = members[0].manifest
    seconds = sum(made.manifest.seconds for made in members)
    if len(members) > 1:
        return Box(x, y, first.stage, f"{len(members)} × · {seconds:,.0f} s", f"{first.stage}: {len(members)} results")
    told = f"{label_of(members[0])}, {first.key[:KEY_LENGTH]}, {seconds:,.1f} s"
    return Box(x, y, first.stage, first.variant[:20] or f"{first.key[:8]} · {seconds:,.0f} s", told)


def _paths(edges: list[tuple[str, str]], places: dict[str, tuple[float, float]]) -> Iterator[str]:
    for below, above in edges:
        (x, y), (to_x, to_y) = places[below], places[above]
        start, end, middle = x + _BOX, to_x, (x + _BOX + to_x) / 2
        yield (
            f"M{start:g},{y + _HIGH / 2:g} C{middle:g},{y + _HIGH / 2:g} {middle:g},{to_y + _HIGH / 2:g} "
            f"{end:g},{to_y + _HIGH / 2:g}"
        )
