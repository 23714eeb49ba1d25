"""The harness on our way of reading: the numbers of its own model class, whatever is read at once."""

from __future__ import annotations

from pathlib import Path

import lm_eval.tasks
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from refusals import refused

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.progress import SILENT, SilentProgress
from llmcf_cli.llm.asking.benchmarks import BENCHMARKS, questions_of
from llmcf_cli.llm.asking.harness import _config, _quiet, answer
from llmcf_cli.llm.asking.reading import Reader

ROWS = 24
WORDS = ["user", "liked", "film", "about", "space", "travel", "quiet", "rivers", "because", "story", "warm", "bold"]


def text(n: int, size: int) -> str:
    return " ".join(WORDS[(n * 7 + i * (n % 4 + 1)) % len(WORDS)] for i in range(size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every benchmark's file, with made-up questions."""
    found = tmp_path_factory.mktemp("benchmarks")
    rows = range(ROWS)
    ready = {
        "query": [f"Question: {text(n, 6)}?" for n in rows], "gold": [n % 4 for n in rows],
        "choices": [[text(n + i, 1 + (n + i) % 3) for i in range(4)] for n in rows],
    }  # fmt: skip
    options = {name: [text(n + i, 2) for n in rows] for i, name in enumerate("ABCD")}
    tables = {
        "mmlu": {"split": ["dev", *["test"] * (ROWS - 1)], "subject": ["film_study"] * ROWS, **options,
                 "question": [text(n, 5) for n in rows], "answer": ["ABCD"[n % 4] for n in rows]},
        "lambada_openai": {"context": [text(n, 8) for n in rows], "continuation": [WORDS[n % 9] for n in rows]},
        "piqa": ready, "arc_easy": ready, "hellaswag": ready,
        "sciq": {"support": [text(n, n % 3 * 4) for n in rows], "question": [text(n, 4) for n in rows],
                 **{name: [text(n + i, 2) for n in rows] for i, name in
                    enumerate(("distractor1", "distractor2", "distractor3", "correct_answer"))}},
    }  # fmt: skip
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), found / BENCHMARKS[name].file)
    return found


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader(tiny_model, "fp32")


def answers(name: str, folder: Path, reader: Reader, most: int) -> pa.Table:
    questions = questions_of(name, folder, 12, seed=1)
    return answer(name, questions, reader, {"most_tokens": 2048, "most": most}, SILENT)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_answers_do_not_depend_on_how_many_are_read_at_once(name, folder, reader):
    one, eight = answers(name, folder, reader, 1), answers(name, folder, reader, 8)
    assert one.column_names == eight.column_names
    for metric in one.column_names:
        np.testing.assert_allclose(one[metric].to_numpy(), eight[metric].to_numpy(), atol=1e-4)
    assert 0 <= np.mean(one["acc"].to_numpy()) <= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_answers_are_those_of_the_harness_with_its_own_model_class(name, folder, reader):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    ours = answers(name, folder, reader, 8)
    with _quiet():
        theirs = HFLM(pretrained=reader._weights(), tokenizer=reader.tokenizer, batch_size=3)
        task = ConfigurableTask(config=_config(name, questions_of(name, folder, 12, seed=1)))
        task.set_fewshot_seed(seed=0)
        found = evaluate(lm=theirs, task_dict={"tasks": {name: task}}, bootstrap_iters=0)["samples"][name]
    found.sort(key=lambda sample: sample["doc_id"])
    for metric in ours.column_names[1:]:
        expected = [float(sample[metric]) for sample in found]
        np.testing.assert_allclose(ours[metric].to_numpy(), expected, atol=1e-4)


def test_mmlu_is_asked_and_marked_as_by_the_harness_own_task(tmp_path):
    """Against the settings that lm-evaluation-harness ships: prompt, continuations, and which of them is right."""
    shipped = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    settings = yaml.safe_load((shipped / "_default_template_yaml").read_text())
    settings |= yaml.safe_load((shipped / "mmlu_high_school_us_history.yaml").read_text())
    options = {name: [text(n + i, 2) for n in range(8)] for i, name in enumerate("ABCD")}
    asked = {"question": [f" {text(n, 5)}? " for n in range(8)], **options}
    ours = {"split": ["test"] * 8, "subject": ["high_school_us_history"] * 8, "answer": list("ABCDDCBA"), **asked}
    pq.write_table(pa.table(ours), tmp_path / "mmlu.parquet")
    theirs = {
        "question": asked["question"], "choices": [list(row) for row in zip(*options.values(), strict=True)],
        "answer": ["ABCD".index(letter) for letter in ours["answer"]],
    }  # fmt: skip

    def load(**_: object) -> DatasetDict:
        return DatasetDict({"test": Dataset.from_dict(theirs)})

    kept = {k: settings[k] for k in ("description", "output_type", "doc_to_text", "doc_to_choice", "doc_to_target",
                                     "metric_list", "test_split")}  # fmt: skip
    found = []
    for config in (
        _config("mmlu", questions_of("mmlu", tmp_path, None, seed=1)),
        {**kept, "task": "theirs", "custom_dataset": load, "num_fewshot": 0},
    ):
        with _quiet():
            task = ConfigurableTask(config=config)
            task.set_fewshot_seed(seed=0)
            task.build_all_requests()
        requests = [(one.args, one.idx) for one in task.instances]
        picks = np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]] - 1.0  # log-probabilities of a model that names a letter each time
        marked = [
            task.process_results(doc, [(score, False) for score in scores])["acc"]
            for doc, scores in zip(task.test_docs(), picks, strict=True)
        ]
        found.append((requests, marked))
    assert found[0] == found[1]
    assert found[0][0][1][0][1] == " B"
    assert found[0][1] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_more_questions_contain_fewer_and_another_seed_draws_others(folder):
    few, many, other = (
        set(questions_of("piqa", folder, limit, seed)["row"].to_pylist()) for limit, seed in ((5, 1), (12, 1), (5, 2))
    )
    assert len(few) == 5
    assert few < many
    assert few != other
    assert questions_of("piqa", folder, None, 1).num_rows == ROWS
    assert questions_of("mmlu", folder, None, 1).num_rows == ROWS - 1, "only its test split"


def test_a_missing_file_or_column_is_named(folder, tmp_path):
    with refused("store-missing", StoreError, names=r"piqa\.parquet"):
        questions_of("piqa", tmp_path, 5, 1)
    pq.write_table(pa.table({"query": ["a"], "gold": [0]}), tmp_path / "piqa.parquet")
    with refused("column-missing", DataError, names="'choices'"):
        questions_of("piqa", tmp_path, 5, 1)


def test_contexts_that_lose_their_beginning_are_counted(folder, tiny_model):
    class Said(SilentProgress):
        lines: list[str] = []  # noqa: RUF012

        def say(self, text):
            self.lines.append(text)

    short, said = Reader(tiny_model, "fp32"), Said()
    short.context = 20
    found = answer("sciq", questions_of("sciq", folder, 12, 1), short, {"most_tokens": 2048, "most": 8}, said)
    assert found.num_rows == 12
    assert "contexts longer than 20 tokens lost their beginning" in said.lines[0]
