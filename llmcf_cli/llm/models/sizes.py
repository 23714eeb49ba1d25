"""Whether the network that a folder describes is about as large as the weights that it has: before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcf_cli.core.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

FREE_NUMBERS = 1 << 20
"""Numbers that a network may have in any case."""
TIMES_HELD = 4
"""Times the numbers of its weights that a network may have: of a T5, an encoder's folder has the smaller half."""
PACKED_NUMBERS = 8
"""Numbers that one of quantised weights may stand for: 4-bit ones in 32 bits."""
MAX_BUFFER_BYTES = 1 << 30
"""Of masks and tables of positions, which no file has; in the largest GPT-J they take 120 MB."""


def check_size(where: Path, network: Callable[[], nn.Module], held: int) -> None:
    """Build a network without memory for its numbers, and compare their count with that of its weights.

    Args:
        where: What describes the network, for the error.
        network: Builds it.
        held: Numbers that its weights have, see `numbers_held`.

    Raises:
        ModelError: It would have far more than there are, or cannot be built.
    """
    import torch

    try:
        with torch.device("meta"):
            built = network()
            numbers = sum(parameter.numel() for parameter in built.parameters())
            buffers = sum(buffer.numel() * buffer.element_size() for buffer in built.buffers())
    except Exception as error:  # the library raises whatever its parsers raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"does not describe a network: {what:.300}", code="model-unreadable", where=str(where)
        ) from error
    check_numbers(where, numbers, held)
    if buffers > MAX_BUFFER_BYTES:
        raise ModelError(f"describes tables of {buffers:,} bytes beside the weights", code="model-limit",
                         where=str(where), hint="use another model")  # fmt: skip


def check_numbers(where: Path, numbers: int, held: int) -> None:
    """Compare the count of numbers that a network needs with that of its weights.

    Raises:
        ModelError: It needs far more.
    """
    if numbers > TIMES_HELD * held + FREE_NUMBERS:
        raise ModelError(
            f"describes a network of {numbers:,} numbers, but its weights have {held:,}",
            code="model-limit", where=str(where), hint="fetch the model again, or use another one",
        )  # fmt: skip


def numbers_held(files: Sequence[Path], *, packed: bool = False) -> int:
    """Numbers of all tensors of safetensors files, by the files' headers.

    Args:
        files: The files.
        packed: Whether one may stand for several, as in quantised weights.

    Raises:
        ModelError: A file is none.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in files:
        try:
            with safe_open(file, "np") as weights:
                shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"not a valid safetensors file: {error}", code="model-unreadable", where=str(file)
            ) from error
        total += sum(map(math.prod, shapes))
    return total * PACKED_NUMBERS if packed else total
