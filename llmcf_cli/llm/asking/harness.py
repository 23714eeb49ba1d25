"""EleutherAI's lm-evaluation-harness on a `Reader`: its tasks and metrics, our way of reading shared contexts once.

Legend: W tokens of a continuation, V vocabulary.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import Progress
from llmcf_cli.llm.asking.benchmarks import BENCHMARKS
from llmcf_cli.llm.asking.reading import Reader

Request = tuple[tuple[str, str], list[int], list[int]]
"""Texts of context and continuation, and their tokens."""

for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # read once, when the libraries below are imported
    os.environ.setdefault(_name, "1")

import datasets  # noqa: E402
import lm_eval.api.task  # noqa: E402
from lm_eval.api.model import TemplateLM  # noqa: E402
from lm_eval.evaluator import evaluate  # noqa: E402


def answer(name: str, questions: pa.Table, reader: Reader, limits: dict[str, int], progress: Progress) -> pa.Table:
    """What the harness makes of a model's answers to a benchmark's questions.

    Args:
        name: Of the benchmark.
        questions: As `questions_of` gives them.
        reader: The model.
        limits: `most_tokens` and `most` continuations read at once; they do not change the answers.
        progress: Where to report; also told of contexts that are too long for the model and lose their beginning.

    Returns:
        Columns `row` (int64) and one of float64 per metric: `acc` and `acc_norm` are 0 or 1, `perplexity` is the
        log-probability of the continuation, in nats.

    Raises:
        ModelError: A continuation is longer than the model's context.
    """
    with progress.task(name, questions.num_rows, "questions") as bar, _quiet():
        model = _ReadingLM(reader, limits, lambda share: bar.advance(share * questions.num_rows))
        task = lm_eval.api.task.ConfigurableTask(config=_config(name, questions))
        task.set_fewshot_seed(seed=0)
        found = evaluate(lm=model, task_dict={"tasks": {name: task}}, bootstrap_iters=0, log_samples=True)
    if model.shortened:
        progress.say(f"{name}: {model.shortened} contexts longer than {reader.context:,} tokens lost their beginning")
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    metrics = [entry["metric"] for entry in BENCHMARKS[name].settings["metric_list"]]
    return pa.table({
        "row": questions["row"],
        **{metric: pa.array([float(sample[metric]) for sample in samples], pa.float64()) for metric in metrics},
    })  # fmt: skip


def _config(name: str, questions: pa.Table) -> dict[str, Any]:
    def load(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({"test": datasets.Dataset(questions)})

    settings = deepcopy(BENCHMARKS[name].settings)  # the harness writes into it
    return {
        **settings, "task": name, "custom_dataset": load, "test_split": "test", "num_fewshot": 0,
    }  # fmt: skip


class _ReadingLM(TemplateLM):
    """A `Reader` as the harness's model.

    Args:
        reader: The model.
        limits: Of `Reader.rows`.
        advance: Told what part of the requests is done.

    Attributes:
        shortened: Contexts that lost their beginning so far.
    """

    def __init__(self, reader: Reader, limits: dict[str, int], advance: Callable[[float], None]) -> None:
        super().__init__()
        self.tokenizer = reader.tokenizer
        self._reader, self._limits, self._advance = reader, limits, advance
        self.shortened = 0

    @property
    def eot_token_id(self) -> int:
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else start

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        how = {
            "add_special_tokens": add_special_tokens is not False,
            "split_special_tokens": True,
        }  # questions are text
        ids: list[int] = self.tokenizer(string, **how)["input_ids"]
        return ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        import torch

        starts, sequences = [], []
        for _texts, context, continuation in requests:
            whole = [*context, *continuation]
            tokens = whole[-(self._reader.context + 1) :]  # the last one is not read
            self.shortened += len(tokens) < len(whole)
            if len(continuation) >= len(tokens):
                raise ModelError(
                    f"a continuation of {len(continuation)} tokens is longer than the model's context",
                    code="prompt-too-long",
                )
            starts.append(len(tokens) - len(continuation) - 1)
            sequences.append(tokens)
        read = [tokens[:-1] for tokens in sequences]  # after the last one nothing is predicted
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for row in self._reader.rows(read, **self._limits):
            wanted = [range(starts[i], len(read[i])) for i in row]
            for index, logits_WV in zip(row, self._reader.logits([read[i] for i in row], wanted), strict=True):
                target_W = torch.tensor(sequences[index][starts[index] + 1 :], device=logits_WV.device)
                logits_WV = logits_WV.float()
                log_W = logits_WV.gather(1, target_W[:, None])[:, 0] - logits_WV.logsumexp(1)
                greedy = bool((logits_WV.argmax(1) == target_W).all())
                found[index] = (float(log_W.sum()), greedy)
            self._advance(len(row) / len(requests))
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        raise NotImplementedError("no benchmark here scores whole documents")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        raise NotImplementedError("no benchmark here generates")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own bars and advice."""
    log, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = log.level
    log.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        log.setLevel(level)
        lm_eval.api.task.tqdm = bar
