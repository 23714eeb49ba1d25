"""Tags of templates: what a plain pattern finds, in one pass."""

from __future__ import annotations

import re
import time

import pystache
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.recipe.template import MAX_BLANKS, MAX_LENGTH, tags, template_problems

PLAIN = re.compile(r"\{\{\s*([#^/&>!={]?)\s*(.*?)\s*[=}]?\}\}", re.DOTALL)
"""The meaning of a tag. On `{{` and many blanks it goes back and forth, so it is no way to look for them."""
PIECES = st.sampled_from(["{{", "}}", "{", "}", "a", "#", "=", "/", " ", "\n", "{{a}}", "{{{b}}}", "{{#c}}", "{{/c}}"])


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=9).map("".join))
def test_tags_are_those_of_the_pattern(template):
    plain = [(m.group(1), m.group(2), template.count("\n", 0, m.start()) + 1) for m in PLAIN.finditer(template)]
    assert list(tags(template)) == plain
    unclosed = any("begins with {{" in problem.what for problem in template_problems(template, None))
    assert unclosed == ("{{" in PLAIN.sub("\0", template))


@pytest.mark.parametrize(
    "template",
    ["{{" + " " * 400, "{{" + " " * (MAX_LENGTH - 9), "{{" * 4_900, "{{a}}" * 1_900, "{{#" * 3_000 + "}}", " " * 9_990,
     (" " * (MAX_BLANKS - 1) + "a") * 24, "\t " * 4_900 + "{{a}}", "{{a" + "}" * 9_000, "x" * 10_000_000],
)  # fmt: skip
def test_checking_and_parsing_take_no_time(template):
    start = time.process_time()
    if not template_problems(template, ("a",)):
        pystache.parse(template)
    assert time.process_time() - start < 1


def test_a_template_past_a_limit_is_refused():
    assert not template_problems("{{x}}" + " " * (MAX_BLANKS - 1) + "{{x}}", ["x"])
    assert not template_problems("a" * MAX_LENGTH, ["x"])
    for past in ("{{" + " " * MAX_BLANKS + "x}}", "{{" + "\t" * MAX_BLANKS + "x}}", "a" * (MAX_LENGTH + 1)):
        assert template_problems(past, ["x"])
