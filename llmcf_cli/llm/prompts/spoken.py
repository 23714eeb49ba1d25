"""What a model said, without what it thought: think blocks, and characters that no text can hold."""

from __future__ import annotations

import re

_NAMES = "think|thinking|thought|thoughts|seed:think"
_MARK = re.compile(
    rf"(?P<open><\s*(?:{_NAMES})\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>)"
    rf"|(?P<close><\s*/\s*(?:{_NAMES})\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>)",
    re.IGNORECASE,
)
_CLOSING = (("<|begin_of_thought|>", "<|end_of_thought|>"), ("◁", "◁/"), ("[", "[/"), ("<", "</"))

CUT_OFF = "the answer ends within its think block"
ONLY_THOUGHT = "the answer is a think block and nothing else"


def spoken(text: str) -> tuple[str, str]:
    """A model's answer without its think blocks.

    A block that ends and never began was begun by the prompt: all before its end is thought.

    Args:
        text: What it wrote.

    Returns:
        What it says, with white space around it removed, and "". Or "", and why there is nothing: a think block was cut
        off, or stands alone. A text that is empty to begin with stays so.
    """
    said: list[str] = []
    place, within = 0, False
    for mark in _MARK.finditer(text):
        if mark["open"] and not within:
            said.append(text[place : mark.start()])
            within = True
        elif mark["close"]:
            if not within:
                said.clear()
            place, within = mark.end(), False
    if within:
        return "", CUT_OFF
    answer = "".join([*said, text[place:]]).strip()
    return answer, ONLY_THOUGHT if place and not answer else ""


def closing_of(prefix: str) -> str:
    """What closes the think block that a text leaves open, without having thought; "" where it leaves none open."""
    last = None
    for mark in _MARK.finditer(prefix):
        last = mark
    if last is None or last["close"]:
        return ""
    begin, end = next(pair for pair in _CLOSING if last[0].startswith(pair[0]))
    return ("\n" if prefix.endswith("\n") else "\n\n") + last[0].replace(begin, end, 1) + "\n\n"


def is_think_mark(token: str) -> bool:
    """Whether a token is a mark of think blocks and nothing else."""
    return _MARK.fullmatch(token) is not None


def storable(text: str) -> str:
    """A text as UTF-8 can hold it: halves of a surrogate pair become U+FFFD, NUL goes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
