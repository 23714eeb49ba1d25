"""No exact score may lie above what a product of short numbers promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.match.grid import on_grid
from llmcf_cli.match.product import Product


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([1, 3, 64, 768]), st.sampled_from([0.0, 1.0, 5.0]),
    st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_ceiling_holds(seed, dim, common, dtype):
    rng = np.random.default_rng(seed)
    draw = [torch.from_numpy((rng.standard_normal((n, dim)) + common).astype(np.float32)) for n in (7, 50)]
    (query, _), (example, _) = (
        on_grid(vector, shared=shared) for vector, shared in zip(draw, (False, True), strict=True)
    )
    product = Product(example, dtype)
    rough = query.to(dtype) @ product.vector_ED.T
    exact = query.double() @ example.double().T
    for column in range(50):
        assert (exact[:, column] <= product.at_most(query, rough[:, column])).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_score_has_no_ceiling(dtype):
    product = Product(torch.ones(3, 2) / 2, dtype)
    none = torch.full((4,), -torch.inf, dtype=dtype)
    assert torch.isneginf(product.at_most(torch.ones(4, 2) / 2, none)).all()


def test_the_bound_of_short_numbers_is_tight_enough_to_be_useful():
    """A bound of several hundredths would settle nothing among unit vectors."""
    rng = np.random.default_rng(1)
    vector = torch.from_numpy(rng.standard_normal((200, 768)).astype(np.float32))
    grid, _ = on_grid(torch.nn.functional.normalize(vector), shared=True)
    error = Product(grid, torch.bfloat16).error(grid) / torch.linalg.vector_norm(grid, dim=1) ** 2
    assert 1e-4 < float(error.max()) < 6e-3
