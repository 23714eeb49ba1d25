"""Seeds: one number in the recipe, an independent stream for every use of it."""

from __future__ import annotations

import hashlib
from typing import Any

GOLDEN = -7046029254386353131
"""2⁶⁴ divided by the golden ratio, as int64: SplitMix64's step from one state to the next."""
_FACTORS = (-4658895280553007687, -7723592293110705685)


def derive_seed(seed: int, *names: str | int) -> int:
    """A 31-bit seed for one named use, stable across runs, platforms and Python versions.

    Args:
        seed: The recipe's seed.
        names: What the stream is for, e.g. `("train-rec", "ict", 3)`.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def mixed(state: Any) -> Any:
    """SplitMix64's output of each state (Steele et al., 2014): a hash of 64 bits, of which all depend on all.

    Args:
        state: int64 array of NumPy or tensor of PyTorch; sums and products wrap around.

    Returns:
        Of the same kind, shape and type.
    """
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        state = (state ^ shifted(state, shift)) * factor
    return state ^ shifted(state, 31)


def shifted(value: Any, bits: int) -> Any:
    """Each int64 without its last bits, zeros in front; int64's own shift would copy the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
