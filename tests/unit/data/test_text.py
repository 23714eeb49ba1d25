"""Templates: variables are checked, empty values leave no traces, nothing is escaped."""

from __future__ import annotations

import pytest

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.data.text import Several, compile_template

ROW = {"title": "A & B", "brand": "", "year": "1995", "kinds": Several(["x", "y"]), "tags": Several()}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", "A & B, 1995, x, y"),
        ("{{title}} ({{year}})", "A & B (1995)"),
        ("{{{title}}} / {{& kinds }}", "A & B / x, y"),
        ("{{title}} ({{brand}})", "A & B"),
        ("{{title}}, {{brand}}, {{kinds}}", "A & B, x, y"),
        ("{{brand}}, {{title}}", "A & B"),
        ("{{title}} by {{brand}} from {{year}}", "A & B by from 1995"),
        ("{{title}}, {{brand}}, {{brand}}", "A & B"),
        ("{{title}}: {{brand}}.", "A & B."),
        ("{{title}}{{#brand}} by {{brand}}{{/brand}}{{^brand}} (no brand){{/brand}}", "A & B (no brand)"),
        ("{{brand}}", ""),
        ("{{title}}:{{#kinds}} <{{.}}>{{/kinds}}", "A & B: <x> <y>"),
        ("{{title}} [{{tags}}]{{^tags}}, untagged{{/tags}}", "A & B, untagged"),
        ("a {{brand}}-coloured one", "a -coloured one"),
        ('{{title}} "{{brand}}" [{{brand}}] {{year}}', "A & B 1995"),
    ],
)
def test_rendering(template, expected):
    assert compile_template(template, list(ROW), "dataset.text.item")(ROW) == expected


def test_values_are_kept_as_found():
    row = {"title": "a,, b  ( ) &amp; {{brand}} <b>", "brand": "x"}
    assert compile_template("{{title}}|{{brand}}", list(row), "")(row) == "a,, b  ( ) &amp; {{brand}} <b>|x"


@pytest.mark.parametrize("template", ["{{titel}}", "{{#titel}}x{{/titel}}", "{{^titel}}x{{/titel}}", "{{{titel}}}"])
def test_unknown_variable(template):
    with pytest.raises(RecipeError) as caught:
        compile_template(template, list(ROW), "dataset.text.item")
    (problem,) = caught.value.problems
    assert 'did you mean "title"' in problem.what
    assert (str(problem.where), problem.allowed) == ("dataset.text.item", tuple(ROW))


@pytest.mark.parametrize("template", ["{{> /etc/passwd}}", "{{=<% %>=}}<%titel%>", "{{#title}}open", "{{/title}}"])
def test_refused(template):
    with pytest.raises(RecipeError):
        compile_template(template, list(ROW), "dataset.text.item")
