"""Checks of `gpu.py`: a language model's answers, and vectors of texts, on the card."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embed import make_texts
from generate import engine_texts, prompts
from gpu_check import ENCODER, LANGUAGE, SEED, WORDS, Outcome, Setting
from teacher import alone, tree

from llmcf_cli.llm.asking.answers import AnswerScorer, yes_or_no
from llmcf_cli.llm.asking.reading import Reader
from llmcf_cli.llm.config import RecommendationMixConfig, TransformersEngineConfig
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.models.load import load_causal_lm, load_to_ask
from llmcf_cli.llm.prompts.question import questions
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.llm.writing.texts import Ask
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.recipe.words import Words

EQUAL = 0.9
"""Least share of greedy texts in float32 that two ways must agree on; on a card they round differently."""


def generation(setting: Setting) -> Outcome:
    """Rows per second of the engine `transformers` against the library's continuous batching, greedy.

    Prompts of `prompts/single.yaml`, at most 512 tokens and 72 of answer. In float32 both must write the same; rates
    are in bfloat16 on a card. The figure is engine to library: below 0.9 the library's way should be taken.
    """
    folder, weights = setting.model(LANGUAGE)
    most = setting.sized(72, 6)
    rows = _rows(users=setting.sized(64, 3), each=setting.sized(8, 2))
    asks, sides = _writers(setting, folder, "fp32", most, rows)
    few = asks[: setting.sized(48, 6)]
    texts = [side(few) for side in sides.values()]
    equal = sum(a == b for a, b in zip(*texts, strict=True)) / len(few)
    precision = "bf16" if setting.device == "cuda" else "fp32"
    if precision != "fp32":
        asks, sides = _writers(setting, folder, precision, most, rows)
        for side in sides.values():
            side(few)
    work = {name: (lambda side=side: side(asks)) for name, side in sides.items()}
    seconds, _ = _alternating(work, setting, rounds=2 if setting.judged else 1)
    rates = {name: len(asks) / value for name, value in seconds.items()}
    detail = {
        "weights": weights, "rows": len(asks), "prompt_tokens": statistics.mean(ask.tokens for ask in asks),
        "answer_tokens": most, "precision": precision, "rows_per_second": rates,
        "fp32": {"rows": len(few), "equal": equal, "bound": EQUAL},
    }  # fmt: skip
    faults = [] if equal >= EQUAL else [f"in float32 only {equal:.0%} of the texts are the same"]
    return Outcome(rates["engine"] / rates["continuous_batching"], None, detail, faults)


def _writers(
    setting: Setting, folder: Path, precision: str, most: int, rows: Sequence[SampleTexts]
) -> tuple[list[Ask], dict[str, Callable[[Sequence[Ask]], list[str]]]]:
    """What is asked about the rows, and both ways to write answers, with weights of their own."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    engine = TransformersEngine(
        TransformersEngineConfig(temperature=0.0, max_new_tokens=most, max_prompt_tokens=512, precision=precision)
    )
    engine.open(folder)
    library = load_to_ask(folder, precision)
    decoding = GenerationConfig(
        max_new_tokens=most, do_sample=False, eos_token_id=engine._end_tokens(),
        pad_token_id=engine._tokenizer.pad_token_id,
    )  # fmt: skip
    # Without a card the library does not know how much memory it may take.
    limits = {"num_blocks": 64, "max_batch_tokens": 2048} if setting.device == "cpu" else {}

    def continuous(some: Sequence[Ask]) -> list[str]:
        ids = engine._encode([ask.messages for ask in some])
        found = library.generate_batch(
            ids, generation_config=decoding, continuous_batching_config=ContinuousBatchingConfig(**limits)
        )
        errors = [one.error for one in found.values() if one.error]
        if errors or len(found) != len(some):
            raise RuntimeError(f"continuous batching gave {len(found)} of {len(some)} answers, errors: {errors[:3]}")
        in_order = sorted(found.items(), key=lambda pair: int(pair[0].rpartition("_")[2]))
        return [engine._text(one.generated_tokens).strip() for _, one in in_order]

    asks = prompts(rows, load_prompt(library_dir() / "prompts" / "single.yaml"), engine, Words())
    return asks, {"engine": lambda some: engine_texts(engine, some), "continuous_batching": continuous}


def teacher(setting: Setting) -> Outcome:
    """Questions per second of the teacher, read as a tree and one by one, and its answers against the CPU's.

    In float32 log(P(yes) / P(no)) must be that of a plain forward pass on the CPU within 0.01; rates are in bfloat16
    on a card. The figure is tree to one by one.
    """
    folder, weights = setting.model(LANGUAGE)
    config, bound = RecommendationMixConfig(), 0.01
    exact = AnswerScorer(Reader(folder, "fp32"), config.positive, config.negative)
    rows = _rows(users=setting.sized(32, 2), each=setting.sized(24, 3))

    def measure(indices: list[int], texts: list[str]) -> list[int]:
        return list(map(len, exact.encode(texts)))

    asked = exact.encode([q.text for q in questions(config, rows, exact.context, measure, Words())])
    some = asked[:: max(1, len(asked) // 8)]
    reference = load_causal_lm(folder, torch.float32)
    with torch.inference_mode():
        logits_BV = torch.cat([reference(torch.tensor([ids])).logits[:, -1] for ids in some])
    expected_B = yes_or_no(logits_BV, exact.positive_Y, exact.negative_N)[0]
    apart = float((tree(exact, some) - expected_B).abs().max())
    precision = "bf16" if setting.device == "cuda" else "fp32"
    scorer = AnswerScorer(Reader(folder, precision), config.positive, config.negative)
    tree(scorer, some)
    few = asked[:: setting.sized(4, 1)]
    sides = {"tree": lambda: tree(scorer, asked), "alone": lambda: alone(scorer, few)}
    seconds, _ = _alternating(sides, setting, rounds=2 if setting.judged else 1)
    rates = {"tree": len(asked) / seconds["tree"], "alone": len(few) / seconds["alone"]}
    short = float((tree(scorer, some) - expected_B).abs().max())
    detail = {
        "weights": weights, "questions": len(asked), "tokens": statistics.mean(map(len, asked)), "precision": precision,
        "questions_per_second": rates, "largest_difference": {"fp32": apart, precision: short}, "bound": bound,
    }  # fmt: skip
    faults = [] if apart <= bound else [f"an answer in float32 is {apart:.3f} from the CPU's"]
    return Outcome(rates["tree"] / rates["alone"], None, detail, faults)


def embedding(setting: Setting) -> Outcome:
    """Texts per second of the text encoder against sentence-transformers' `encode`, and its vectors against the CPU's.

    The figure is ours to the library's; vectors must be within 1e-4.
    """
    from sentence_transformers import SentenceTransformer

    from llmcf_cli.llm.models.encoder import TextEncoder

    folder, weights = setting.model(ENCODER)
    texts, bound = make_texts(setting.sized(50_000, 48)), 1e-4
    ours, library = TextEncoder(folder), _sentences(SentenceTransformer, folder, setting.device)
    few = texts[:256]
    reference = _sentences(SentenceTransformer, folder, "cpu")
    expected_NT = reference.encode(few, show_progress_bar=False, normalize_embeddings=True)
    apart = float(np.abs(ours.encode(few) - expected_NT).max())
    library.encode(few, show_progress_bar=False)
    sides = {
        "ours": lambda: ours.encode(texts),
        "library": lambda: library.encode(texts, batch_size=64, show_progress_bar=False, normalize_embeddings=True),
    }  # fmt: skip
    seconds, _ = _alternating(sides, setting, rounds=2 if setting.judged else 1)
    rates = {name: len(texts) / value for name, value in seconds.items()}
    detail = {"weights": weights, "texts": len(texts), "texts_per_second": rates, "largest_difference": apart,
              "bound": bound}  # fmt: skip
    return Outcome(rates["ours"] / rates["library"], None, detail, [] if apart <= bound else ["vectors differ"])


def _rows(users: int, each: int) -> list[SampleTexts]:
    """Samples in turn of every user: histories that grow up to 20 titles."""
    chance = random.Random(SEED)
    found = []
    for user in range(users):
        titles = [f"{' '.join(chance.choices(WORDS, k=3)).title()} ({chance.randint(1930, 1999)}), drama"
                  for _ in range(each + 12)]  # fmt: skip
        for number in range(each):
            history = titles[: 12 + number][-20:]
            found.append(SampleTexts(len(found), number % 2, titles[12 + number], f"{20 + user} years old", history,
                                     user + 1, len(found) + 1))  # fmt: skip
    return found


def _alternating(
    sides: dict[str, Callable[[], Any]], setting: Setting, rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each side over some rounds, and what it gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for _ in range(rounds):
        for name, side in sides.items():
            setting.synchronise()
            begun = time.perf_counter()
            results[name] = side()
            setting.synchronise()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in seconds.items()}, results


def _sentences(kind: Any, folder: Path, device: str) -> Any:
    return kind(str(folder), device=device, local_files_only=True)
