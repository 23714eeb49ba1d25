"""Tokens of a text in which only what a chat template wrote can be a control token.

A tokenizer finds its added tokens (`<|im_end|>`, `</s>`, `[INST]`, `<tool_call>`) anywhere in a text, in a title as
well as in the template's own marks. Here each of them has a private name that no data can hold: the template's marks
are written by these names, and a title that reads `<|im_end|>` is a text like any other, kept to the last character.

transformers has `sanitize_control_tokens` for it since 5.20. That one encodes a chat piece by piece, finds neither
what a normaliser turns into a control token nor what a vocabulary spells out, and does not say where an answer begins.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

_BLANK = " \t\n\r▁"  # added tokens of these alone (Gemma, Phi) are text: they mean what they look like
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # how vocabularies spell what they have no piece for
_MARKS = frozenset("<>[]{}|◁▷")  # an added token without any of these is a word that somebody added

COMMON = re.compile(
    r"<\|[^<>|\n]{1,64}\|>|<｜[^<>｜\n]{1,64}｜>|◁[^◁▷\n]{1,64}▷|</?s>|<(?:unk|pad|bos|eos|mask)>|<</?SYS>>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|IMG|CLS|SEP|PAD|MASK|UNK)\]"
    r"|</?(?:think|tool_call|tool_response)>|<(?:start|end)_of_[a-z]{1,30}>"
)
"""How control tokens look that models commonly have, for who does not know a model's tokenizer."""

Pieces = Sequence[str]
"""A text as parts: the template's at even places, data at odd ones."""


class ControlTokens:
    """Encodes texts of template and data, with the tokenizer's own ids and exactly its tokens for ordinary text.

    Args:
        tokenizer: Of transformers.
        template: Its chat template: added tokens that it writes are control tokens, whatever they look like.

    Attributes:
        names: The control tokens as they are written, the longest first.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        self.names = sorted(
            (t.content for t in added if _is_control(t.content, t.special, template)), key=len, reverse=True
        )
        self._written = re.compile("|".join(map(re.escape, self.names)) or "(?!)")
        self._private: dict[str, str] = {}
        self._ids: dict[int, int] = {}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._twin = None if backend is None else self._renamed(backend)

    def meets(self, text: str) -> bool:
        """Whether a text spells a control token."""
        return self._written.search(text) is not None

    def broken_up(self, text: str) -> str:
        """A text with a blank after the first character of what reads like a control token, for who would read it
        so."""
        return broken_up(text, self._written)

    def encode(self, texts: Sequence[Pieces]) -> list[list[int]]:
        """Token ids of each text."""
        if self._twin is None:
            return [self._one_by_one(pieces) for pieces in texts]
        renamed = ["".join(self._rename(p) if n % 2 == 0 else p for n, p in enumerate(pieces)) for pieces in texts]
        found = [encoding.ids for encoding in self._twin.encode_batch_fast(renamed, add_special_tokens=False)]
        return [[self._ids.get(i, i) for i in ids] for ids in found] if self._ids else found

    def _rename(self, template: str) -> str:
        return self._written.sub(lambda found: self._private[found[0]], template)

    def _renamed(self, backend: Any) -> Any:
        """The tokenizer with its control tokens under private names, and without any other way to reach them."""
        from tokenizers import Tokenizer

        secret = secrets.token_hex(8)  # letters and digits alone: what normalisers leave as they are
        self._private = {name: f"q{secret}x{number}x" for number, name in enumerate(self.names)}
        spec = json.loads(backend.to_str())
        for token in spec["added_tokens"]:
            token["content"] = self._private.get(token["content"], token["content"])
            token["single_word"] = False
        spec |= {"truncation": None, "padding": None, "post_processor": None}
        _rename_pieces(spec["model"], self._private)
        twin = Tokenizer.from_str(json.dumps(spec))
        wanted = {token["content"]: token["id"] for token in spec["added_tokens"]}
        given = {name: twin.token_to_id(name) for name in wanted}
        self._ids = {i: wanted[name] for name, i in given.items() if i is not None and i != wanted[name]}
        return twin

    def _one_by_one(self, pieces: Pieces) -> list[int]:
        """For tokenizers that are written in Python, which know texts without control tokens themselves."""
        if not any(map(self.meets, pieces[1::2])):
            whole: list[int] = self._tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
            return whole
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            plain = {"split_special_tokens": bool(number % 2)}
            ids += self._tokenizer(piece, add_special_tokens=False, **plain)["input_ids"] if piece else []
        return ids


def broken_up(text: str, marks: re.Pattern[str]) -> str:
    """A text with a blank after the first character of each mark."""
    return marks.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _is_control(content: str, special: bool, template: str) -> bool:
    if not content.strip(_BLANK) or _BYTE.fullmatch(content):
        return False
    return special or not _MARKS.isdisjoint(content) or content in template


def _rename_pieces(model: dict[str, Any], names: dict[str, str]) -> None:
    """Give a model's vocabulary the new names, so that no text is spelled by the old ones."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
        kept = [pair for pair in pairs if not {pair[0], pair[1], pair[0] + pair[1]} & names.keys()]
        model["merges"] = kept
