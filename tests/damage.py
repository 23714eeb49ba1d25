"""Damage as a failing disk does it: a bit flips, and no size or time tells."""

from __future__ import annotations

import os
import random
from pathlib import Path

from llmcf_cli.store import integrity
from llmcf_cli.store.artifacts import MANIFEST, ArtifactStore

FLIPS = 16  # of every artifact


def flipped(file: Path, chance: random.Random) -> bytes:
    """Flip a bit somewhere in a file; what was there."""
    before, kept = file.stat(), file.read_bytes()
    broken = bytearray(kept)
    broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    file.write_bytes(broken)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    integrity._digests.clear()  # another process
    return kept


def flips_are_found(store: ArtifactStore, stage: str, key: str, chance: random.Random) -> None:
    """Each of `FLIPS` flips in an artifact is found, or changes nothing that its manifest says."""
    made = store.examine(stage, key)
    assert made.whole, (stage, made.damage)
    files = [made.folder / name for name in (*made.whole.files, MANIFEST) if (made.folder / name).stat().st_size]
    for _ in range(FLIPS):
        file = chance.choice(files)
        kept = flipped(file, chance)
        found = store.examine(stage, key).whole
        assert found is None or (file.name == MANIFEST and found.digest == made.whole.digest), file
        file.write_bytes(kept)
    assert store.examine(stage, key).whole, stage
