"""Whatever a stranger wrote loads or is refused: by our own error, in under 2 s of CPU and 1 GB.

LLMCF_FUZZ: how many mutations of recipes; prompts, requests and catalogues are in proportion (`make fuzz`: 10,000).
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.library import library_dir, recipe_files
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.serve.requests import RequestForm, read_requests
from llmcf_cli.store.catalogue import load_catalogue

RECIPES = int(os.environ.get("LLMCF_FUZZ", "100"))
SECONDS, MEGABYTES = 2.0, 1024

JUNK = [
    "~", "-1", "0", "1e308", "9" * 30, "9" * 5_000, "0x" + "f" * 50, ".nan", ".inf", "''", "[]", "{}", "[[]]", "true",
    "no", "2024-01-01", "2024-99-99", "12:99", "!!binary x", "!!timestamp x", "!x y", "&a [*a]", "*b", "<<", "|",
    "{{", "}}", "{{#x}}", "{{{item}}}", "asset:", "asset:x/../y", "../../etc/passwd", "/dev/zero", "~nosuchuser/x",
    '"\\ud800"', '"\\0"', '"\\x1b[2J"', "=1+1", "a[1].csv", "*", "none", "bce", "deepfm", "é", "\u202e", " " * 500,
    "a" * 5_000, "k: v", "? [1]", "---", "%YAML 9.9",
]  # fmt: skip


def many(share):
    return settings(
        max_examples=max(25, int(RECIPES * share)), deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def mutated(text, chance):
    """A text with some of its lines or values changed, moved, doubled or gone."""
    lines = text.splitlines()
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(lines)) if lines else 0
        line = lines[at] if lines else ""
        key, colon, _ = line.partition(":")
        kind = chance.randrange(9)
        if kind == 0:
            lines[at : at + 1] = []
        elif kind == 1:
            lines.insert(at, chance.choice(lines) if lines else "x: 1")
        elif kind == 2:
            lines[at : at + 1] = [" " * chance.randrange(5) + line]
        elif kind == 3 and line:
            place = chance.randrange(len(line))
            lines[at] = line[:place] + chr(chance.choice((0, 9, 34, 39, 58, 91, 123, 125, 0xE9, 0x2028))) + line[place:]
        elif kind == 4 and line:
            place = chance.randrange(len(line))
            lines[at] = line[:place] + line[place + chance.randrange(1, 9) :]
        elif kind == 5:
            lines.insert(at, chance.choice(JUNK))
        elif colon:
            lines[at : at + 1] = [f"{key}: {chance.choice(JUNK)}"]
    return "\n".join(lines)


def holds(read, file):
    """Whether what is read loads or is refused as it should be."""
    started, said = time.process_time(), ""
    try:
        read(file)
    except LlmcfError as error:
        said = str(error)
    assert len(said) < 100_000
    assert time.process_time() - started < SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    load_recipe("quickstart")
    return tmp_path_factory.mktemp("fuzz")


seeds = st.integers(0, 2**32)
written = sorted(recipe_files(library_dir()).values())
prompts = sorted((library_dir() / "prompts").glob("*.yaml"))


@many(1)
@given(file=st.sampled_from(written), seed=seeds)
def test_recipes(folder, file, seed):
    changed = mutated(file.read_text(), random.Random(seed))
    target = folder / "recipe.yaml"
    target.write_text(changed, encoding="utf-8", errors="surrogatepass")
    holds(load_recipe, target)


@many(0.1)
@given(file=st.sampled_from(prompts), seed=seeds)
def test_prompts(folder, file, seed):
    target = folder / "prompt.yaml"
    target.write_text(mutated(file.read_text(), random.Random(seed)), encoding="utf-8")
    holds(load_prompt, target)


@many(0.05)
@given(seed=seeds)
def test_catalogues(folder, seed):
    target = folder / "assets.yaml"
    target.write_text(mutated((library_dir() / "assets.yaml").read_text(), random.Random(seed)), encoding="utf-8")
    holds(load_catalogue, target)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(JUNK),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["user_id", "item_id", "history", "time", "USER_ID", "", "\0", "x"]) | st.text(max_size=6)
ids = st.integers() | st.text(max_size=9) | values
rows = st.lists(
    st.fixed_dictionaries({"user_id": ids, "item_id": ids}, optional={"history": values, "time": values, "x": values})
    | st.dictionaries(keys, values, max_size=5), max_size=5,
)  # fmt: skip
ENDINGS = ("csv", "tsv", "jsonl", "json", "ndjson", "jsonl.gz", "parquet")


@many(0.2)
@given(table=rows, ending=st.sampled_from(ENDINGS), seed=seeds, clock=st.sampled_from(("global", "per_user")))
def test_requests(folder, table, ending, seed, clock):
    """Tables of odd values, some of them with bytes changed."""
    chance = random.Random(seed)
    if "csv" in ending or "tsv" in ending:
        mark = "," if "csv" in ending else "\t"
        names = list(table[0]) if table else ["user_id", "item_id"]
        lines = [names, *([json.dumps(row.get(name)) for name in names] for row in table)]
        text = "\n".join(mark.join(map(str, line)) for line in lines)
    elif ending == "json":
        text = json.dumps(table)
    else:
        text = "\n".join(map(json.dumps, table))
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if content and chance.random() < 0.4:
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        del content[chance.choice((len(content), chance.randrange(len(content)))) :]
    file = folder / f"requests.{ending}"
    file.write_bytes(bytes(content))
    holds(lambda given: read_requests(given, RequestForm(clock)), file)


@pytest.mark.parametrize("kind", ["recipes", "requests"])
def test_the_corpus(tmp_path, kind):
    script = Path(__file__).with_name("measure.py")
    done = subprocess.run(
        [sys.executable, script, kind, tmp_path], capture_output=True, text=True, timeout=600, check=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(found) > 25
    wrong = [one for one in found if one["end"] not in ("loads", "refused")]
    slow = [one for one in found if one["seconds"] >= SECONDS or one["peak_mb"] >= MEGABYTES]
    assert (wrong, slow) == ([], [])
