"""A killed run continues where it was, and ends as if it had not been killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import long_tasks
import numpy as np
import pyarrow.parquet as pq
import pytest

PROMPT = """
name: tiny
variables: [history, item, decision]
messages:
  - {role: user, content: "{{#history}}{{.}}, {{/history}}then {{item}}: {{decision}}. Why?"}
"""


@pytest.fixture(scope="module")
def where(tiny_llm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a tiny model, data set, mix and prompt."""
    from llmcf_cli.llm.mix.build import build_mix
    from llmcf_cli.llm.models.load import load_tokenizer
    from llmcf_cli.recipe.sections import LLMSection

    folder = tmp_path_factory.mktemp("kill")
    tiny_llm.save_tiny_model(folder / "model")
    tiny_llm.save_tiny_data(folder / "data.duckdb")
    (folder / "prompt.yaml").write_text(PROMPT)
    section = LLMSection.model_validate(
        {
            "model": "m",
            "mix": [{"source": "recommendation", "share": 1}],
            "tune": {"type": "lora", "max_length": 256},
        }
    )
    build_mix(
        section, data=folder / "data.duckdb", locate=Path, tokenizer=load_tokenizer(folder / "model"), seed=5,
        out=folder / "mix.parquet",
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_killed_generation_resumes_with_the_same_rows(where: Path, tmp_path: Path) -> None:
    whole = long_tasks.run("gen-cot", where, tmp_path / "whole")
    assert long_tasks.run("gen-cot", where, tmp_path / "killed", kill_after=3) == {"killed": -signal.SIGKILL}
    resumed = long_tasks.run("gen-cot", where, tmp_path / "killed")
    assert resumed["cached"] >= 12  # three batches of four were committed when the kill came
    assert resumed["generated"] > 0
    assert resumed["generated"] + resumed["cached"] == whole["generated"]
    rows = [pq.read_table(tmp_path / run / "cot.parquet").to_pylist() for run in ("whole", "killed")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 20


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_and_repeat_nothing() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "generate_kill.py"
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, result
    assert result["detail"]["kills"] == 20
    assert result["detail"]["finished_when_resumed"] > 0


@pytest.mark.slow
def test_a_killed_teacher_resumes_with_the_same_scores(where: Path, tmp_path: Path) -> None:
    whole = long_tasks.run("teacher", where, tmp_path / "whole")
    assert long_tasks.run("teacher", where, tmp_path / "killed", kill_after=7) == {"killed": -signal.SIGKILL}
    resumed = long_tasks.run("teacher", where, tmp_path / "killed")
    assert resumed["cached"] >= 12  # three batches of four at least: the first advances are what need not be asked
    assert resumed["asked"] > 0
    assert resumed["asked"] + resumed["cached"] == whole["asked"] == 60
    rows = [pq.read_table(tmp_path / run / "teacher.parquet") for run in ("whole", "killed")]
    assert rows[0]["sample_id"].equals(rows[1]["sample_id"])
    for name in ("logit", "mass"):  # what is read from the model's cache differs after a kill, so rounding does
        np.testing.assert_allclose(rows[0][name], rows[1][name], atol=1e-5)


@pytest.mark.slow
def test_killed_tuning_resumes_to_the_same_weights(where: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = long_tasks.run("tune", where, tmp_path / "whole")
    assert long_tasks.run("tune", where, tmp_path / "killed", kill_after=5) == {"killed": -signal.SIGKILL}
    assert not (tmp_path / "killed" / "out").exists()
    resumed = long_tasks.run("tune", where, tmp_path / "killed")
    assert resumed["resumed_from"] >= 3
    assert resumed["steps"] == whole["steps"]
    assert 0 < resumed["tokens"] < whole["tokens"]
    curves = [[loss for _, loss in run["loss"]] for run in (whole, resumed)]
    assert len(curves[0]) == whole["steps"]
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    weights = [load_file(tmp_path / run / "out" / "model.safetensors") for run in ("whole", "killed")]
    before = load_file(where / "model" / "model.safetensors")
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert any((weights[0][name] != before[name]).any() for name in before)
