from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.recipe.template import render_template, template_problems
from llmcf_cli.recipe.words import WORDS

GOOD = """\
name: mine
variables: [history, item]
messages:
  - role: system
    content: Explain.
  - role: user
    content: |
      Before: {{#history}}{{.}}, {{/history}}{{^history}}nothing{{/history}}
      Now: {{item}}
"""
VALUES = {"history": ["A & B", "C <d>"], "item": '"{{user}}"', "user": "me", "decision": "liked",
          "verb": "like", "verbs": "likes", "choices": "favourites"}  # fmt: skip


def _write(folder: Path, text: str) -> Path:
    file = folder / "prompt.yaml"
    file.write_text(text)
    return file


def test_renders_messages_without_escaping_or_reading_values_as_templates(tmp_path: Path) -> None:
    prompt = load_prompt(_write(tmp_path, GOOD))
    assert prompt.last.render(VALUES) == [
        {"role": "system", "content": "Explain."},
        {"role": "user", "content": 'Before: A & B, C <d>, \nNow: "{{user}}"'},
    ]
    assert prompt.last.render({**VALUES, "history": []})[1]["content"].startswith("Before: nothing")


@given(st.text(), st.lists(st.text(min_size=1)))
def test_values_come_through_untouched(item: str, history: list[str]) -> None:
    assert render_template("{{item}}|{{{item}}}|{{&item}}", {"item": item}) == "|".join([item] * 3)
    assert render_template("{{#h}}<{{.}}>{{/h}}", {"h": history}) == "".join(f"<{text}>" for text in history)
    assert render_template("{{h}}", {"h": history}) == "; ".join(history)


def test_missing_value_is_named(tmp_path: Path) -> None:
    with refused("prompt-variable-missing", LlmcfError):
        load_prompt(_write(tmp_path, GOOD)).last.render({"history": []})


def test_digest_follows_what_shapes_the_answer(tmp_path: Path) -> None:
    digest = load_prompt(_write(tmp_path, GOOD)).digest
    assert load_prompt(_write(tmp_path, "description: new\n" + GOOD.replace("mine", "yours"))).digest == digest
    assert load_prompt(_write(tmp_path, GOOD.replace("Now", "Then"))).digest != digest


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("{{item}}", "{{itme}} {{item}}"), 9, 'unknown variable "itme"; did you mean "item"'),
        (("{{item}}", "{{user}} {{item}}"), 9, "add user to `variables`"),
        (("{{item}}", "it"), 2, '"item" is declared but no message uses it'),
        (("item]", "item, titel]"), 2, 'unknown variable "titel"'),
        (("{{item}}", "{{>item}} {{item}}"), 9, "partials are not allowed"),
        (("{{item}}", "{{=<% %>=}} {{item}}"), 9, "changed delimiters are not allowed"),
        (("{{/history}}{{^", "{{^"), 8, "{{#history}} is never closed"),
        (("{{item}}", "{{item}} {{.}}"), 9, "outside any section"),
        (("role: system", "role: boss"), 4, 'cannot be "boss"\n  allowed: system, user, assistant'),
        (("role: user", "role: assistant"), 6, "the last message must have the role user"),
        (("variables:", "variabels:"), 2, "unknown key `variabels`; did you mean `variables`?"),
        (("    content: Explain.\n", ""), 4, "missing key `content`"),
    ],
)  # fmt: skip
def test_problems_have_their_line(tmp_path: Path, change: tuple[str, str], line: int, message: str) -> None:
    file = _write(tmp_path, GOOD.replace(*change))
    with pytest.raises(RecipeError) as error:
        load_prompt(file)
    found = next(p for p in error.value.problems if message in str(p))
    assert f"prompt.yaml:{line}:" in str(found.where)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        load_prompt(_write(tmp_path, GOOD.replace("{{item}}", "{{a}} {{b}} {{>c}}")))
    assert len(error.value.problems) == 4  # a, b, the partial, and item unused


def test_wrong_keys_and_wrong_templates_come_at_once_in_our_words(tmp_path: Path) -> None:
    text = GOOD.replace("name: mine", "name: Mine!").replace("role: user", "role: User")
    text = text.replace("content: Explain.", "contnt: Explain.").replace("{{/history}}{{^", "{{^") + "descripton: x\n"
    with pytest.raises(RecipeError) as error:
        load_prompt(_write(tmp_path, text))
    found = [(str(p.where).rsplit("prompt.yaml:")[-1], p.what, p.allowed or p.hint) for p in error.value.problems]
    assert found == [
        ("1: name", 'must match ^[a-z0-9][a-z0-9_-]*$, found "Mine!" (Short name)', ""),
        ("4: messages.0.content", "missing key `content`",
         "add `content:` (Mustache template of what is said)"),
        ("5: messages.0.contnt", "unknown key `contnt`; did you mean `content`?", ("role", "content")),
        ("6: messages.1.role", 'cannot be "User"; did you mean `user`?', ("system", "user", "assistant")),
        ("8: messages.1.content", "{{#history}} is never closed", ""),
        ("10: descripton", "unknown key `descripton`; did you mean `description`?",
         ("name", "description", "label", "block", "sections", "variables", "messages")),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "[1]", "name: [", "just text"])
def test_files_that_are_no_prompts_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_prompt(_write(tmp_path, text))
    with pytest.raises(RecipeError):
        load_prompt(tmp_path / "absent.yaml")


def test_template_problems_know_lines() -> None:
    found = template_problems("{{history}}\n{{! a note }}{{#item}}\n{{/history}}", ("history", "item"))
    assert [(p.line, p.what) for p in found] == [
        (2, "{{#item}} is never closed"), (3, "{{/history}} closes no open section"),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "told"), [("single", True), ("no_label", False)])
def test_shipped_prompts_say_what_they_know(name: str, told: bool) -> None:
    prompt = load_prompt(library_dir() / "prompts" / f"{name}.yaml")
    text = "\n".join(message["content"] for message in prompt.last.render(VALUES))
    assert ("liked the new item" in text) is told
    assert "A & B" in text
    assert [section.name for section in prompt.sections] == ["profile", "item", "match", "diversity"]
    silent = prompt.last.render({**VALUES, "user": "", "history": []})[-1]["content"]
    assert "nothing yet" in silent
    assert "User: " not in silent


STEPS = """\
name: parts
steps:
  - name: profile
    per: user_block
    share: 0.5
    variables: [history]
    messages:
      - {role: user, content: "{{history}}?"}
  - name: description
    per: item
    variables: [item]
    messages:
      - {role: user, content: "{{item}}?"}
  - name: match
    variables: [profile, recent, description, decision]
    messages:
      - {role: user, content: "{{profile}} {{recent}} {{description}} {{decision}}?"}
"""


def test_steps_read_what_earlier_ones_wrote(tmp_path: Path) -> None:
    prompt = load_prompt(_write(tmp_path, STEPS))
    profile, description, match = prompt.steps
    assert (profile.per, description.per, match.per) == ("user_block", "item", "interaction")
    assert prompt.variables == ("history", "recent", "item", "decision")
    assert prompt.readable(match) == ("history", "recent", "item", "user", "decision", *WORDS, "profile", "description")
    assert (profile.limit(72), match.limit(72), profile.limit(1)) == (36, 72, 1)
    values = {"profile": "P {{item}}", "recent": ["a"], "description": "D", "decision": "liked"}
    assert match.render(values) == [{"role": "user", "content": "P {{item}} a D liked?"}]


def test_a_file_of_messages_is_one_step(tmp_path: Path) -> None:
    prompt = load_prompt(_write(tmp_path, GOOD))
    assert [step.name for step in prompt.steps] == ["answer"]
    assert prompt.last.per == "interaction"
    assert prompt.shared == ()


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("[profile, recent", "[profle, recent"), 15, 'unknown variable "profle"; did you mean "profile"'),
        (("[item]", "[item, decision]"), 11, 'a step per item must not know "decision"'),
        (("[history]", "[history, decision]"), 6, 'a step per user_block must not know "decision"'),
        (("[item]", "[item, history]"), 11, 'a step per item must not know "history"'),
        (("[item]", "[item, profile]"), 11, 'a step per item cannot read "profile", which is written per user_block'),
        (("[history]", "[history, match]"), 6, "steps depend on each other in a circle: profile ← match ← profile"),
        (("decision]", "decision, match]"), 15, "steps depend on each other in a circle: match ← match"),
        (("per: user_block", "per: item"), 6, 'a step per item must not know "history"'),
        (("per: user_block", "per: interaction"), 15, "no step is per user_block"),
        (("name: parts\n", "name: parts\nlabel: forbidden\n"), 16, 'no step may know "decision"'),
        (("name: description", "name: profile"), 9, 'two steps are named "profile"'),
        (("name: description", "name: item"), 9, "names a variable"),
        (("share: 0.5", "shares: 0.5"), 5, "unknown key `shares`; did you mean `share`?"),
        (("name: match\n", "name: match\n    per: item\n"), 15, "the last step must be per interaction"),
        (("steps:", "messages: []\nsteps:"), 2, "unknown key `messages`"),
    ],
)  # fmt: skip
def test_problems_of_steps_have_their_line(tmp_path: Path, change: tuple[str, str], line: int, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_prompt(_write(tmp_path, STEPS.replace(*change)))
    found = next(p for p in error.value.problems if message in str(p))
    assert f"prompt.yaml:{line}:" in str(found.where)
    assert found.allowed or "named" in message or "names" in message


def test_later_steps_are_told_from_circles(tmp_path: Path) -> None:
    swapped = STEPS.replace("variables: [item]", "variables: [item, facts]").replace(
        "  - name: match",
        "  - name: facts\n    per: item\n    variables: [item]\n    messages:\n"
        '      - {role: user, content: "{{item}}"}\n  - name: match',
    )
    with refused("prompt-variable-unknown", RecipeError, names='"facts"'):
        load_prompt(_write(tmp_path, swapped))


def test_the_shipped_steps_share_what_does_not_know_the_decision() -> None:
    prompt = load_prompt(library_dir() / "prompts" / "decomposed.yaml")
    assert [(s.name, s.per) for s in prompt.steps] == [
        ("profile", "user_block"), ("description", "item"), ("match", "interaction"),
    ]  # fmt: skip
    assert sum(step.share for step in prompt.steps) == pytest.approx(1)
    for step in prompt.shared:
        assert "decision" not in prompt.readable(step)
    silent = prompt.last.render({**VALUES, "profile": "", "recent": [], "description": "D"})[0]["content"]
    assert "About the user" not in silent
    assert "nothing new" in silent
