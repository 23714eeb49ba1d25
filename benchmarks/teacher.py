"""Teacher scoring: questions that begin alike read as a tree, against one forward pass per question.

    python benchmarks/teacher.py [--quick]

SmolLM2-135M-Instruct answers "Will the user like it?" about MovieLens-100K train samples of users drawn at random (the
wording and the 20 items of history are the defaults), in bf16 where the CPU computes in it. Three ways of reading the
same tokenised questions, alternating, medians of CPU time on one thread (--wall: of wall time):

* alone: a forward pass per question, the last token's logits only (every fourth question);
* padded: batches of similar length, padded on the left, no shared beginning (the same);
* tree: as `teacher` and `eval-llm` read, each beginning that questions of a row share once.

The ratio is tree to alone. The three give the same log(P(yes) / P(no)): to 1e-4 in fp32 (tested), and the table shows
the largest gap to `alone` in the precision measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcf_cli.core.progress import SILENT
from llmcf_cli.data.ingest import ingest
from llmcf_cli.llm.asking.answers import AnswerScorer, yes_or_no
from llmcf_cli.llm.asking.reading import Reader, pack
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.models.load import hf_folder, resolved_precision
from llmcf_cli.llm.prompts.batches import by_length
from llmcf_cli.llm.prompts.question import questions
from llmcf_cli.llm.prompts.rows import sample_texts
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.store.open import connect_read

TARGET = 3.0
_EVERY = 4
LIMITS = {"most_tokens": 16384, "most": 64}
Prompts = list[list[int]]


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer questions")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if options.wall else time.process_time
    scorer, prompts = setting(150 if options.quick else 800)
    some = prompts[::_EVERY]  # without sharing, a question costs the same whatever stands beside it
    ways: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "alone": (len(some), lambda: alone(scorer, some)),
        "padded": (len(some), lambda: padded(scorer, some)),
        "tree": (len(prompts), lambda: tree(scorer, prompts)),
    }
    tree(scorer, prompts[:8])  # loads the model
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, Tensor] = {}
    for _ in range(1 if options.quick else 3):
        for name, (_count, way) in ways.items():
            started = clock()
            scores[name] = way()
            seconds[name].append(clock() - started)
    scores["tree"] = scores["tree"][::_EVERY]

    tokens = sum(map(len, prompts))
    read = len(pack(sorted(prompts)).ids_T)
    rates = {name: ways[name][0] / statistics.median(values) for name, values in seconds.items()}
    gaps = {name: float((scores[name] - scores["alone"]).abs().max()) for name in ways}
    precision = resolved_precision("auto")
    print(f"{len(prompts):,} questions of {tokens / len(prompts):.0f} tokens, of which the tree reads "
          f"{read / len(prompts):.0f}; {precision}, one thread")  # fmt: skip
    print(f"{'way':>8}{'questions/s':>13}{'× alone':>9}{'largest gap':>13}")
    for name, rate in rates.items():
        print(f"{name:>8}{rate:>13.2f}{rate / rates['alone']:>9.2f}{gaps[name]:>13.4f}")
    ratio = rates["tree"] / rates["alone"]
    result = {"name": "teacher", "ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET}
    detail = {
        "questions": len(prompts), "tokens": tokens, "tokens_read": read, "precision": precision, "gaps": gaps,
        "questions_per_second": {name: round(rate, 2) for name, rate in rates.items()},
    }  # fmt: skip
    print(json.dumps({**result, "detail": detail}))
    sys.exit(0 if ratio >= TARGET else 1)


def setting(count: int) -> tuple[AnswerScorer, Prompts]:
    """A scorer, and tokenised questions about all train samples of some users, about `count`."""
    loaded = load_recipe("quickstart")
    context = open_context(loaded)
    model = hf_folder(context.locate.path(loaded.recipe.llm.model), context.models)
    config = RecommendationMixConfig()
    scorer = AnswerScorer(Reader(model, "auto"), config.positive, config.negative)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.duckdb"
        ingest(loaded.recipe.dataset, locate=context.locate.path, seed=loaded.recipe.seed, out=data, progress=SILENT)
        with connect_read(data) as connection:
            ids = connection.execute(_SAMPLES, {"count": count}).fetchnumpy()["sample_id"]
            rows = sample_texts(connection, ids)

    def measure(indices: list[int], texts: list[str]) -> list[int]:
        return list(map(len, scorer.encode(texts)))

    return scorer, scorer.encode([q.text for q in questions(config, rows, scorer.context, measure)])


_SAMPLES = """
WITH size AS (
    SELECT user_row, count(*) AS n, md5(concat('teacher', user_row)) AS position
    FROM sample WHERE split = 'train' GROUP BY user_row
),
chosen AS (SELECT user_row, n, sum(n) OVER (ORDER BY position, user_row) AS until FROM size)
SELECT sample_id FROM sample JOIN chosen USING (user_row)
WHERE split = 'train' AND until - n < $count ORDER BY sample_id
"""


def alone(scorer: AnswerScorer, prompts: Prompts) -> Tensor:
    """A forward pass per question."""
    return torch.cat([scorer.score([prompt])[0] for prompt in prompts])


def tree(scorer: AnswerScorer, prompts: Prompts) -> Tensor:
    """As `llmcf teacher` reads."""
    found = torch.zeros(len(prompts))
    for row in scorer.reader.rows(prompts, **LIMITS):
        found[row] = scorer.score([prompts[i] for i in row])[0]
    return found


@torch.inference_mode()
def padded(scorer: AnswerScorer, prompts: Prompts) -> Tensor:
    """Batches of similar length, padded on the left."""
    model: Any = scorer.reader._weights()
    found = torch.zeros(len(prompts))
    for batch in by_length([len(p) for p in prompts], answer=0, most_tokens=4096, most=32):
        width = max(len(prompts[i]) for i in batch)
        ids_BS = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in batch])
        seen_BS = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        position_BS = (seen_BS.cumsum(1) - 1).clamp_min(0)
        logits_BSV = model(
            input_ids=ids_BS, attention_mask=seen_BS, position_ids=position_BS, use_cache=False, logits_to_keep=1
        ).logits
        found[batch] = yes_or_no(logits_BSV[:, -1], scorer.positive_Y, scorer.negative_N)[0]
    return found


if __name__ == "__main__":
    main()
