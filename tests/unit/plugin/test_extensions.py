"""Stages and commands of plugins: one file is enough, and what cannot work is refused with a reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import commands
import pytest

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import EXTENSIONS, builtin_registry

PLUGIN = '''\
"""A stage with a command, and a command, in one file."""

from dataclasses import dataclass

import typer

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.engine.base import Stage
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import connect_read


class UsersOutput(Output):
    """The users."""

    names = File("users.txt", "an id per line")


@dataclass(frozen=True)
class UsersReport:
    """The users.

    Attributes:
        users: How many.
    """

    users: int


class Users(Stage):
    """Writes the ids of all users."""

    name = "list-users"
    version = 1
    report = UsersReport
    output = UsersOutput

    def sections(self, recipe):
        return {}

    def needs(self, recipe):
        return (Ingest(),)

    def run(self, job):
        with connect_read(IngestOutput(job.inputs["ingest"]).database) as connection:
            ids = [name for (name,) in connection.sql('SELECT user_id FROM "user" ORDER BY 1').fetchall()]
        UsersOutput(job.out).names.write_text("\\n".join(ids))
        return UsersReport(len(ids))


def greet(name: str, fail: bool = False):
    if fail:
        raise DataError("no greeting", where=name, hint="llmcf greet SOMEBODY")
    typer.echo(f"hello {name}")


def register(registry):
    registry.add("stage", "list-users", target=":Users", summary="Write the ids of all users.")
    registry.add("command", "greet", target=":greet", summary="Say hello.")
'''


def llmcf(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return commands.llmcf(*words, cwd=folder, LLMCF_PLUGINS=str(folder / "plugins"), COLUMNS="160")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A recipe, data, and the plugin as a file."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "users.py").write_text(PLUGIN)
    rows = [f"u{u},i{i},{1 + (u * i) % 5},{100 * u + i}" for u in range(12) for i in range(10)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,rating,time", *rows]))
    (tmp_path / "recipe.yaml").write_text(
        "extends: quickstart\nname: own\n"
        "dataset:\n  source: {type: csv, interactions: events.csv, "
        "columns: {user: user, item: item, rating: rating, time: time}}\n"
        '  text: {item: "", user: ""}\n  features: {}\n  k_core: {user: 1, item: 1}\n'
    )
    return tmp_path


def test_a_file_adds_a_stage_with_its_command_and_a_command(folder):
    shown = llmcf(folder, "--help").stdout
    assert "Write the ids of all users." in shown
    assert "Say hello." in shown
    done = llmcf(folder, "list-users", "recipe.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "users" in done.stdout  # its report, as no function is named that shows it
    assert "12" in done.stdout
    (names,) = (folder / "artifacts" / "list-users").glob("[!.]*/users.txt")
    assert len(names.read_text().split()) == 12
    assert "cached" in llmcf(folder, "list-users", "recipe.yaml").stdout
    assert llmcf(folder, "list-users", "recipe.yaml", "--force", "list-users", "--dry-run").returncode == 0
    assert "list-users" in llmcf(folder, "status").stdout

    plugin = folder / "plugins" / "users.py"
    plugin.write_text(PLUGIN + "\n# edited\n")
    planned = llmcf(folder, "list-users", "recipe.yaml", "--dry-run").stdout
    (line,) = [line for line in planned.splitlines() if line.startswith("list-users")]
    assert "to run" in line
    assert "plugins" in line

    assert llmcf(folder, "greet", "you").stdout == "hello you\n"
    refused = llmcf(folder, "greet", "you", "--fail")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (3, "error: you: no greeting")


def test_help_and_doctor_answer_beside_a_plugin_that_fails(folder):
    (folder / "plugins" / "users.py").write_text(PLUGIN + "\nraise RuntimeError('broken')\n")
    done = llmcf(folder, "--help")
    assert done.returncode == 0
    assert "evaluate" in done.stdout
    assert "broken" in done.stderr
    assert "broken" in llmcf(folder, "doctor").stdout
    unknown = llmcf(folder, "greet", "you")  # the reason why there is no such command
    assert unknown.returncode == 1
    assert "broken" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_a_mistyped_command_is_answered_with_the_nearest(folder):
    done = llmcf(folder, "list-user")
    assert done.returncode == 2
    assert "list-users" in done.stderr


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [("version = 1", "", "has no `version`"), ("report = UsersReport", "", "has no `report`"),
     ("output = UsersOutput", "", "has no `output`"), ('name = "list-users"', 'name = "users"', "registered as"),
     ("class Users(Stage)", "class Users", "is not a subclass of Stage"), ("def needs", "def wants", "define needs"),
     ("target=\":greet\"", "target=\":PLUGINS\"", "does not exist")],
)  # fmt: skip
def test_an_incomplete_declaration_is_told(folder, written, instead, said):
    plugin = folder / "plugins" / "users.py"
    plugin.write_text(PLUGIN.replace(written, instead))
    command = ["greet", "you"] if "greet" in written else ["list-users", "recipe.yaml", "--dry-run"]
    done = llmcf(folder, *command)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# ---- the registry


def plugin_of(**arguments: str):
    def register(registry):
        registry.add(**{"target": ":X", "summary": "Does it.", **arguments})

    return register


@pytest.mark.parametrize("component", builtin_registry().extensions(), ids=lambda c: c.name)
@pytest.mark.parametrize("kind", EXTENSIONS)
def test_no_plugin_replaces_a_stage_or_command(kind, component):
    with pytest.raises(LlmcfError, match=component.name) as caught:
        builtin_registry().register_from("other 1.0", plugin_of(kind=kind, name=component.name))
    assert str(caught.value.where) == "built-in and other 1.0"


@pytest.mark.parametrize("name", ["", "Mine", "a b", "../up", "a_b", "-a", "a-", "cache", ".hidden", "é"])
@pytest.mark.parametrize("kind", EXTENSIONS)
def test_names_are_words_that_can_be_folders(kind, name):
    with pytest.raises(LlmcfError, match="cannot be the name"):
        builtin_registry().register_from("other 1.0", plugin_of(kind=kind, name=name))


@pytest.mark.parametrize(
    "arguments",
    [{"kind": "command", "name": "x", "config": ":C"}, {"kind": "judge", "name": "x"},
     {"kind": "command", "name": "x", "findings": ":f"},
     {"kind": "judge", "name": "x", "config": ":C", "ending": ":f"}],
)  # fmt: skip
def test_each_kind_takes_its_own_targets(arguments):
    with pytest.raises(LlmcfError, match=r"takes no|needs a `config`"):
        builtin_registry().register_from("other 1.0", plugin_of(**arguments))


def test_recipes_cannot_name_a_stage_or_command_but_may_set_what_a_stage_takes():
    registry = builtin_registry()
    assert not {component.kind for component in registry.all()} & set(EXTENSIONS)
    assert registry.configured() == registry.all(), "built-in stages have sections"
    registry.register_from("other 1.0", plugin_of(kind="stage", name="x", config=":C"))
    assert {(one.kind, one.name) for one in [*registry.configured()]} == {
        *((one.kind, one.name) for one in registry.all()), ("stage", "x"),
    }  # fmt: skip
    assert all(issubclass(component.config(), ComponentConfig) for component in registry.all()[:3])


def test_every_built_in_command_can_be_built():
    from llmcf_cli.cli.commands import command_of

    for component in builtin_registry().extensions():
        command = command_of(component)
        assert (command.name, command.help) == (component.name, component.summary)
