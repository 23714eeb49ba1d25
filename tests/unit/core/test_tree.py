"""Merging: what `extends` and `--set` mean, value by value."""

import pytest

from llmcf_cli.core.tree import DEFAULT, Origin, merge, nearest, origins, plain
from llmcf_cli.core.yamlfile import read_value

OLD, NEW = Origin(override="old"), Origin(override="new")


def merged(base, over):
    return merge(read_value(base, OLD), read_value(over, NEW))


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ("{a: 1, b: 2}", "{b: 3}", {"a": 1, "b": 3}),
        ("{a: {x: 1, y: 2}}", "{a: {y: 3}}", {"a": {"x": 1, "y": 3}}),
        ("{a: [1, 2, 3]}", "{a: [4]}", {"a": [4]}),
        ("{a: {x: 1}}", "{a: null}", {"a": None}),
        # a component of the same type keeps its settings, one of another type starts afresh
        ("{c: {type: t, x: 1}}", "{c: {type: t, y: 2}}", {"c": {"type": "t", "x": 1, "y": 2}}),
        ("{c: {type: t, x: 1}}", "{c: {x: 2}}", {"c": {"type": "t", "x": 2}}),
        ("{c: {type: t, x: 1}}", "{c: {type: u, y: 2}}", {"c": {"type": "u", "y": 2}}),
        # the short form, on either side
        ("{c: t}", "{c: {x: 2}}", {"c": {"type": "t", "x": 2}}),
        ("{c: t}", "{c: {type: u, x: 2}}", {"c": {"type": "u", "x": 2}}),
        ("{c: {type: t, x: 1}}", "{c: t}", {"c": {"type": "t", "x": 1}}),
        ("{c: {type: t, x: 1}}", "{c: u}", {"c": {"type": "u"}}),
        ("{c: t}", "{c: u}", {"c": "u"}),
    ],
)
def test_merge(base, over, expected):
    assert plain(merged(base, over)) == expected


def test_merge_leaves_its_arguments_alone():
    base = read_value("{a: {x: 1}}", OLD)
    merge(base, read_value("{a: {y: 2}}", NEW))
    assert plain(base) == {"a": {"x": 1}}


def test_origins_of_every_leaf():
    node = merged("{a: {x: 1, y: 2}, c: t, l: [1]}", "{a: {y: 3}}")
    resolved = {"a": {"x": 1, "y": 3, "z": 4}, "c": {"type": "t", "p": 0.5}, "l": [1], "m": [], "n": {}}
    assert origins(resolved, node) == {
        "a.x": OLD, "a.y": NEW, "a.z": DEFAULT, "c.type": OLD, "c.p": DEFAULT, "l.0": OLD, "m": DEFAULT, "n": DEFAULT,
    }  # fmt: skip


def test_nearest_stops_where_the_tree_does():
    node = read_value("{a: {b: [1, 2]}}", OLD)
    assert nearest(node, ("a", "b", 1)).value == 2
    assert plain(nearest(node, ("a", "b", 7))) == [1, 2]
    assert plain(nearest(node, ("a", "q", "r"))) == {"b": [1, 2]}
