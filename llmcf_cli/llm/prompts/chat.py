"""From chat messages to tokens, and fitting them into a length by leaving out the oldest history.

A template is rendered once for each order of roles, with placeholders where the messages stand. So what it makes of a
chat does not depend on what the messages say, and nothing that they say can become a control token (`llm.control`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmcf_cli.core.confined import confined
from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.prompts.control import ControlTokens
from llmcf_cli.llm.prompts.spoken import closing_of

Messages = Sequence[Mapping[str, str]]
"""A chat: `{"role": ..., "content": ...}` in order, the last one the user's."""

SYSTEM_JOINED = "system turn joined to the user's"
"""What is done to a chat for a template without system turns."""

_PLAIN_ANSWERS = {"enable_thinking": False, "thinking": False}  # Qwen3, GLM, SmolLM3; Granite, DeepSeek
_SECONDS, _BYTES = 5.0, 1 << 28  # CPU time and memory of a rendering; usual ones take milliseconds on a quiet machine
_PLACE = re.compile(r"llmcfturn(\d+)here")


class TemplateRefusal(ModelError):
    """A model's chat template does not take a chat: turns in an order that it forbids, or a role that it does not
    know."""

    code = "model-chat-refused"


@dataclass(frozen=True)
class _Form:
    """A template for one order of roles. Parts are template text at even places, numbers of messages at odd ones.

    Attributes:
        prompt: Up to where an answer begins.
        answer: From there on; the last number is the answer's own.
        joined: Whether the first message, the system's, joins the second.
    """

    prompt: list[str | int]
    answer: list[str | int]
    joined: bool


class Chats:
    """Chats as a model reads them, by its tokenizer and chat template.

    Where an answer begins is the same for training, asking and generating: after all that the template writes before
    an answer. That is what it ends a prompt with, an empty think block where it puts one before a plain answer, and the
    end of a think block that it would leave open.

    Args:
        tokenizer: With a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self.control = ControlTokens(tokenizer, template if isinstance(template, str) else str(template))
        self._forms: dict[tuple[tuple[str, bool], ...], _Form | TemplateRefusal] = {}

    def prompts(self, chats: Sequence[Messages]) -> list[list[int]]:
        """Tokens of chats up to where their answer begins.

        Raises:
            TemplateRefusal: The template does not take such a chat.
        """
        return self.control.encode([self._filled(self._form(chat).prompt, chat) for chat in chats])

    def pairs(self, pairs: Sequence[tuple[Messages, str]]) -> list[tuple[list[int], int]]:
        """Of each chat and its answer all tokens, and how many of them stand before the answer.

        Raises:
            TemplateRefusal: The template does not take such a chat.
        """
        before, answers, whole = [], [], []
        for chat, answer in pairs:
            form, messages = self._form(chat), [*chat, {"role": "assistant", "content": answer}]
            before.append(self._filled(form.prompt, chat))
            answers.append(self._filled(form.answer, messages))
            whole.append([*before[-1][:-1], before[-1][-1] + answers[-1][0], *answers[-1][1:]])
        prompt_ids, whole_ids = self.control.encode(before), self.control.encode(whole)
        apart = [n for n, (p, w) in enumerate(zip(prompt_ids, whole_ids, strict=True)) if w[: len(p)] != p]
        # Where a token straddles the border, the answer is tokenised by itself: generation starts after the prompt's.
        for n, ids in zip(apart, self.control.encode([answers[n] for n in apart]), strict=True):
            whole_ids[n] = [*prompt_ids[n], *ids]
        return [(ids, len(prompt)) for ids, prompt in zip(whole_ids, prompt_ids, strict=True)]

    def as_read(self, chat: Messages) -> list[dict[str, str]]:
        """The chat with its turns as the template gets them.

        Raises:
            TemplateRefusal: The template does not take such a chat.
        """
        messages = [dict(message) for message in chat]
        return _joined(messages) if self._form(chat).joined else messages

    def _form(self, chat: Messages) -> _Form:
        turns = tuple((message["role"], bool(message["content"])) for message in chat)
        if turns not in self._forms:
            try:
                self._forms[turns] = self._learned(turns)
            except TemplateRefusal as error:
                self._forms[turns] = error
        found = self._forms[turns]
        if isinstance(found, TemplateRefusal):
            raise TemplateRefusal(found.what, where=found.where, hint=found.hint)
        return found

    def _learned(self, turns: Sequence[tuple[str, bool]]) -> _Form:
        messages = [
            {"role": role, "content": f"llmcfturn{number}here" if said else ""}
            for number, (role, said) in enumerate(turns)
        ]
        try:
            return self._rendered(messages, joined=False)
        except TemplateRefusal as error:
            if len(messages) > 1 and [m["role"] for m in messages[:2]] == ["system", "user"]:
                try:
                    return self._rendered(_joined(messages), joined=True)
                except TemplateRefusal:
                    pass
            said = ", ".join(role for role, _ in turns)
            raise TemplateRefusal(
                f"the model's chat template refuses the turns {said}: {error.what}",
                where=str(self._tokenizer.name_or_path),
                hint="alternate user and assistant, starting with the user, or use another model",
            ) from error

    def _rendered(self, messages: list[dict[str, str]], joined: bool) -> _Form:
        answered = [*messages, {"role": "assistant", "content": f"llmcfturn{len(messages) + joined}here"}]
        asked = self._apply(messages, add_generation_prompt=True)
        told = self._apply(answered, add_generation_prompt=False)
        written, place, rest = told.rpartition(answered[-1]["content"])
        for number in [n for m in messages for n in _PLACE.findall(m["content"])]:
            if f"llmcfturn{number}here" not in asked:
                raise TemplateRefusal(f"it leaves out what turn {int(number) + 1} says")
        if not place:
            raise TemplateRefusal("it leaves out the assistant's answer")
        before = written if written.startswith(asked) else asked
        # A blank before an answer is the answer's: tokens of words hold it.
        blank = before[len(before.rstrip(" ")) :] if before != asked else ""
        before = before[: len(before) - len(blank)]
        before += closing_of(_PLACE.split(before)[-1])
        return _Form(_parts(before), _parts(blank + place + rest.rstrip("\n")), joined)

    def _apply(self, messages: list[dict[str, str]], **how: bool) -> str:
        import jinja2  # noqa: F401 - here, where no import is under way in another thread

        def render() -> str:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **_PLAIN_ANSWERS, **how)
            return text

        try:  # templates are programs: they loop, and build texts of any length
            return confined(render, seconds=_SECONDS, most=_BYTES)
        except Exception as error:  # templates raise what they like, and the library whatever its renderer raises
            raise TemplateRefusal(" ".join(str(error).split()) or type(error).__name__) from error

    @staticmethod
    def _filled(parts: Sequence[str | int], messages: Messages) -> list[str]:
        return [part if isinstance(part, str) else messages[part]["content"] for part in parts]


@lru_cache(maxsize=4)
def chats_of(tokenizer: Any) -> Chats:
    """The chats of a tokenizer; the same ones each time, as they remember the template's forms."""
    return Chats(tokenizer)


def encode_pair(tokenizer: Any, prompt: Messages, completion: Messages) -> tuple[list[int], int]:
    """Tokens of a question with its answer, as the model meets them when it generates.

    Args:
        tokenizer: With a chat template.
        prompt: The chat up to the answer.
        completion: The answer, one message.

    Returns:
        All tokens, and how many of them belong to the prompt with all that the template writes before an answer.

    Raises:
        TemplateRefusal: The template does not take such a chat.
    """
    return chats_of(tokenizer).pairs([(prompt, completion[0]["content"])])[0]


def _joined(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The system's turn at the beginning of the user's."""
    system, user, *rest = messages
    said = "\n\n".join(filter(None, (system["content"], user["content"])))
    return [{"role": "user", "content": said}, *rest]


def _parts(rendered: str) -> list[str | int]:
    return [int(part) if number % 2 else part for number, part in enumerate(_PLACE.split(rendered))]


def fit_histories(
    histories: Sequence[Sequence[str]],
    longest: int,
    measure: Callable[[list[int], list[list[str]]], list[int]],
) -> tuple[list[list[str]], list[int]]:
    """Leave out the oldest texts of each history until its prompt fits.

    Halves the search each round, and measures all histories that are still open in one call.

    Args:
        histories: Texts of each prompt, oldest first.
        longest: Most tokens of a prompt.
        measure: (indices, their shortened histories) → tokens of each prompt, growing with the history.

    Returns:
        The histories that fit, and the tokens of each prompt. A prompt too long even without any history keeps none
        and shows its tokens, more than `longest`.
    """
    kept = [list(history) for history in histories]
    tokens = measure(list(range(len(kept))), kept) if kept else []
    low = [0] * len(kept)  # this many newest texts are known to fit, or nothing does
    high = [len(history) if count > longest else -1 for history, count in zip(histories, tokens, strict=True)]
    while open_ones := [i for i in range(len(kept)) if high[i] > low[i]]:
        tries = [_newest(histories[i], (low[i] + high[i]) // 2) for i in open_ones]
        for i, history, count in zip(open_ones, tries, measure(open_ones, tries), strict=True):
            if count <= longest:
                low[i], kept[i], tokens[i] = len(history) + 1, history, count
            else:
                high[i] = len(history)
                if not history:
                    kept[i], tokens[i] = history, count
    return kept, tokens


def _newest(history: Sequence[str], count: int) -> list[str]:
    return list(history[len(history) - count :])
