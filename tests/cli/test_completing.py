"""What the shell offers, as bash asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcf_cli.recipe.library import library_dir, recipe_files

LIBRARY = set(recipe_files(library_dir()))


def offered(line: str, cwd: Path) -> list[str]:
    words = line.split(" ")
    asked = {"_LLMCF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['llmcf']; from llmcf_cli.cli.app import app; app(prog_name='llmcf')"
    environment = {**os.environ, **asked}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment,
                          check=False)  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nname: mine\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.yml").write_text("extends: [\n")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize("command", ["run", "gen-cot", "status", "report", "recipe validate", "recipe new x --from"])
def test_recipes(folder, command):
    found = offered(f"llmcf {command} m", folder)
    assert found[:2] == ["mine.yaml", "models/"]
    assert set(found[2:]) == {name for name in LIBRARY if name.startswith("m")}


@pytest.mark.parametrize(("begun", "expected"), [
    ("rec.fit.ep", {"rec.fit.epochs="}), ("matc", {"match."}), ("llm.mix.0.sh", {"llm.mix.0.share="}),
    ("match.k=", set()), ("no.such.", set()),
])  # fmt: skip
def test_settings(folder, begun, expected):
    assert set(offered(f"llmcf run mine.yaml --set {begun}", folder)) == expected


def test_a_broken_recipe_offers_what_any_recipe_has(folder):
    assert offered("llmcf run models/", folder)[0] == "models/other.yml"
    assert offered("llmcf run models/other.yml --set rec.fit.ep", folder) == ["rec.fit.epochs="]


def test_stages(folder):
    assert offered("llmcf run mine.yaml --force train", folder) == ["train-llm", "train-rec"]
