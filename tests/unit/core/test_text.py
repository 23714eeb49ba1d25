"""Text of others on the terminal and in Markdown."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.padding import Padding
from rich.text import Text

from llmcf_cli.cli.console import _console
from llmcf_cli.cli.tables import escaped, plain_table
from llmcf_cli.core.text import markdown, visible

ATTACKS = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "a\rb",
    "\x9b2J",
    "\u202egnp.exe",
    "\x00",
    "\x7f",
    "x\u2028y",
    "\ud800",
]


@given(st.text(st.characters()))
def test_visible_leaves_no_control_character_but_tab_and_line_feed(text):
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n"]
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("attack", ATTACKS)
def test_neither_prints_nor_cells_carry_them(attack, capsys):
    console = _console(stderr=False, soft_wrap=True)
    table = plain_table("title", escaped(attack))
    table.add_row("cell", escaped(attack))
    console.print(table)
    console.print(attack, markup=False)
    console.print(f"[bold]{escaped(attack)}[/]", markup=True)
    console.print(Padding(Text(attack), 1), Text(attack))
    printed = capsys.readouterr().out
    assert not [c for c in printed if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert "\u202e" not in printed


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", "[/b]", "pip install 'llmcf[llm]'", "a\\[b]", ":smile:"])
def test_what_looks_like_markup_is_shown_as_it_is(text, capsys):
    console = _console(stderr=False, soft_wrap=True)
    console.print(text)
    table = plain_table(text)
    table.add_row(text)
    console.print(table)
    table = plain_table(escaped(text))
    table.add_row(f"[green]{escaped(text)}[/]")
    console.print(table, markup=True)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [text] * 5


@pytest.mark.parametrize(
    "attack",
    [
        "*bold*",
        "~~gone~~",
        "$\\frac{1}{2}$",
        "<script>alert(1)</script>",
        "a | b",
        "[x](javascript:1)",
        "`code`",
        "two\nlines",
        "&lt;",
    ],
)
def test_markdown_is_one_cell_without_html_or_links(attack):
    shown = markdown(attack)
    assert "<" not in shown
    assert "\n" not in shown
    bare = shown.replace("\\|", "").replace("\\[", "").replace("\\]", "").replace("\\`", "")
    assert not set(bare.replace(r"\*", "").replace(r"\~", "").replace(r"\$", "")) & set("|[]`*~$")
