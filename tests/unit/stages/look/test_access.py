"""What `llmcf recipe inspect` tells: every file, asset, server, folder and plugin, and what is to be allowed first."""

import pytest

from llmcf_cli.core.errors import AccessError
from llmcf_cli.core.permissions import READ_VARIABLE, Host, Permissions
from llmcf_cli.core.place import dotted
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import check_recipe, load_recipe
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.files import file_problems, locator_of
from llmcf_cli.stages.look.access import access_of
from llmcf_cli.stages.pipeline import check_servers, open_context, run_steps, targets

RECIPE = """
extends: quickstart
name: theirs
dataset:
  source: {type: csv, interactions: ../data/clicks.csv, columns: {user: u, item: i, time: t}}
cot: {engine: {type: openai, model: m, base_url: 'https://api.example.com/v1'}}
llm: {model: 'asset:smollm2-135m-instruct'}
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A stranger's recipe that names a file outside its folder and a host, where nothing is allowed yet."""
    monkeypatch.delenv(READ_VARIABLE)
    monkeypatch.setenv("LLMCF_CONFIG", str(tmp_path / "config"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clicks.csv").write_text("u,i,t\na,b,1\n")
    (tmp_path / "recipe").mkdir()
    path = tmp_path / "recipe" / "theirs.yaml"
    path.write_text(RECIPE)
    return path


def access(path, *overrides):
    return access_of(check_recipe(path, overrides), path.parent / "artifacts")


def test_what_is_to_be_allowed(theirs):
    found = access(theirs)
    assert [dotted(read.where.path) for read in found.reads if read.refused] == ["dataset.source.interactions"]
    assert [(send.host, send.variable, send.allowed) for send in found.sends] == [
        (Host.of("api.example.com"), None, False)
    ]
    assert found.refused
    assert {fetch.asset.name for fetch in found.fetches} >= {"minilm-l6-v2"}
    assert not any(fetch.own for fetch in found.fetches)
    assert found.writes[0][0] == theirs.parent / "artifacts"


def test_once_it_is_allowed(theirs):
    Permissions().allow_read(theirs.parent, theirs.parent.parent / "data")
    Permissions().allow_host(Host.of("api.example.com"), "ITS_KEY")
    found = access(theirs)
    assert not found.refused
    assert [(send.variable, send.allowed) for send in found.sends] == [("ITS_KEY", True)]
    assert file_problems(check_recipe(theirs).root, locator_of(check_recipe(theirs))).missing == []


def test_what_is_not_allowed_is_not_read(theirs):
    problems = file_problems(check_recipe(theirs).root, locator_of(check_recipe(theirs))).missing
    assert [type(problem) for problem in problems] == [AccessError]
    assert f"--allow-read '{theirs.parent.parent / 'data' / 'clicks.csv'}'" in problems[0].hint


def test_the_folder_around_may_be_read_while_nothing_leaves_the_machine(theirs):
    for url in ("", "http://localhost:8000/v1"):
        engine = f"cot: {{engine: {{type: openai, model: m, base_url: '{url}'}}}}" if url else ""
        theirs.write_text("\n".join([*(line for line in RECIPE.splitlines() if not line.startswith("cot:")), engine]))
        (read,) = [one for one in access(theirs).reads if str(one.where).endswith("dataset.source.interactions")]
        assert (read.problem, read.outside) == (None, True)
    engine = "{type: openai, model: m, base_url: 'https://a.example/v1'}"
    elsewhere = f"\nrec: {{variants: [{{name: v, set: {{cot.engine: {engine}}}}}]}}\n"
    theirs.write_text(theirs.read_text() + elsewhere)
    assert any(read.refused for read in access(theirs).reads)


def test_what_the_user_names_needs_no_permission(theirs):
    named = f"dataset.source.interactions={theirs.parent.parent / 'data' / 'clicks.csv'}"
    assert not any(read.refused for read in access(theirs, named).reads)


def test_a_recipe_that_is_extended_brings_no_folder_of_its_own(theirs):
    """Else `extends: ~/notes/any.yaml` would open `~/notes`."""
    private = theirs.parent.parent / "private"
    private.mkdir()
    (private / "base.yaml").write_text("extends: quickstart\nname: base\n")
    (private / "diary.csv").write_text("u,i,t\n")
    theirs.write_text(RECIPE.replace("extends: quickstart", "extends: ../private/base.yaml").replace(
        "../data/clicks.csv", "diary.csv"))  # fmt: skip
    assert any(read.refused for read in access(theirs).reads)


def test_servers_are_checked_before_a_step_runs(theirs):
    with pytest.raises(AccessError) as error:
        check_servers({"cot": load_recipe(theirs).recipe.cot})
    assert "llmcf keys allow https://api.example.com" in error.value.hint


def test_an_asset_of_the_recipes_own_catalogue_is_told(theirs):
    entry = (
        "mine: {kind: encoder, description: d, licence: MIT, files: [{path: a, source: 'https://example.org/a', "
        f"sha256: '{'0' * 64}', size: 5}}]}}\n"
    )
    (theirs.parent / "assets.yaml").write_text(entry)
    found = access(theirs, "match.space.encoder=asset:mine")
    (mine,) = [fetch for fetch in found.fetches if fetch.own]
    assert (mine.asset.name, mine.sources, mine.here) == ("mine", (Host.of("example.org"),), False)


def test_a_run_asks_before_its_first_step(theirs):
    theirs.write_text("\n".join(line for line in RECIPE.splitlines() if not line.startswith(("dataset", "  source"))))
    begun = []
    context = open_context(load_recipe(theirs), theirs.parent / "artifacts")
    steps = plan(context, targets(context.recipe, "gen-cot"))
    with pytest.raises(AccessError):
        run_steps(context, steps, SILENT, on_start=begun.append, on_end=lambda *_: None, on_failure=lambda *_: None)
    assert begun == []
