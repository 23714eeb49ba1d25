"""Refreshes killed with SIGKILL at twenty random moments per level, against an unbroken one.

    python benchmarks/refresh_kill.py [--quick] [--level LEVEL …]

A tiny shop is trained and its model promoted. Then a life refreshes it by a level with later rows, and promotes the new
bundle; it ends by SIGKILL at a random moment, or by itself: then the shop begins anew. After each kill the bundle that
the pointer names must have the digests of its manifest, no result that was whole may be another, and no recipe may be
a part of one. At the end there must be one recipe, one ingest of each kind and the bundle of the unbroken refresh: so
nothing was lost and nothing is there twice. The ratio is the kills without a fault to all kills. --quick: three each.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KILLS, TARGET = 20, 1.0
LEVELS = ("items", "examples", "finetune", "full")
PROMOTE = "promote: {measures: {logloss: {at_most: 100}}, latency_ratio: 1000}\n"
POINTER = "champion"
PRELOADED = (
    "llmcf_cli.cli.app", "llmcf_cli.cli.promote", "llmcf_cli.cli.refresh", "llmcf_cli.rec.bundle.warm",
    "llmcf_cli.rec.train.fit", "llmcf_cli.serve.champion.promote", "llmcf_cli.stages.refreshing",
)  # fmt: skip
"""So that a life costs no seconds of imports."""


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills per level")
    parser.add_argument("--level", nargs="+", choices=LEVELS, default=LEVELS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    kills, chance = 3 if options.quick else KILLS, random.Random(options.seed)
    sys.path.insert(0, str(ROOT / "tests"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*importlib.import_module("commands").IMPORTED, *PRELOADED])
    detail = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained(context, folder / "trained")
        for level in options.level:
            detail[level] = measure(context, folder, level, kills, chance)
            print(f"{level:>10}  " + "  ".join(f"{what} {value}" for what, value in detail[level].items()), flush=True)
    total = sum(one["kills"] for one in detail.values())
    ratio = 1 - sum(one["kills_with_a_fault"] for one in detail.values()) / total
    ok = ratio >= TARGET and not any(one["ends_that_differ"] for one in detail.values())
    print(json.dumps({"name": "refresh_kill", "ratio": ratio, "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def trained(context: Any, folder: Path) -> None:
    """The shop, its model trained and promoted."""
    shop, tables = importlib.import_module("refresh_world"), folder
    tables.mkdir()
    shop.write_shop(tables)
    later = [*shop.LATER, *((f"u{n}", "i21", 5 - n % 2 * 4, 1010 + n) for n in range(30))]
    shop.write_events(tables / "more.csv", later)
    (tables / "recipe.yaml").write_text(shop.RECIPE + PROMOTE)
    run(context, tables, ["train-rec", "recipe.yaml"])
    (bundle,) = tables.glob("artifacts/train-rec/*/bundle")
    run(context, tables, ["promote", str(bundle.relative_to(tables)), "--to", POINTER, "--recipe", "recipe.yaml"])


def measure(context: Any, folder: Path, level: str, kills: int, chance: random.Random) -> dict[str, Any]:
    """Kill and resume until there are enough kills, and compare each end with that of an unbroken refresh."""
    whole = Path(shutil.copytree(folder / "trained", folder / f"whole-{level}"))
    started = time.monotonic()
    live(context, whole, level, None)
    seconds, wanted = time.monotonic() - started, end_of(whole)
    found = {"kills": 0, "kills_with_a_fault": 0, "shops": 0, "ends_that_differ": 0, "unbroken_seconds": seconds}
    faults: list[str] = []
    while found["kills"] < kills:
        shop = Path(shutil.copytree(folder / "trained", folder / f"{level}-{found['shops']}"))
        found["shops"] += 1
        before = results(shop)
        while found["kills"] < kills and not live(context, shop, level, chance.uniform(0, seconds)):
            found["kills"] += 1
            wrong = faults_of(shop, before)
            found["kills_with_a_fault"] += bool(wrong)
            faults += wrong
            before = results(shop)
        live(context, shop, level, None)
        wrong = faults_of(shop, before)
        if (now := end_of(shop)) != wanted:
            wrong.append(f"ends with {now}, not {wanted}")
        found["ends_that_differ"] += bool(wrong)
        faults += wrong
        shutil.rmtree(shop)
        print(f"{level}: {found['kills']} kills, {len(faults)} faults", file=sys.stderr, flush=True)
    return {**found, "unbroken_seconds": round(seconds, 2), **({"faults": faults[:5]} if faults else {})}


def live(context: Any, shop: Path, level: str, moment: float | None) -> bool:
    """One life; whether it came to its end before a moment."""
    process = context.Process(target=refresh_and_promote, args=(shop, level))
    process.start()
    process.join(moment)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode:
        raise RuntimeError(f"a life failed: {(shop / 'said').read_text()}")
    return True


def refresh_and_promote(shop: Path, level: str) -> None:
    """What a shop runs at night."""
    said = command(shop, ["refresh", "recipe.yaml", "--level", level, "--add", "more.csv", "--items", "more_items.csv"])
    told = dict(line.split(": ", 1) for line in said.splitlines() if line.startswith(("recipe of", "model to")))
    bundle = Path(told["model to serve"]).resolve()
    if (shop / POINTER).read_text().splitlines()[0] != str(bundle.relative_to(shop)):
        recipe = "recipe.refresh-1.yaml"
        command(shop, ["promote", str(bundle), "--to", POINTER, "--recipe", recipe])


def run(context: Any, shop: Path, words: list[str]) -> None:
    """A command in a process of its own."""
    process = context.Process(target=command, args=(shop, words))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{words} failed: {(shop / 'said').read_text()}")


def command(shop: Path, words: list[str]) -> str:
    """Run a command in this process; what it said."""
    import torch

    from llmcf_cli.cli.app import app
    from llmcf_cli.cli.console import console

    torch.set_num_threads(1)
    os.chdir(shop)
    os.environ["COLUMNS"] = "1000"
    with (shop / "said").open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        console.cache_clear()
        app([*words, "--artifacts", "artifacts"] if words[0] != "promote" else words, standalone_mode=False)
        out.flush()
    return (shop / "said").read_text()


def results(shop: Path) -> dict[str, str]:
    """File → digest, of all results that are whole."""
    folders = [manifest.parent for manifest in shop.glob("artifacts/*/*/manifest.json")]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(shop)): digest(file) for file in files}


def faults_of(shop: Path, before: dict[str, str]) -> list[str]:
    """What a kill has spoiled."""
    import yaml

    now = results(shop)
    found = [f"{file} is another or gone" for file, was in before.items() if now.get(file) != was]
    for manifest in shop.glob("artifacts/*/*/manifest.json"):
        files = json.loads(manifest.read_text())["files"]
        found += [f"{manifest.parent / name} is damaged" for name, record in files.items()
                  if digest(manifest.parent / name) != record["sha256"]]  # fmt: skip
    bundle = shop / (shop / POINTER).read_text().splitlines()[0]
    if not (bundle / "bundle.json").is_file():
        return [*found, "the champion is gone"]
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    found += [f"champion: {name}" for name, record in files.items() if digest(bundle / name) != record["sha256"]]
    for recipe in shop.glob("recipe.refresh-*.yaml"):
        if "refresh" not in (yaml.safe_load(recipe.read_text()) or {}):
            found.append(f"{recipe.name} is a part of a recipe")
    return found


def end_of(shop: Path) -> dict[str, Any]:
    """What a finished refresh leaves: recipes, the key of every result, and the digest of the champion."""
    bundle = shop / (shop / POINTER).read_text().splitlines()[0]
    return {
        "recipes": {file.name: digest(file) for file in sorted(shop.glob("*.refresh-*"))},
        "results": sorted(str(one.parent.relative_to(shop)) for one in shop.glob("artifacts/*/*/manifest.json")),
        "champion": json.loads((bundle / "bundle.json").read_text())["digest"],
    }


def digest(file: Path) -> str:
    """SHA-256 of a file; empty where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


if __name__ == "__main__":
    main()
