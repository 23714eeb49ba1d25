"""Two processes on the CPU, joined by gloo, learn what one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused
from safetensors.torch import load_file

from llmcf_cli.core.errors import LlmcfError, ModelError, UnknownNameError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.llm.config import FullTuneConfig, LoraTuneConfig
from llmcf_cli.llm.tuning.estimate import Sharding
from llmcf_cli.llm.tuning.launch import read_launch
from llmcf_cli.llm.tuning.tune import tune
from llmcf_cli.recipe.library import launch_file, library_dir

SETTINGS = {"max_length": 64, "batch_size": 4, "gradient_accumulation": 2, "save_steps": 2, "precision": "fp32",
            "learning_rate": 0.01, "epochs": 1}  # fmt: skip
CONFIGURATIONS = sorted((library_dir() / "accelerate").glob("*.yaml"))


class Heard(SilentProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def mix(write_mix, tmp_path: Path) -> Path:
    """34 samples: nine batches of four, an odd number."""
    return write_mix(tmp_path / "mix.parquet", 34)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["none", "packed"])
def test_two_processes_have_the_loss_curve_of_one(tiny_model: Path, mix: Path, tmp_path: Path, packing: str) -> None:
    config = FullTuneConfig(**SETTINGS, packing=packing)
    reports, heard = [], Heard()
    for name, launch in (("one", None), ("two", launch_file("cpu"))):
        reports.append(tune(config, model=tiny_model, mix=mix, out=tmp_path / name / "out",
                            work=tmp_path / name / "work", seed=3, progress=heard, launch=launch))  # fmt: skip
    one, two = reports
    assert (one.processes, two.processes) == (1, 2)
    assert (one.distributed, two.distributed) == ("NO", "MULTI_CPU")
    assert one.steps == two.steps == 5
    assert [loss for _, loss in two.loss] == pytest.approx([loss for _, loss in one.loss], rel=1e-4)
    weights = [load_file(tmp_path / name / "out" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    # AdamW divides by the gradient's own size, so where that is near 0, rounding decides the direction of a step.
    assert all((weights[0][name] - weights[1][name]).abs().mean() < 1e-4 for name in weights[0])
    assert sum("million parameters" in line for line in heard.lines) == 2


@pytest.mark.slow
def test_what_a_launched_process_meets_is_told(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    config = FullTuneConfig(**{**SETTINGS, "learning_rate": 1e38, "save_steps": 1}, max_gradient_norm=1e30)
    with refused("loss-not-finite", ModelError) as error:
        tune(config, model=tiny_model, mix=mix, out=tmp_path / "out", work=tmp_path / "work", seed=3,
             launch=launch_file("cpu"))  # fmt: skip
    assert "learning_rate" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_forward_passes_that_processes_cannot_share_are_refused(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    config = FullTuneConfig(**{**SETTINGS, "gradient_accumulation": 3})
    with refused("processes-uneven", LlmcfError, names="2.*3") as error:
        tune(config, model=tiny_model, mix=mix, out=tmp_path / "out", work=tmp_path / "work", seed=3,
             launch=launch_file("cpu"))  # fmt: skip
    assert str(error.value.where) == "llm.tune.gradient_accumulation"


def test_adapters_in_divided_weights_are_refused(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    with refused("adapters-sharded", LlmcfError):
        tune(LoraTuneConfig(), model=tiny_model, mix=mix, out=tmp_path / "out", work=tmp_path / "work", seed=3,
             launch=launch_file("fsdp"))  # fmt: skip


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configurations_of_the_library_are_read_by_accelerate_and_here(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    theirs, ours = load_config_from_file(str(path)), read_launch(path)
    assert theirs.num_processes == ours.processes == 2
    expected = {"fsdp": Sharding(2, 2), "zero2": Sharding(1, 2)}.get(path.stem, Sharding())
    assert ours.sharding == expected
    assert path.read_text().splitlines()[0] == f"# llmcf train-llm RECIPE --launch {path.stem}"


@pytest.mark.parametrize(
    ("text", "code"),
    [("- 1", "launch-config"), ("{", "yaml-invalid"), ("num_processes: 2", "launch-config"),
     ("{distributed_type: MULTI_GPU, num_processes: 4, num_machines: 2}", "launch-elsewhere")],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with refused(code, LlmcfError):
        read_launch(tmp_path / "a.yaml")


def test_an_unknown_configuration_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError) as error:
        launch_file("dpp")
    assert error.value.closest == "ddp"
    assert {"cpu", "ddp", "fsdp", "zero2"} <= set(error.value.allowed)


@pytest.mark.parametrize(
    "text",
    ["num_processes: 1000000", "compute_environment: AMAZON_SAGEMAKER", "command_file: /tmp/x", "commands: [id]",
     "mpirun_config: {mpirun_hostfile: x}", "deepspeed_config: {deepspeed_hostfile: x}", "main_process_ip: 10.0.0.1",
     "tpu_use_cluster: true", "x: &x [1, 1]\ny: &y [*x, *x]\n" + "".join(f"z{n}: *y\n" for n in range(3_000)),
     "a: !!python/object/apply:os.system [id]"],
)  # fmt: skip
def test_what_would_run_elsewhere_or_has_no_end_is_refused(tmp_path: Path, text: str) -> None:
    whole = {"distributed_type": "distributed_type: MULTI_GPU", "num_processes": "num_processes: 2"}
    lines = [line for key, line in whole.items() if not text.startswith(key)]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, text]))
    with pytest.raises(LlmcfError):
        read_launch(tmp_path / "a.yaml")
