"""The files of a bundle, as inputs write, read and check them: a stranger may have made what is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llmcf_cli.core.errors import ModelError, StoreError

LARGEST = 1e6
"""Of a weight or a part of a vector; trained ones stay below a thousand."""
ROWS_PER_BYTE = 64
"""Rows that a byte of a Parquet file can stand for; its rows have distinct ids, which take more."""


@dataclass(frozen=True)
class Stored:
    """Files of a bundle.

    Attributes:
        folder: Where they are.
        files: Those that may be read.
        renamed: File → name of an array there → what it is called now, in a bundle of an earlier format.
    """

    folder: Path
    files: Collection[str]
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def only(self, files: Collection[str]) -> Stored:
        """The same bundle, with fewer files to read."""
        return Stored(self.folder, set(files) & set(self.files), self.renamed)

    def path(self, name: str) -> Path:
        """Where a file is.

        Raises:
            StoreError: The bundle does not list it.
        """
        if name not in self.files:
            raise StoreError(f"does not list {name}", code="bundle-incomplete", where=str(self.folder))
        return self.folder / name

    def now(self, file: str, name: str) -> str:
        """What an array of a file is called now."""
        return self.renamed.get(file, {}).get(name, name)

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays of a safetensors file."""
        return {self.now(name, key): array for key, array in load_file(self.path(name)).items()}

    def table(self, name: str) -> pa.Table:
        """A Parquet table whose size its file can account for.

        Raises:
            StoreError: It claims more rows.
        """
        path = self.path(name)
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > ROWS_PER_BYTE * path.stat().st_size:
                raise StoreError(
                    f"claims {file.metadata.num_rows:,} rows, more than fit in its size",
                    code="bundle-oversized",
                    where=str(path),
                )
            return file.read()


@dataclass(frozen=True)
class Storing:
    """A bundle that is being written.

    Attributes:
        folder: Where.
        files: Those that may be written.
    """

    folder: Path
    files: Collection[str]

    def arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a safetensors file."""
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, self._path(name))

    def table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        pq.write_table(table, self._path(name))

    def _path(self, name: str) -> Path:
        if name not in self.files or (self.folder / name).exists():
            raise StoreError(
                f"{name} is not a file that the input declares, or already exists",
                code="bundle-file",
                where=str(self.folder),
            )
        return self.folder / name


def demand(holds: Any, path: Path, what: str) -> None:
    """Refuse what does not hold.

    Raises:
        ModelError: It does not.
    """
    if not holds:
        raise ModelError(
            f"{what}: out of range, of another size or kind, or not finite", code="bundle-values", where=str(path)
        )


def within(ids: NDArray[Any], size: int) -> bool:
    """Whether all ids are from 0 up to, but without, a size."""
    return np.issubdtype(ids.dtype, np.integer) and (not ids.size or bool(ids.min() >= 0 and ids.max() < size))


def check_vectors(vectors: NDArray[Any] | None, path: Path, what: str) -> None:
    """Check float32 [N, D] of moderate numbers; None passes.

    Raises:
        ModelError: They are something else.
    """
    fits = vectors is None or (
        vectors.ndim == 2 and vectors.dtype == np.float32 and bool((np.abs(vectors) <= LARGEST).all())
    )
    demand(fits, path, what)
