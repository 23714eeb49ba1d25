"""The bundle that answers, the one before, and how another one takes its place while requests are answered."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from llmcf_cli import __version__
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.rec.bundle.bundle import MANIFEST
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.serve.champion.pointer import pointed_at
from llmcf_cli.serve.core import Engine
from llmcf_cli.serve.golden import try_out
from llmcf_cli.serve.http.bodies import Info
from llmcf_cli.serve.scorer import Scorer


@dataclass(frozen=True)
class Loaded:
    """A bundle ready to answer.

    Attributes:
        path: Its folder.
        scorer: Its scorer.
        digest: Its digest.
    """

    path: Path
    scorer: Scorer
    digest: str


class Bundles:
    """The bundle that answers. A reader takes `current` once and keeps it for a whole batch.

    Args:
        path: Folder of the first bundle.
        signers: File of public keys, one of which must have signed every bundle; None: anybody.
        engine: What computes scores; see `Scorer.load`.

    Raises:
        StoreError: The folder is no complete bundle, or is not signed by any of them.
        ModelError: Its parts do not fit together.
    """

    def __init__(self, path: Path, signers: Path | None = None, engine: Engine = "torch") -> None:
        self._signers, self._engine = signers, engine
        self._changing = threading.Lock()
        self.current = self._loaded(path)
        self.previous: Loaded | None = None

    def load(self, path: Path) -> Loaded:
        """Verify, load and try a bundle, then let it answer; the one before keeps answering until then.

        Raises:
            StoreError: As above; the current bundle stays.
            ModelError: As above; the current bundle stays.
        """
        with self._changing:
            found = self._loaded(path)
            if found.digest != self.current.digest:
                self.current, self.previous = found, self.current
            return self.current

    def rollback(self) -> Loaded:
        """Let the previous bundle answer again.

        Raises:
            StoreError: There is none.
        """
        with self._changing:
            if self.previous is None:
                raise StoreError(
                    "no bundle was served before this one",
                    code="rollback-none",
                    where="rollback",
                    hint="POST /admin/reload",
                )
            self.current, self.previous = self.previous, self.current
            return self.current

    def info(self) -> Info:
        """What is served."""
        now, before = self.current, self.previous
        model, recipe = now.scorer.model, now.scorer.recipe
        resources = model.resources
        bank, finder = resources.get(EXAMPLES), now.scorer.finder
        return Info(
            bundle=now.digest, previous=before.digest if before else None, recipe=str(recipe.get("name", "")),
            task=now.scorer.task.config.type, backbone=model.configs.backbone.type,
            augmenter=model.configs.augment.type, users=len(resources.catalog.users.ids),
            items=len(resources.catalog.items.ids), examples=len(bank) if bank else 0,
            k=now.scorer.examples_of_a_score, golden=len(now.scorer.golden.requests) if now.scorer.golden else 0,
            lists=now.scorer.makes_lists, finder=finder.other.model.configs.backbone.type if finder else None,
            candidates=finder.candidates if finder else 0, reasoning=now.scorer.reasoning_E is not None,
            keeps_histories=resources.histories is not None, engine=now.scorer.core.engine,
            llmcf=__version__,
        )  # fmt: skip

    def _loaded(self, path: Path) -> Loaded:
        scorer = Scorer.load(path, signers=self._signers, engine=self._engine)
        try_out(scorer)
        return Loaded(path, scorer, scorer.digest)


class Watch:
    """Says when the bundle that a file names has changed.

    Args:
        pointer: The file.
    """

    def __init__(self, pointer: Path) -> None:
        self.pointer = pointer
        self._seen = self._state()

    def changed(self) -> bool:
        """Whether the file, or the bundle that it names, is another than at the last call."""
        before, self._seen = self._seen, self._state()
        return before != self._seen

    def _state(self) -> tuple[str, int]:
        try:
            bundle = pointed_at(self.pointer)
            return str(bundle), (bundle / MANIFEST).stat().st_mtime_ns
        except (LlmcfError, OSError) as error:
            return str(error), 0
