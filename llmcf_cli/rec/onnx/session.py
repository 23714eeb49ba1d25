"""Running an exported model with onnxruntime.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.onnx.graph import SCORE, Port, feeds

_TYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


class OnnxModel:
    """An exported model, on as many threads as torch has.

    Args:
        raw: The content of `model.onnx`.
        ports: The inputs that it must have.

    Raises:
        ModelError: It has others, or onnxruntime does not run it.
    """

    def __init__(self, raw: bytes, ports: tuple[Port, ...]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop needs the cores, too
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run the model: {str(error).splitlines()[0]:.200}",
                             code="onnx-unfit", where="model.onnx",
                             hint="llmcf export-onnx BUNDLE --force, or --engine torch") from error  # fmt: skip
        self.ports = ports
        found = [(one.name, one.type) for one in self._session.get_inputs()]
        wanted = [(port.name, _TYPES[port.dtype]) for port in ports]
        if found != wanted or [one.name for one in self._session.get_outputs()] != [SCORE]:
            raise ModelError(f"has the inputs {', '.join(name for name, _ in found)}, but the bundle's model needs "
                             f"{', '.join(name for name, _ in wanted)}", code="onnx-unfit", where="model.onnx",
                             hint="llmcf export-onnx BUNDLE --force, or --engine torch")  # fmt: skip

    def score(self, samples: Samples, values: Mapping[str, NDArray[Any] | None]) -> NDArray[np.float32]:
        """Scores of some rows, float32 [N].

        Args:
            samples: The rows; candidates of one request stand together.
            values: Name of an input of the arm → their values.
        """
        found: NDArray[np.float32] = self._session.run([SCORE], feeds(self.ports, samples, values))[0]
        return found
