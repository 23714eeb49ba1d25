"""What computes the scores of encoded rows: the model itself, or its export.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError, PackageError
from llmcf_cli.features.batch import Samples, empty_samples, to_batch
from llmcf_cli.rec.bundle.bundle import Bundle
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.onnx.graph import ports_of
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.predict import score

Engine: TypeAlias = Literal["torch", "onnx"]
Values: TypeAlias = Mapping[str, NDArray[Any] | None]
"""Name of an arm's input → its values for some rows."""
BATCH = 4096
EXPORTED = "onnx"
"""Folder in a bundle that `llmcf export-onnx` leaves."""


class Core(Protocol):
    """Scores encoded rows."""

    engine: Engine
    model: Recommender
    """The model, with everything it looks things up in."""

    def score(self, samples: Samples, values: Values) -> NDArray[np.float32]:
        """Scores of rows, float32 [N].

        Args:
            samples: The rows; candidates of one request stand together.
            values: Of the inputs that the model reads.
        """
        ...

    def with_model(self, model: Recommender) -> Core:
        """A core of the same weights over a longer catalogue.

        Raises:
            ModelError: It cannot change its catalogue.
        """
        ...


class TorchCore:
    """The model itself: the reference."""

    engine: Engine = "torch"

    def __init__(self, model: Recommender) -> None:
        self.model = model

    def score(self, samples: Samples, values: Values) -> NDArray[np.float32]:
        """See `Core.score`."""
        batch = to_batch(samples, self.model.device, inputs=values)
        found: NDArray[np.float32] = score(self.model, batch, BATCH).cpu().numpy()
        return found

    def with_model(self, model: Recommender) -> TorchCore:
        """See `Core.with_model`."""
        return TorchCore(model)


class OnnxCore:
    """A model's export, run by onnxruntime: what `llmcf export-onnx` left.

    Args:
        model: The model that it is of.
        folder: Where `model.onnx` and `model.json` are.
        digest: Of the bundle that the model is of.
        trial: Some values of the inputs that the model reads, of any row.

    Raises:
        StoreError: There is no export, or it is another bundle's, or not as it was written.
        ModelError: It does not fit the model, or onnxruntime does not run it.
        ModuleNotFoundError: The extra `onnx` is not installed.
    """

    engine: Engine = "onnx"

    def __init__(self, model: RecModel, folder: Path, digest: str, trial: Values) -> None:
        from llmcf_cli.rec.onnx.package import read_package
        from llmcf_cli.rec.onnx.session import OnnxModel

        self.model: Recommender = model
        self._onnx = OnnxModel(read_package(folder, digest)[1], ports_of(model, trial))

    def score(self, samples: Samples, values: Values) -> NDArray[np.float32]:
        """See `Core.score`."""
        if not len(samples):
            return np.zeros(0, np.float32)
        blocks = [slice(start, start + BATCH) for start in range(0, len(samples), BATCH)]
        return np.concatenate([
            self._onnx.score(samples.take(block), {name: array if array is None else array[block]
                                                   for name, array in values.items()})
            for block in blocks
        ])  # fmt: skip

    def with_model(self, model: Recommender) -> OnnxCore:
        """See `Core.with_model`: never, as the catalogue is in the file."""
        raise ModelError("an export cannot take new items", code="onnx-items", where="add_items",
                         hint="use the engine torch")  # fmt: skip


def exported_core(bundle: Bundle, folder: Path) -> OnnxCore:
    """The core that the export of a bundle is.

    Args:
        bundle: A bundle.
        folder: Where its export is.

    Raises:
        StoreError: See `OnnxCore`.
        ModelError: See `OnnxCore`; or the bundle is of another task.
        PackageError: The extra `onnx` is not installed.
    """
    model = bundle.model
    if not isinstance(model, RecModel):
        raise ModelError("models that search the catalogue run only with torch",
                         code="onnx-task", where="engine onnx", hint="use --engine torch")  # fmt: skip
    one = empty_samples(1, model.resources.spec.history_length)
    for column in vars(one).values():
        column[:] = 0
    trial = {name: an_input.trial(model.resources, one) for name, an_input in bundle.inputs.items()}
    try:
        return OnnxCore(model, folder, bundle.digest, trial)
    except ModuleNotFoundError as error:
        raise PackageError(error.name or "", where="engine onnx") from error
