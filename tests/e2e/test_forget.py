"""`llmcf forget`: after it and a new run, no file of the artifact folder holds the user; a kill costs nothing."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import lancedb
import pyarrow.parquet as pq
import pytest
import refresh_world as shop
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.cli.console import console
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.data.forgotten import Forgotten
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.serve.champion.pointer import Champion, Standing, write_pointer
from llmcf_cli.stages.look.forget import write_list

WHO, OTHER, NEVER = "Zoë-4711-of-the-hill", "Bob-1234-of-the-dale", "nobody-0000-anywhere"
NAMES = {"u1": WHO, "u2": OTHER}


def call(*words):
    console.cache_clear()  # it keeps the stream and width that it was made with
    try:
        return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"})
    finally:
        console.cache_clear()


def forget(folder, *words, code=None):
    """The certificate that is printed."""
    done = call("forget", *words, "--recipe", folder / "recipe.yaml", "--artifacts", folder / "artifacts", "--json")
    if code is None:
        assert done.exit_code == 0, (done.output, done.exception)
    else:
        assert isinstance(done.exception, LlmcfError), (done.output, done.exception)
        assert done.exception.code == code
    return json.loads(done.stdout)[0] if done.stdout else None


def train(folder):
    done = call("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    assert done.exit_code == 0, (done.output, done.exception)


def holding(folder: Path, user: str) -> set[str]:
    """Files below a folder that hold an id, as bytes or as a value of a table, by other readers than llmcf's."""
    found = set()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if path.is_dir():
            if path.suffix == ".lance" and user in repr(lancedb.connect(path.parent).open_table(path.stem).to_arrow()
                                                        .to_pylist()):  # fmt: skip
                found.add(inside)
            continue
        held = any(form in path.read_bytes() for form in (user.encode(), json.dumps(user).encode()))
        if path.suffix == ".parquet":
            held |= user in repr(pq.read_table(path).to_pylist())
        elif path.suffix == ".duckdb":
            with duckdb.connect(str(path), read_only=True) as con:
                tables = [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
                held |= any(user in repr(con.execute(f'FROM "{name}"').fetchall()) for name in tables)
        elif path.suffix == ".sqlite":
            held |= user in "".join(sqlite3.connect(path).iterdump())
        if held:
            found.add(inside)
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A shop whose model is trained and refreshed."""
    folder = tmp_path_factory.mktemp("shop")
    recipe = shop.write_shop(folder)
    for name in ("events.csv", "more.csv"):
        lines = (folder / name).read_text().splitlines()
        rows = [line.split(",") for line in lines]
        (folder / name).write_text("".join(f"{','.join([NAMES.get(row[0], row[0]), *row[1:]])}\n" for row in rows))
    recipe.write_text(recipe.read_text().replace("name: shop\n", "# mine\nname: shop  # and a comment\n"))
    train(folder)
    done = call("refresh", recipe, "--artifacts", folder / "artifacts", "--add", folder / "more.csv",
                "--items", folder / "more_items.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    with duckdb.connect(str(folder / "artifacts" / "cache" / "answer.duckdb")) as con:
        con.execute("CREATE TABLE answer (prompt_hash VARCHAR)")
    return folder


@pytest.fixture
def here(made, tmp_path) -> Path:
    """A copy of it, as if it had been made there."""
    return Path(shutil.copytree(made, tmp_path / "shop"))


def test_the_user_is_gone_and_stays_away(here):
    artifacts, text = here / "artifacts", (here / "recipe.yaml").read_text()
    before = holding(artifacts, WHO)
    assert {path.split("/")[0] for path in before} >= {"ingest", "train-rec", "refresh"}
    shown = forget(here, WHO, OTHER, NEVER)
    assert holding(artifacts, WHO) == before
    assert (here / "recipe.yaml").read_text() == text
    assert shown["unknown"] == 1
    assert not any(one["gone"] for one in shown["removed"])
    gone = {one["path"] for one in shown["removed"]}
    assert all(any((artifacts / path).is_relative_to(one) for one in gone) for path in before)
    assert any(one["learned"] for one in shown["removed"])

    (here / "ids.txt").write_text(f"{OTHER}\n{NEVER}\n")
    ended = forget(here, WHO, "--ids", here / "ids.txt", "--yes")
    assert {one["path"] for one in ended["removed"]} == gone
    assert all(one["gone"] for one in ended["removed"])
    assert json.loads((here / "recipe.forgotten-1.json").read_text()) == ended
    assert holding(artifacts, WHO) == holding(artifacts, OTHER) == set()
    changed = (here / "recipe.yaml").read_text()
    assert changed.replace("  forgotten: recipe.forgotten.json\n", "") == text
    assert not any(WHO in path.read_text() for path in here.glob("recipe*"))
    own = {one["path"] for one in ended["remains"]}
    assert str(here / "events.csv") in own

    train(here)
    done = call("refresh", here / "recipe.yaml", "--artifacts", artifacts)
    assert done.exit_code == 0, (done.output, done.exception)
    assert holding(artifacts, WHO) == holding(artifacts, OTHER) == set()
    assert holding(artifacts, "u3") != set(), "the reader finds those who stay"
    checked = forget(here, "--check")
    assert (len(checked["users"]), checked["unknown"], checked["removed"]) == (3, 3, [])

    forget(here, "u3", "--yes")
    assert len(json.loads((here / "recipe.forgotten.json").read_text())["users"]) == 4
    assert (here / "recipe.yaml").read_text() == changed
    assert (here / "recipe.forgotten-2.json").is_file()


def test_the_check_sees_what_came_back(here):
    forget(here, WHO, "--check", code="forget-remains")
    kept = shutil.copytree(here / "artifacts", here / "aside")
    forget(here, WHO, "--yes")
    shutil.rmtree(here / "artifacts")
    kept.rename(here / "artifacts")
    found = forget(here, "--check", code="forget-remains")
    assert {one["what"] for one in found["removed"]} >= {"ingest"}
    text = (here / "recipe.yaml").read_text()
    (here / "recipe.yaml").write_text(text.replace("  forgotten: recipe.forgotten.json\n", ""))
    forget(here, "--check", code="forget-remains")


def test_what_is_served_or_read_or_of_another_recipe_stays_and_is_told(here):
    (bundle,) = here.glob("artifacts/refresh/*/bundle")
    (old,) = here.glob("artifacts/train-rec/*/bundle")
    pointer = here / "champion"
    write_pointer(pointer, Champion(champion=Standing(bundle=str(bundle)), previous=Standing(bundle=str(old))))
    other = here / "other.yaml"
    other.write_text((here / "recipe.yaml").read_text().replace("name: shop", "name: other").replace("0.5}", "0.4}"))
    done = call("gen-cot", other, "--artifacts", here / "artifacts")
    assert done.exit_code == 0, done.output
    found = forget(here, WHO, "--yes", "--pointer", pointer, code="forget-remains")
    stays = {one["path"]: one["ours"] for one in found["remains"]}
    assert stays[str(bundle.parent)] is True
    assert bundle.is_dir()
    assert not old.exists()
    theirs = [Path(path) for path, ours in stays.items() if not ours and "gen-cot" in path]
    assert theirs
    assert all(path.is_dir() for path in theirs)
    found = forget(here, WHO, "--yes")
    assert not bundle.exists()
    assert holding(here / "artifacts", WHO) <= {
        file.relative_to(here / "artifacts").as_posix() for path in theirs for file in path.rglob("*")
    }


def test_a_bundle_elsewhere_that_a_pointer_names_is_told(here, tmp_path):
    (bundle,) = here.glob("artifacts/refresh/*/bundle")
    away = Path(shutil.copytree(bundle, tmp_path / "away"))
    write_pointer(here / "champion", Champion(champion=Standing(bundle=str(away))))
    found = forget(here, WHO, "--pointer", here / "champion")
    (told,) = [one for one in found["remains"] if one["path"] == str(away)]
    assert told["ours"]


COMMAND = """\
import sys
from typer.testing import CliRunner
from llmcf_cli.cli.app import app
from llmcf_cli.stages.look import forget
work = forget.write_list
def told(*rest):
    print("ready", flush=True)
    return work(*rest)
forget.write_list = told
CliRunner().invoke(app, sys.argv[1:])
"""


@pytest.mark.slow
def test_a_kill_leaves_nothing_half_and_the_same_command_ends_it(here, tmp_path):
    chance = random.Random(2)
    for turn in range(2):
        folder = Path(shutil.copytree(here, tmp_path / str(turn) / "shop"))
        whole = {path.parent for path in folder.glob("artifacts/*/*/manifest.json")}
        sizes = {path: sorted(p.name for p in path.rglob("*")) for path in whole}
        words = [
            "forget",
            WHO,
            "--recipe",
            str(folder / "recipe.yaml"),
            "--artifacts",
            str(folder / "artifacts"),
            "--yes",
        ]
        process = subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, words)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(chance.random() * 0.08)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in whole:
            assert not path.exists() or sorted(p.name for p in path.rglob("*")) == sizes[path]
        ended = forget(folder, WHO, "--yes")
        assert holding(folder / "artifacts", WHO) == set()
        assert ended["finished"]
        assert forget(folder, "--check")["removed"] == []


@pytest.mark.parametrize(
    ("words", "code"),
    [((), "forget-nobody"), (("--check",), "forget-nobody"), ((WHO, "--check", "--yes"), "option-conflict")],
)
def test_bad_requests_change_nothing(here, words, code):
    before = sorted(path.name for path in here.iterdir())
    forget(here, *words, code=code)
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(("before", "after"), [
    ("extends: first.yaml\nseed: 1", "extends: first.yaml\nseed: 1\ndataset:\n  forgotten: l.json\n"),
    ("extends: first.yaml\ndataset:  # of us\n    max_users: 9  # few\n\nseed: 1\n",
     "extends: first.yaml\ndataset:  # of us\n    forgotten: l.json\n    max_users: 9  # few\n\nseed: 1\n"),
    ("extends: first.yaml\r\ndataset:\r\n  max_users: 9\r\n",
     "extends: first.yaml\r\ndataset:\r\n  forgotten: l.json\r\n  max_users: 9\r\n"),
    ("extends: first.yaml\ndataset: {max_users: 90}\n", None),
])  # fmt: skip
def test_a_recipe_gets_one_line_or_stays_as_it_is(tmp_path, before, after):
    (tmp_path / "first.yaml").write_text(shop.RECIPE)
    file = tmp_path / "recipe.yaml"
    file.write_bytes(before.encode())
    if after is None:
        with refused("forget-recipe", StoreError):
            write_list(load_recipe(file), Forgotten.fresh(), tmp_path / "l.json")
        assert not (tmp_path / "l.json").exists()
    else:
        assert write_list(load_recipe(file), Forgotten.fresh(), tmp_path / "l.json")
        assert load_recipe(file).recipe.dataset.forgotten == "l.json"
        assert not write_list(load_recipe(file), Forgotten.fresh(), tmp_path / "l.json")
    assert file.read_bytes() == (after or before).encode()
    assert not list(tmp_path.glob(".*"))


def test_a_recipe_of_llmcf_is_not_changed(tmp_path):
    done = call("forget", WHO, "--recipe", "planted/base", "--artifacts", tmp_path)
    assert done.exception.code == "forget-recipe"
