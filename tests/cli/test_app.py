"""The command line as a user meets it: help without heavy imports, one message per error, exit codes."""

import subprocess
import sys
from functools import partial

import commands
import pytest

from llmcf_cli.plugin import builtin_registry

STAGES = [component.name for component in builtin_registry().stages()]

HEAVY = ("torch", "transformers", "lancedb", "duckdb", "pyarrow", "numpy", "sklearn", "matplotlib")


llmcf = partial(commands.llmcf, COLUMNS="160")


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "validate", "quickstart"], ["run", "--help"]])
def test_quick_commands_import_nothing_heavy(arguments):
    # Columns are checked by the readers that ingest uses, on the beginning of each table.
    heavy = tuple(name for name in HEAVY if arguments[0] != "recipe" or name != "duckdb")
    script = (
        "import sys\n"
        f"sys.argv = ['llmcf', *{arguments!r}]\n"
        "from llmcf_cli.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as exit:\n    assert not exit.code, exit.code\n"
        f"print('HEAVY', sorted(set({heavy!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("HEAVY []")


def test_help_names_every_stage_in_running_order():
    text = llmcf("--help").stdout
    places = [text.index(f" {stage} ") for stage in STAGES]
    assert places == sorted(places)


def test_version():
    from llmcf_cli import __version__

    assert llmcf("--version").stdout.strip() == f"llmcf {__version__}"


def test_an_unknown_stage_is_refused_with_the_nearest_name():
    done = llmcf("run", "quickstart", "--force", "matsch")
    assert done.returncode == 2
    assert 'did you mean "match"?' in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_recipe_is_one_message():
    done = llmcf("run", "quickstrat")
    assert done.returncode != 0
    assert "quickstart" in done.stderr
    assert "Traceback" not in done.stderr


UNUSED = ("collab", "ability", "eval-llm", "balance", "knowledge", "teacher", "search", "baseline", "refresh")
"""Stages that nothing in the quickstart needs."""


def test_dry_run_says_what_would_run_and_makes_nothing(tmp_path):
    needed = [stage for stage in STAGES if stage not in UNUSED]
    done = llmcf("run", "quickstart", "--dry-run", "--artifacts", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    for stage in needed:
        assert stage in done.stdout
    assert done.stdout.count("to run") >= len(needed)
    assert not [stage for stage in UNUSED if f"{stage}[" in done.stdout or f"{stage} " in done.stdout]
    assert not (tmp_path / "a").exists()


def test_status_of_an_empty_root_says_what_to_do(tmp_path):
    done = llmcf("status", "--artifacts", str(tmp_path))
    assert done.returncode == 0
    assert "llmcf run" in done.stdout


def test_a_missing_file_in_a_recipe_is_found_before_anything_runs(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: quickstart\nname: mine\ncot: {prompt: prompts/sinlge.yaml}\n")
    done = llmcf("run", str(recipe), "--artifacts", str(tmp_path / "a"))
    assert done.returncode != 0
    assert "sinlge.yaml" in done.stderr
    assert "single.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["plugins", "doctor"])
def test_inspecting_commands_answer(command, tmp_path):
    done = llmcf(command, *(["--artifacts", str(tmp_path)] if command == "doctor" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "deepfm" in done.stdout or "python" in done.stdout


def test_ctrl_c_exits_with_130_and_says_that_it_resumes(tmp_path):
    """The interrupt arrives in the middle of a stage."""
    script = (
        "import sys, signal, os, time\n"
        "import llmcf_cli.stages.steps.ingest as ingest\n"
        "def wait(self, job):\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(20)\n"
        "ingest.Ingest.run = wait\n"
        f"sys.argv = ['llmcf', 'run', 'quickstart', '--artifacts', {str(tmp_path / 'a')!r}]\n"
        "from llmcf_cli.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "run the same command to resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recipe_without_the_section_balance_says_what_to_add(tmp_path):
    done = llmcf("balance", "quickstart", "--dry-run", "--artifacts", str(tmp_path / "a"))
    assert done.returncode == 1
    assert "add `balance: {}` to the recipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_eval_llm_compares_the_model_before_and_after_tuning(tmp_path):
    done = llmcf("eval-llm", "quickstart", "--dry-run", "--artifacts", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    for label in ("train-llm", "ability[base]", "ability[tuned]", "eval-llm"):
        assert label in done.stdout
    assert "gen-cot" not in done.stdout


def test_match_is_a_stage_and_a_group(tmp_path):
    folder = ("--artifacts", str(tmp_path / "a"))
    plain = llmcf("match", "quickstart", "--dry-run", *folder)
    assert plain.returncode == 0, plain.stderr
    assert "train-rec" not in plain.stdout
    for named in (("match", "run", "quickstart", "--dry-run"), ("match", "--dry-run", "quickstart")):
        done = llmcf(*named, *folder)
        assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert "llmcf match RECIPE" in llmcf("match", "--help").stdout


@pytest.mark.parametrize("command", [["cot", "show"], ["match", "show", "--sample", "1"], ["audit"]])
def test_what_to_run_next_names_the_users_own_recipe_and_options(tmp_path, command):
    (tmp_path / "my own.yaml").write_text("extends: quickstart\nname: own\n")
    done = llmcf(*command, "my own.yaml", "--set", "match.k=6", "--artifacts", "made", cwd=tmp_path)
    assert done.returncode != 0
    hint = next(line for line in done.stderr.splitlines() if line.startswith("  next: "))
    assert hint.startswith("  next: llmcf ")
    assert hint.endswith(" 'my own.yaml' --set match.k=6 --artifacts made")
