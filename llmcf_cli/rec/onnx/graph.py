"""A ranking model as a function of plain tensors: what ONNX runs, and how rows are given to it.

Legend: N pairs of user and item, R requests, L history, G distinct values of an input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmcf_cli.features.batch import Batch, Samples, Shared
from llmcf_cli.rec.model import RecModel

PAIRS, REQUESTS = "pairs", "requests"
SCORE = "score"


@dataclass(frozen=True)
class Port:
    """An input of the graph.

    Attributes:
        name: Its name.
        dtype: `int64` or `float32`.
        shape: Sizes; a name stands for one that may differ from call to call.
        meaning: What it holds.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    meaning: str


def ports_of(model: RecModel, values: Mapping[str, NDArray[Any] | None]) -> tuple[Port, ...]:
    """The inputs of a model's graph, in order.

    Args:
        model: A ranking model.
        values: Name of an input of the arm → values of some samples, [n, …]; None: it has none.
    """
    length = model.resources.spec.history_length
    ports = [
        Port("user_row", "int64", (REQUESTS,), "the user: 1 + its row in user.parquet; 0: not seen in training"),
        Port("history_row", "int64", (REQUESTS, length),
             "the items that the user took, most recent last: 1 + rows in item.parquet, filled up with 0 on the left"),
        Port("time", "int64", (REQUESTS,), "when the request is made, as in the bundle; the largest: after everything"),
        Port("item_row", "int64", (PAIRS,), "the candidate: 1 + its row in item.parquet; 0: not in the catalogue"),
        Port("request", "int64", (PAIRS,), "the request that the candidate belongs to, from 0"),
    ]  # fmt: skip
    for name, array in values.items():
        if array is None:
            continue
        dtype, sizes = ("float32" if array.dtype.kind == "f" else "int64"), array.shape[1:]
        summary = f"values of the input `{name}`"
        if name in model.inputs and model.inputs[name].shares:
            ports += [
                Port(name, dtype, (_lists(name), *sizes), f"{summary}, each distinct one once; -1: none"),
                Port(_of(name), "int64", (PAIRS,), f"which of `{name}` each candidate has, from 0"),
            ]  # fmt: skip
        else:
            ports.append(Port(name, dtype, (PAIRS, *sizes), f"{summary} for each candidate"))
    return tuple(ports)


def feeds(
    ports: Sequence[Port], samples: Samples, values: Mapping[str, NDArray[Any] | None]
) -> dict[str, NDArray[Any]]:
    """Samples as the graph reads them: what neighbours share is given once.

    Args:
        ports: Of the graph.
        samples: Some rows; candidates of one request stand together.
        values: Name of an input of the arm → their values.
    """
    new_N = np.ones(len(samples), bool)
    user, history, time = samples.user_row_N, samples.history_row_NL, samples.time_N
    new_N[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1]) | (history[1:] != history[:-1]).any(1)
    given = {
        "user_row": user[new_N], "history_row": history[new_N], "time": time[new_N], "item_row": samples.item_row_N,
        "request": np.cumsum(new_N) - 1,
    }  # fmt: skip
    names = {port.name for port in ports}
    for name, array in values.items():
        if array is not None and _of(name) in names:
            given[name], given[_of(name)] = distinct_rows(array)
        elif array is not None:
            given[name] = array
    return {port.name: np.ascontiguousarray(given[port.name], port.dtype) for port in ports}


def distinct_rows(rows_NK: NDArray[np.integer[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct rows of some whole numbers, [G, K], and which of them each row is, int64 [N]."""
    rows_NK = np.ascontiguousarray(rows_NK)
    if not len(rows_NK) or (rows_NK == rows_NK[0]).all():
        return rows_NK[:1], np.zeros(len(rows_NK), np.int64)
    whole_N = rows_NK.view(np.dtype((np.void, rows_NK.dtype.itemsize * rows_NK.shape[1])))[:, 0]
    first_G, of_N = np.unique(whole_N, return_index=True, return_inverse=True)[1:]
    return rows_NK[first_G], of_N


class Graph(nn.Module):
    """Scores [N] of a model for tensors in the order of its ports.

    Args:
        model: A ranking model in evaluation mode.
        ports: See `ports_of`.
    """

    def __init__(self, model: RecModel, ports: Sequence[Port]) -> None:
        super().__init__()
        self.model, self.ports = model, tuple(ports)

    def forward(self, *tensors: Tensor) -> Tensor:
        """The model's scores, float32."""
        given = {port.name: tensor for port, tensor in zip(self.ports, tensors, strict=True)}
        user_row_R, history_row_RL, time_R, item_row_N, request_N = (
            given.pop(name) for name in ("user_row", "history_row", "time", "item_row", "request")
        )
        shared = {name: (given[name], given[_of(name)]) for name in given if _of(name) in given}
        alone = {name: tensor for name, tensor in given.items() if not {name, name.removesuffix(_OF)} & shared.keys()}
        batch = Batch(
            user_row_R[request_N], item_row_N, history_row_RL[request_N], time_R[request_N], inputs=alone,
            shared=Shared(history_row_RL, request_N, shared),
        )  # fmt: skip
        score_N: Tensor = self.model.score(batch)
        return score_N


_OF = "_of"


def _of(name: str) -> str:
    return f"{name}{_OF}"


def _lists(name: str) -> str:
    return f"distinct_{name}"


def tensors(ports: Sequence[Port], fed: Mapping[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    """What a graph is called with."""
    return tuple(torch.from_numpy(fed[port.name]) for port in ports)
