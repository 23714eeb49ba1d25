"""All examples of a model's bank, as augmenters take statistics of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from llmcf_cli.rec.augment.base import BankBlock
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleLookup
from llmcf_cli.rec.input.text import TEXT


def bank_blocks(inputs: nn.ModuleDict) -> Iterator[BankBlock]:
    """The bank, block by block; nothing where there are no examples or no texts.

    Args:
        inputs: Name → part of the model that an input is.
    """
    if not {EXAMPLES, TEXT} <= inputs.keys():
        return
    bank, text = cast("ExampleLookup", inputs[EXAMPLES]), inputs[TEXT]
    for index_E in bank.indices():
        rows = bank.rows(index_E)
        of = text(rows)
        yield BankBlock(rows.item_row_B, of.item_BT, of.history_BT, bank.cot_ET[index_E])
