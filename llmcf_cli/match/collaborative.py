"""The collaborative space: items are alike if the same users took them.

Legend: P train positives, U users, I items, D dimensions, F folds; the last of the folds is the one of all users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.features.collaborative import Collaborative

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

POWER_ITERATIONS = 4


def deal_users(connection: Any, folds: int, seed: int) -> np.ndarray:
    """The fold of every user, by a seeded hash of the id: a user keeps its fold, whoever else comes or goes.

    Folds are of about equal size; of few users, some may be empty.

    Args:
        connection: To a database with the table `user`.
        folds: Folds, 2 to 126.
        seed: Decides folds.

    Returns:
        int8 [U + 1] by user_row; `folds` for row 0.
    """
    hashed = f"md5_number_lower(concat_ws(',', {derive_seed(seed, 'collab', 'folds')}, user_id))"
    found = connection.sql(f'SELECT user_row, ({hashed} % {folds})::TINYINT AS fold FROM "user"').fetchnumpy()
    fold_of_user_U = np.full(len(found["user_row"]) + 1, folds, np.int8)
    fold_of_user_U[found["user_row"]] = found["fold"]
    return fold_of_user_U


def fit_collaborative(
    user_row_P: np.ndarray, item_row_P: np.ndarray, fold_of_user_U: np.ndarray, num_items: int, *, dim: int, seed: int,
    progress: Progress = SILENT,
) -> Collaborative:  # fmt: skip
    """Item vectors from train positives, once per fold without the fold's users and once from all.

    With R the 0/1 matrix of users and items and D_u, D_i its row and column sums, D_u^(−1/2) R D_i^(−1/2) ≈ U Σ Vᵀ
    (Dhillon, 2001: the relaxed normalised cut of the bipartite graph; used for recommendation by the graph filters of
    Shen et al., 2021). An item's vector is its row of V Σ, scaled to unit length: cosines of the matrix's columns after
    the best approximation of rank D (Halko et al., 2011, finds it).

    A user's own interactions change nothing that the vectors of its fold hold, as long as they do not decide the fold.

    Args:
        user_row_P: integer user rows, 1 to U.
        item_row_P: integer item rows, 1 to `num_items`. Pairs that repeat count once.
        fold_of_user_U: integer [U + 1], each user's fold from 0, and the number of folds for row 0; see `deal_users`.
        num_items: I.
        dim: D; taken down to what the matrix of the smallest fold allows, which `progress` is told.
        seed: Decides the random start of the factorisation.
        progress: Where to report.

    Raises:
        DataError: There are no positives, or a row number is out of range.
    """
    user_row_P, item_row_P = np.asarray(user_row_P), np.asarray(item_row_P)
    num_users, folds = len(fold_of_user_U) - 1, int(fold_of_user_U[0])
    _check(user_row_P, item_row_P, num_users, num_items)
    taken_UI = _matrix(user_row_P, item_row_P, num_users, num_items)
    limit = min(num_items, num_users - int(np.bincount(fold_of_user_U[1:]).max()))
    size = max(min(dim, limit), 1)
    if size < dim:
        progress.say(f"collaborative vectors: {size} dimensions instead of {dim}: the matrix has no more")
    item_FID = np.zeros((folds + 1, num_items + 1, size), np.float32)
    count_FI = np.zeros((folds + 1, num_items + 1), np.int32)
    kept_F = np.zeros(folds + 1, np.float32)
    with progress.task("collab", folds + 1, "folds") as task:
        for fold in range(folds + 1):
            part_UI = taken_UI[fold_of_user_U != fold] if fold < folds else taken_UI
            count_FI[fold] = part_UI.sum(axis=0)
            item_FID[fold], kept_F[fold] = _factorise(part_UI, size, seed)
            task.advance()
    return Collaborative(item_FID, count_FI, fold_of_user_U.astype(np.int8), kept_F)


def _check(user_row_P: np.ndarray, item_row_P: np.ndarray, num_users: int, num_items: int) -> None:
    if not len(user_row_P):
        raise DataError(
            "no positive train samples",
            code="no-positives",
            where="collab",
            hint="check dataset.label and dataset.split",
        )
    for name, row_P, size in (("user", user_row_P, num_users), ("item", item_row_P, num_items)):
        if row_P.min() < 1 or row_P.max() > size:
            raise DataError(
                f"{name} rows from {row_P.min()} to {row_P.max()}, but there are {size}",
                code="rows-out-of-range", where="collab",
                hint="run the recipe again with --force ingest",
            )  # fmt: skip


def _matrix(user_row_P: np.ndarray, item_row_P: np.ndarray, num_users: int, num_items: int) -> csr_matrix:
    """0/1, float32 [U + 1, I + 1]."""
    from scipy.sparse import csr_matrix

    ones_P = np.ones(len(user_row_P), np.float32)
    taken_UI = csr_matrix((ones_P, (user_row_P, item_row_P)), shape=(num_users + 1, num_items + 1))
    taken_UI.sum_duplicates()
    taken_UI.data[:] = 1
    return taken_UI


def _factorise(taken_UI: csr_matrix, dim: int, seed: int) -> tuple[np.ndarray, float]:
    """Unit rows of V Σ, float32 [I + 1, D], and the share of variance kept."""
    from sklearn.utils.extmath import randomized_svd

    vector_ID = np.zeros((taken_UI.shape[1], dim), np.float32)
    if taken_UI.nnz == 0:
        return vector_ID, 0.0
    scale_U, scale_I = (_inverse_root(taken_UI.sum(axis=axis)) for axis in (1, 0))
    normal_UI = taken_UI.multiply(scale_U[:, None]).multiply(scale_I[None]).tocsr()
    state = derive_seed(seed, "collab", "svd")
    _, value_D, axis_DI = randomized_svd(normal_UI, dim, n_iter=POWER_ITERATIONS, random_state=state)
    spread_ID = axis_DI.T * value_D
    length_I1 = np.linalg.norm(spread_ID, axis=1, keepdims=True)
    # Of an item that nobody took, only rounding errors are left.
    known_I1 = (scale_I[:, None] > 0) & (length_I1 > 1e-6)
    np.divide(spread_ID, length_I1, out=vector_ID[:, : len(value_D)], where=known_I1)
    return vector_ID, float((value_D**2).sum() / (normal_UI.data**2).sum())


def _inverse_root(total: np.ndarray) -> np.ndarray:
    """total^(−1/2), float32 [n]; 0 where there is nothing."""
    total_n = np.asarray(total, np.float32).ravel()
    return np.divide(1, np.sqrt(total_n), out=np.zeros_like(total_n), where=total_n > 0)
