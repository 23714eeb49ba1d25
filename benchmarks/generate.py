"""Rows per second of the engine `transformers` against a plain `model.generate` loop, with the same greedy texts.

    python benchmarks/generate.py [--quick] [--one-thread] [--precision bf16]

SmolLM2-135M and the prompts of recipes/movielens_100k/base.yaml (a tenth of the train rows, at most 256 tokens of
prompt and 72 of answer, as there). The plain loop takes rows in the order of the data set, 16 at a time, padded,
through `model.generate` with the library's defaults but greedy; the engine takes the same rows as `gen-cot` hands them
over. Both have the same weights, precision and threads. Rounds of 96 neighbouring rows (--quick: 48) from places spread
over the sample, sides alternating, medians of wall time on all cores (--one-thread: of CPU time on one thread, which
other work on the machine disturbs less). `ingest` runs first, into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from llmcf_cli.core.progress import SILENT
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.models.load import hf_folder, load_causal_lm, load_tokenizer
from llmcf_cli.llm.prompts.rows import SampleTexts, choose_train, sample_texts
from llmcf_cli.llm.writing.texts import Ask, Fault, fit_asks
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.prompt import Prompt, load_prompt
from llmcf_cli.recipe.words import Words, words_of
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.open import connect_read

TARGET, BATCH = 2.5, 16
RECIPE = Path(__file__).parent.parent / "recipes" / "movielens_100k" / "base.yaml"


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of 48 rows instead of four of 96")
    parser.add_argument("--one-thread", action="store_true", help="CPU time on one thread, for a busy machine")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of both sides")
    options = parser.parse_args()
    rounds, size = (2, 48) if options.quick else (4, 96)
    clock = time.process_time if options.one_thread else time.perf_counter
    if options.one_thread:
        torch.set_num_threads(1)
    engine, plain, asks = prepare(options.precision, rounds, size)

    plain(asks[0][:2])
    engine_texts(engine, asks[0][:2])
    seconds: dict[str, list[float]] = {"model.generate": [], "engine": []}
    equal = 0
    for number, some in enumerate(asks):
        sides = {"model.generate": plain, "engine": lambda some: engine_texts(engine, some)}
        texts = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            started = clock()
            texts[name] = sides[name](some)
            seconds[name].append((clock() - started) / size)
            print(f"round {number + 1}: {name} {seconds[name][-1]:.3f} s per row", file=sys.stderr, flush=True)
        equal += sum(a == b for a, b in zip(*texts.values(), strict=True))
    rows = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    report(rows, seconds, equal, rounds * size, options.precision)


def report(rows: dict[str, float], seconds: dict[str, list[float]], equal: int, count: int, precision: str) -> None:
    """Print, and end the process."""
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f"{count} rows, {precision}, {torch.get_num_threads()} threads, {equal} texts equal")
    print(f"{'side':>16}{'rows/s':>9}")
    for name, value in rows.items():
        print(f"{name:>16}{value:>9.2f}")
    ok = ratio >= TARGET and (equal == count or precision == "bf16")
    detail = {
        "rows": count, "precision": precision, "threads": torch.get_num_threads(), "equal_texts": equal,
        "rows_per_second": {name: round(value, 3) for name, value in rows.items()},
        "seconds_per_row": {name: [round(v, 3) for v in values] for name, values in seconds.items()},
    }  # fmt: skip
    print(json.dumps({"name": "generate", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def prepare(precision: str, rounds: int, size: int) -> tuple[TransformersEngine, Plain, list[list[Ask]]]:
    """Both sides and the prompts of each round."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_recipe(RECIPE)
        context = open_context(loaded, Path(folder), SILENT)
        (step,) = plan(context, [Ingest()])
        execute([step], SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
        recipe = loaded.recipe
        model = hf_folder(context.locate.path(recipe.llm.model), context.models)
        config = recipe.cot.engine.model_copy(update={"temperature": 0.0, "precision": precision})
        engine = TransformersEngine(config)
        engine.open(model)
        with connect_read(step.node.folder / "data.duckdb") as reader:
            ids = choose_train(reader, recipe.cot.sample, derive_seed(recipe.seed, "gen-cot", "sample"), "cot.sample")
            starts = [len(ids) * i // rounds for i in range(rounds)]
            rows = [sample_texts(reader, ids[start : start + size]) for start in starts]
    prompt = load_prompt(context.locate.path(recipe.cot.prompt))
    words = words_of(recipe.dataset.label, recipe.dataset.history.events)
    return (
        engine,
        Plain(model, precision, config.max_new_tokens),
        [prompts(some, prompt, engine, words) for some in rows],
    )


def prompts(rows: Sequence[SampleTexts], prompt: Prompt, engine: TransformersEngine, words: Words) -> list[Ask]:
    """What `gen-cot` asks about some rows."""

    def render(index: int, history: list[str]) -> list[dict[str, str]]:
        row = rows[index]
        return prompt.last.render({
            "history": history, "item": row.item, "user": row.user, "decision": words.decision(row.label),
            **words.variables,
        })  # fmt: skip

    fault = Fault(lambda index: f"sample {rows[index].sample_id}", "benchmark", "")
    return fit_asks(engine, [row.history for row in rows], render, fault)


def engine_texts(engine: TransformersEngine, asks: Sequence[Ask]) -> list[str]:
    """The engine's answers, in the batches it asks for."""
    texts = [""] * len(asks)
    for batch in engine.batches([ask.tokens for ask in asks]):
        done = engine.generate([asks[i].messages for i in batch], [0] * len(batch))
        for index, completion in zip(batch, done, strict=True):
            texts[index] = completion.text
    return texts


class Plain:
    """The plain loop.

    Args:
        model: Folder of the model.
        precision: `fp32` or `bf16`.
        most: Most new tokens.
    """

    def __init__(self, model: Path, precision: str, most: int) -> None:
        self.model = load_causal_lm(model, torch.bfloat16 if precision == "bf16" else torch.float32)
        self.tokenizer, self.most = load_tokenizer(model), most

    def __call__(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers, 16 rows at a time in the order given."""
        texts = []
        for start in range(0, len(asks), BATCH):
            chats = [ask.messages for ask in asks[start : start + BATCH]]
            encoded = self.tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            tokens_BL = self.model.generate(
                **encoded, max_new_tokens=self.most, do_sample=False, top_k=None, top_p=None, temperature=None,
                pad_token_id=self.tokenizer.pad_token_id, eos_token_id=self.tokenizer.eos_token_id,
            )[:, encoded["input_ids"].shape[1] :]  # fmt: skip
            texts += self.tokenizer.batch_decode(tokens_BL, skip_special_tokens=True)
        return [text.strip() for text in texts]


if __name__ == "__main__":
    main()
