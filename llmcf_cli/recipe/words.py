"""What people do with items, in words: prompts, questions and judges take them from the label."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field

from llmcf_cli.core.types import Broken, ComponentConfig, Config, rule

_NEGATED = re.compile(r"did(?: not|n't|n’t) (.+)")
_WORD = re.compile(r"[a-z']+")


class LabelWords(Config):
    """Words for what users did with items, in any language. Prompts use them."""

    positive: str = Field(min_length=1)
    """For a positive sample, as in "the user liked the new item"."""
    negative: str = Field(min_length=1)
    """For a negative sample, as in "the user did not like the new item"."""
    verb: str = ""
    """As in "will the user like it?". Empty: the words after "did not" in `negative`."""
    verbs: str = ""
    """As in "who usually likes it". Empty: the third person of `verb`."""
    choices: str = ""
    """Name for items of the past, as in "earlier favourites". Empty: `favourites` for "like", otherwise `choices`; but
    `items` if histories hold every event (`dataset.history.events: all`)."""

    @rule("negative", "verb")
    def _verb_is_known(self) -> Iterator[Broken]:
        if not self.verb and not _NEGATED.fullmatch(self.negative):
            yield Broken(
                'does not start with "did not", so set `verb`, too, as in "will the user … it?"', ("negative",)
            )


LIKED = LabelWords(positive="liked", negative="did not like")
CHOSE = LabelWords(positive="chose", negative="did not choose")

WORDS: dict[str, str] = {
    "verb": "what a user may do with an item: `like`, as in “will the user like it?”",
    "verbs": "the same as said of somebody: `likes`",
    "choices": "what items of the past are called: `favourites`",
}
"""Variables of prompts and questions that are the label's words, the same for every sample."""


@dataclass(frozen=True)
class Words:
    """The words of a label, none left open.

    Attributes:
        positive: What was done with the item of a positive sample.
        negative: Of a negative one.
        verb: The infinitive.
        verbs: Its third person.
        choices: What items of the past are called.
    """

    positive: str = "liked"
    negative: str = "did not like"
    verb: str = "like"
    verbs: str = "likes"
    choices: str = "favourites"

    def decision(self, label: int) -> str:
        """What a user did with the item of a sample, by its label."""
        return self.positive if label else self.negative

    @property
    def variables(self) -> dict[str, str]:
        """Name → value of `WORDS`."""
        return {"verb": self.verb, "verbs": self.verbs, "choices": self.choices}

    @cached_property
    def approving(self) -> frozenset[str]:
        """Words that say that an item was taken, lower case: those of `positive`, `verb` and `verbs`, first ones
        only."""
        return frozenset(found[0] for text in (self.positive, self.verb, self.verbs)
                         if (found := _WORD.match(text.lower())))  # fmt: skip


def words_of(label: ComponentConfig, events: Literal["positive", "all"] = "positive") -> Words:
    """The words of a recipe's label.

    Args:
        label: `dataset.label`; a label type without `words` reads "chose" and "did not choose".
        events: What the histories in question hold.
    """
    said = getattr(label, "words", CHOSE)
    negated = _NEGATED.fullmatch(said.negative)
    verb = said.verb or (negated[1] if negated else said.positive)
    usual = "items" if events == "all" else "favourites" if verb == "like" else "choices"
    return Words(said.positive, said.negative, verb, said.verbs or _third_person(verb), said.choices or usual)


def _third_person(verb: str) -> str:
    """English: buys, watches, tries, clicks on."""
    first, *rest = verb.split(" ")
    if first.endswith(("s", "x", "z", "ch", "sh", "o")):
        first += "es"
    elif first.endswith("y") and first[-2:-1] not in "aeiou":
        first = f"{first[:-1]}ies"
    else:
        first += "s"
    return " ".join([first, *rest])
