"""The executor that needs no cluster."""

from __future__ import annotations

from llmcf_cli.scale import LOCAL


def test_items_are_taken_as_they_are_done():
    taken = []

    def items():
        for n in range(3):
            taken.append(n)
            yield n

    with LOCAL.pool(lambda n: n * n) as pool:
        for n, square in pool.map(items()):
            assert square == n * n
            assert taken == list(range(n + 1))
