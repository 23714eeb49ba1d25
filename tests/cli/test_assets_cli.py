"""`llmcf assets …` through the real command line, with a catalogue of the test's own."""

import hashlib
import json

import commands
import pytest

CONTENT = b"user_id\titem_id\n1\t2\n"


@pytest.fixture
def llmcf(tmp_path):
    """Run a command with the test's own cache and a catalogue that adds the asset `tiny`."""
    (tmp_path / "data.tsv").write_bytes(CONTENT)
    file = {
        "path": "data.tsv",
        "source": "file:data.tsv",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "size": len(CONTENT),
    }
    entry = {"kind": "dataset", "description": "Two columns.", "licence": "CC0-1.0", "files": [file]}
    (tmp_path / "assets.yaml").write_text(json.dumps({"tiny": entry}))
    cache = str(tmp_path / "cache")

    def run(*arguments):
        return commands.llmcf("assets", *arguments, "--beside", tmp_path, COLUMNS="120", LLMCF_CACHE=cache)

    return run


def test_list_names_size_licence_and_state(llmcf):
    done = llmcf("list")
    assert done.returncode == 0
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("tiny"))
    assert row == ["tiny", "dataset", "0.0", "absent", "CC0-1.0"]
    for name in ("movielens-100k", "smollm2-135m-instruct", "minilm-l6-v2"):
        assert name in done.stdout


def test_fetch_then_verify_then_damage(llmcf, tmp_path):
    done = llmcf("fetch", "tiny")
    assert done.returncode == 0
    assert "tiny: fetched, 0.0 MB" in done.stdout
    assert "licence: CC0-1.0" in done.stdout
    assert "tiny: already here" in llmcf("fetch", "tiny").stdout
    assert "ok: tiny" in llmcf("verify").stdout
    (path,) = tmp_path.glob("cache/assets/tiny/*/data.tsv")
    path.write_bytes(CONTENT[::-1])
    done = llmcf("verify", "tiny")
    assert done.returncode == 4
    assert str(path) in done.stderr
    assert "llmcf assets fetch tiny" in done.stderr
    assert "damaged" in llmcf("list").stdout
    assert llmcf("fetch", "tiny").returncode == 0
    assert path.read_bytes() == CONTENT
    assert llmcf("verify", "tiny").returncode == 0


def test_verify_of_nothing_is_fine_and_of_an_absent_asset_is_not(llmcf):
    assert llmcf("verify").returncode == 0
    done = llmcf("verify", "tiny")
    assert done.returncode == 4
    assert "asset:tiny: has not been fetched" in done.stderr


def test_unknown_names_and_no_names(llmcf):
    done = llmcf("fetch", "tniy")
    assert done.returncode == 2
    assert 'unknown asset "tniy"; did you mean "tiny"?' in done.stderr
    assert llmcf("fetch").returncode == 2
    assert llmcf("fetch", "tiny", "--all").returncode == 2


def test_a_source_that_is_gone(llmcf, tmp_path):
    (tmp_path / "data.tsv").unlink()
    done = llmcf("fetch", "tiny")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert "next: check the connection, then: llmcf assets fetch tiny" in done.stderr
