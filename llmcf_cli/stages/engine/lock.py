"""`recipe.lock`: what exactly a run used, small enough to share beside the recipe."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path

import yaml

from llmcf_cli.core.types import file_refs
from llmcf_cli.stages.engine.base import Context, versions
from llmcf_cli.stages.engine.run import Step
from llmcf_cli.store.artifacts import write_atomic


def write_lock(context: Context, steps: Sequence[Step]) -> Path:
    """Write `runs/<recipe>/recipe.lock` under the artifact root: content digests, stage keys, seeds and versions.

    Returns:
        The file.
    """
    recipe = context.recipe
    used = {
        ref
        for step in steps
        for value in step.node.stage.sections(step.node.context.recipe).values()
        for ref in file_refs(value)
    }
    lock = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "files": {ref: context.locate.digest(ref) for ref in sorted(used)},
        "stages": {step.node.label: step.node.key for step in steps},
        "versions": versions(),
    }
    path = context.store.root / "runs" / recipe.name / "recipe.lock"
    text = yaml.safe_dump(lock, sort_keys=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:  # where nothing can be written, nothing was made: what stands there is of who made it
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
    return path
