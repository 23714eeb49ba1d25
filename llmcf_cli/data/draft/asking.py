"""What a draft decides: by the data where they decide it, else by an answer; never by a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llmcf_cli.core.errors import LlmcfError, RecipeError


@dataclass(frozen=True)
class Question:
    """What the data do not decide.

    Attributes:
        option: The option of `llmcf init` that answers it, e.g. `--time-format`.
        what: What is unclear, in one sentence.
        answers: What may be answered → what that means.
        where: File that it is about.
    """

    option: str
    what: str
    answers: Mapping[str, str]
    where: str


@dataclass(frozen=True)
class Decision:
    """Something that the recipe says.

    Attributes:
        what: What was decided, e.g. `time`.
        chosen: How.
        why: The evidence.
        path: Key path of the recipe that says it; empty: none does.
    """

    what: str
    chosen: str
    why: str
    path: str = ""


class UnclearError(RecipeError):
    """The tables can be read in several ways; `problems` has each, with the options that decide it."""

    code = "tables-unclear"

    def __init__(self, problems: Sequence[LlmcfError]) -> None:
        super().__init__(problems)
        count = len(self.problems)
        self.what = f"the tables leave {count} question{'s' if count > 1 else ''} open"


@dataclass
class Decisions:
    """Answers that were given, and what has been decided so far.

    Attributes:
        given: Option → the user's answer.
        ask: Asks the user, and returns one of the answers; None: nobody is there.
        made: What was decided.
        unclear: What was not.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    ask: Callable[[Question], str] | None = None
    made: list[Decision] = field(default_factory=list)
    unclear: list[LlmcfError] = field(default_factory=list)

    def note(self, what: str, chosen: str, why: str, path: str = "") -> None:
        """Keep a decision."""
        self.made.append(Decision(what, chosen, why, path))

    def told(self, option: str, answers: Sequence[str] = (), where: str = "") -> str | None:
        """What the user gave for an option; None: nothing.

        Raises:
            UnclearError: It is none of the answers that there are.
        """
        answer = self.given.get(option)
        if answer is not None and answers and answer not in answers:
            problem = LlmcfError(
                f"{option} {answer!r} is not a valid answer",
                code="answer-unknown", where=where, allowed=tuple(answers), hint=f"give {option} one of these",
            )  # fmt: skip
            raise UnclearError([problem])
        return answer

    def settle(self, question: Question) -> str | None:
        """The user's answer; None where there is neither an answer nor anybody to ask, which `require` tells."""
        answer = self.told(question.option, tuple(question.answers), question.where)
        if answer is not None:
            return answer
        if self.ask is not None:
            return self.ask(question)
        meanings = "".join(f"\n  {question.option} {answer}: {why}" for answer, why in question.answers.items())
        self.unclear.append(LlmcfError(
            question.what + meanings, code="tables-unclear", where=question.where, allowed=tuple(question.answers),
            hint=f"add {question.option} with one of the allowed answers",
        ))  # fmt: skip
        return None

    def require(self) -> None:
        """Go on only if everything is clear.

        Raises:
            UnclearError: Something is not; names all of it.
        """
        if self.unclear:
            raise UnclearError(self.unclear)
