"""Stage keys are pinned: a change here means that everybody's artifacts are made anew, so make it on purpose.

To accept new keys: LLMCF_UPDATE_GOLDEN=1 python -m pytest tests/golden
"""

import json
import os
from pathlib import Path

from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.store.artifacts import ArtifactStore

GOLDEN = Path(__file__).with_name("quickstart_keys.json")


class NamesForDigests:
    """Stands in for file contents, so that editing a prompt does not change the golden keys."""

    def digest(self, ref: str) -> str:
        return f"content of {ref}"


def keys(tmp_path, *overrides: str) -> dict[str, str]:
    recipe = load_recipe("quickstart", overrides).recipe
    context = Context(recipe=recipe, store=ArtifactStore(tmp_path), locate=NamesForDigests(), models=tmp_path)
    return {step.node.label: step.node.key for step in plan(context, [Evaluate()])}


def changed(tmp_path, *overrides: str) -> set[str]:
    before, after = keys(tmp_path), keys(tmp_path, *overrides)
    return {label for label in before if before[label] != after.get(label)}


def test_quickstart_keys_are_the_pinned_ones(tmp_path):
    found = keys(tmp_path)
    if os.environ.get("LLMCF_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_a_setting_changes_exactly_the_stages_that_it_determines(tmp_path):
    ict, text, none = ({f"train-rec[{arm} seed=2024]", f"predict[{arm} seed=2024]"} for arm in ("ict", "text", "none"))
    assert changed(tmp_path, "match.k=6") == {"match", *ict, "evaluate"}
    assert changed(tmp_path, "rec.fit.epochs=3") == {*ict, *text, *none, "evaluate"}
    assert changed(tmp_path, "cot.engine.max_new_tokens=32") == {"gen-cot", "examples", "match", *ict, "evaluate"}
    assert changed(tmp_path, "match.collaborative.dim=8") == set()  # none of these arms reads it
    everything = set(keys(tmp_path))
    assert changed(tmp_path, "dataset.label.positive_from=5") == everything
    assert changed(tmp_path, "seed=1") >= {"ingest", "train-llm", "gen-cot"}


def test_another_measure_makes_the_comparison_anew_and_nothing_else(tmp_path, monkeypatch):
    before = keys(tmp_path)
    monkeypatch.setattr(Ranking, "measures", Ranking.measures[:-1])
    after = keys(tmp_path)
    assert {label for label in before if before[label] != after[label]} == {"evaluate"}


def test_settings_that_cannot_change_a_result_change_no_key(tmp_path):
    assert changed(tmp_path, "rec.fit.evaluation_batch_size=64", "description=other words") == set()
