"""Tokens that the prompt `decomposed` generates for a tenth of MovieLens-100K, against `single` at equal limits.

    python benchmarks/decomposed.py [--quick]

`gen-cot` runs with both prompts for 200 samples (--quick: 60) of recipes/movielens_100k/base.yaml, with SmolLM2-135M
tuned on 24 samples, into a temporary folder: that gives the mean length of what each step writes. How many texts each
step writes for a tenth of the train rows is counted. The ratio reported is generated tokens of `decomposed` to those of
`single`; lower is better. No time is taken.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from llmcf_cli.core.progress import SILENT
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.prompts.rows import choose_train
from llmcf_cli.llm.writing.steps import plan_calls
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context, targets
from llmcf_cli.store.open import connect_read

TARGET, PROMPTS = 0.40, ("single", "decomposed")
RECIPE = Path(__file__).parent.parent / "recipes" / "movielens_100k" / "base.yaml"
LENGTHS = """
    SELECT CAST(json_extract(decode, '$.max_new_tokens') AS INTEGER), avg(new_tokens)
    FROM generation WHERE sample_index = 0 GROUP BY 1
"""


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    count = 60 if parser.parse_args().quick else 200
    with tempfile.TemporaryDirectory() as folder:
        steps = {prompt: measure(prompt, count, Path(folder)) for prompt in PROMPTS}
    print(f"a tenth of the train rows of MovieLens-100K; lengths of the texts about {count} of them")
    print(f"{'prompt':<12}{'step':<13}{'texts':>8}{'limit':>7}{'tokens a text':>15}{'tokens':>10}")
    tokens = {}
    for prompt, found in steps.items():
        for step, (texts, limit, mean) in found.items():
            print(f"{prompt:<12}{step:<13}{texts:>8,}{limit:>7}{mean:>15.1f}{texts * mean:>10,.0f}")
        tokens[prompt] = sum(texts * mean for texts, _, mean in found.values())
    bound = {prompt: sum(texts * limit for texts, limit, _ in found.values()) for prompt, found in steps.items()}
    ratio, most = (part["decomposed"] / part["single"] for part in (tokens, bound))
    print(f"decomposed generates {ratio:.1%} of the tokens of single; {most:.1%} if every text went up to its limit")
    detail = {"samples": count, "tokens": {prompt: round(total) for prompt, total in tokens.items()},
              "at_the_limits": round(most, 3)}  # fmt: skip
    result = {"name": "decomposed", "ratio": round(ratio, 3), "target": TARGET, "ok": ratio <= TARGET}
    print(json.dumps({**result, "detail": detail}))
    sys.exit(0 if ratio <= TARGET else 1)


def measure(name: str, count: int, artifacts: Path) -> dict[str, tuple[int, int, float]]:
    """Step → texts of a tenth of the train rows, most tokens of one, and the mean of those generated for a few."""
    changes = ["llm.count=24", f"cot.prompt=prompts/{name}.yaml"]
    few = load_recipe(RECIPE, [*changes, "cot.sample.fraction=null", f"cot.sample.count={count}"])
    context = open_context(few, artifacts / name, SILENT)
    steps = plan(context, targets(few.recipe, "gen-cot"))
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    with closing(sqlite3.connect(context.generations)) as texts:
        mean = dict(texts.execute(LENGTHS).fetchall())
    recipe = load_recipe(RECIPE, changes).recipe
    prompt = load_prompt(context.locate.path(recipe.cot.prompt))
    ingested = next(step.node.folder for step in steps if step.node.stage.name == "ingest")
    with connect_read(ingested / "data.duckdb") as reader:
        seed = derive_seed(recipe.seed, "gen-cot", "sample")
        ids = choose_train(reader, recipe.cot.sample, seed, "cot.sample").tolist()
        calls = plan_calls(prompt, reader, ids, history=recipe.dataset.history, samples=1)
    limits = {step.name: step.limit(recipe.cot.engine.max_new_tokens) for step in prompt.steps}
    return {step: (calls[step], limit, mean[limit]) for step, limit in limits.items()}


if __name__ == "__main__":
    main()
