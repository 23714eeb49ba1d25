"""Texts per second of the text encoder against `encode` of sentence-transformers, and how many texts it holds.

    python benchmarks/embed.py [--quick] [--wall]

MiniLM-L6 on texts of 10 to 70 words, as chains of thought have, all distinct: 4,096 of them (--quick: 1,024). The peer
gets one list and its defaults; the encoder gets the same texts as a stream of blocks of 512, and each text counts as
long as it lives. Sides alternate; medians of three rounds, in CPU time on one thread (--wall: in wall time on all
cores). The vectors must agree.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from llmcf_cli.llm.models.encoder import TextEncoder
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.store.assets import Locator, open_assets

TARGET, BLOCK, ROUNDS = 1.0, 512, 3
SENTENCE = """
the user prefers films about action science fiction comedy drama romance thriller space war and family because earlier
favourites share their genre story style characters while this one is different so it may offer some diversity not more
of the same quiet warm bold slow classic modern director actor music adventure children animated mystery crime
"""


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the texts")
    parser.add_argument("--wall", action="store_true", help="wall time on all cores, for an otherwise idle machine")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    if not options.wall:
        torch.set_num_threads(1)
    count = 1024 if options.quick else 4096
    folder = Locator(library_dir(), open_assets(library_dir())).path("asset:minilm-l6-v2")
    peer, encoder = SentenceTransformer(str(folder), device="cpu", local_files_only=True), TextEncoder(folder)
    texts = make_texts(count)
    held: list[int] = []
    sides = {
        "sentence-transformers": lambda: peer.encode(texts, show_progress_bar=False, normalize_embeddings=True),
        "llmcf": lambda: np.concatenate(list(encoder.encode_stream(blocks(texts, held)))),
    }
    peer.encode(texts[:64])
    encoder.encode(texts[:64])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        vectors = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            started = clock()
            vectors[name] = sides[name]()
            seconds[name].append(clock() - started)
    apart = float(np.abs(vectors["llmcf"] - vectors["sentence-transformers"]).max())
    report(count, {name: count / statistics.median(v) for name, v in seconds.items()}, max(held), apart)


def report(count: int, rates: dict[str, float], held: int, apart: float) -> None:
    """Print, and end the process."""
    ratio = rates["llmcf"] / rates["sentence-transformers"]
    print(
        f"{count:,} texts, {torch.get_num_threads()} threads, vectors within {apart:.1e}, {held:,} texts held at most"
    )
    print(f"{'side':>24}{'texts/s':>10}")
    for name, rate in rates.items():
        print(f"{name:>24}{rate:>10.1f}")
    ok = ratio >= TARGET and held <= BLOCK and apart < 1e-4
    detail = {
        "texts": count, "threads": torch.get_num_threads(), "texts_held": held, "block": BLOCK,
        "texts_per_second": {name: round(rate, 1) for name, rate in rates.items()}, "largest_difference": apart,
    }  # fmt: skip
    print(json.dumps({"name": "embed", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def make_texts(count: int) -> list[str]:
    """Distinct sentences of random words."""
    chance, words = random.Random(7), SENTENCE.split()
    return [f"{' '.join(chance.choices(words, k=chance.randint(10, 70)))} {number}" for number in range(count)]


class Text(str):
    """A text whose life can be watched."""


def blocks(texts: list[str], held: list[int]) -> Iterator[list[str]]:
    """The texts in blocks, as copies; appends how many of these are alive to `held` at each block."""
    alive: weakref.WeakSet[Text] = weakref.WeakSet()
    for start in range(0, len(texts), BLOCK):
        block = [Text(text) for text in texts[start : start + BLOCK]]
        alive.update(block)
        held.append(len(alive))
        yield block
        del block


if __name__ == "__main__":
    main()
