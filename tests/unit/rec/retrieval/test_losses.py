"""Losses against plain computations, and sampled ones against full ones in expectation."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import retrieval_world
import torch
from refusals import refused

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.plugin import registry
from llmcf_cli.rec.retrieval.losses import RETRIEVAL_LOSS, Asked

ITEMS, PAIRS, DIM = 12, 6, 4


@pytest.fixture
def asked():
    """Six pairs over items 1 … 12, of which 4 and 9 are no targets in train."""
    torch.manual_seed(0)
    table = torch.randn(ITEMS + 1, DIM, dtype=torch.float64, requires_grad=True)
    user = torch.randn(PAIRS, DIM, dtype=torch.float64, requires_grad=True)
    known = torch.tensor([i for i in range(1, ITEMS + 1) if i not in (4, 9)])
    target = torch.tensor([1, 2, 2, 5, 12, 2])
    share = torch.zeros(ITEMS + 1, dtype=torch.float64)
    share[target] = torch.tensor([Counter(target.tolist())[t] / PAIRS for t in target.tolist()], dtype=torch.float64)
    return Asked(user, target, lambda rows: table[rows], known, share)


def loss(name, **settings):
    return registry().build(RETRIEVAL_LOSS, retrieval_world.default("objective", name, **settings))


def scores(asked):
    return (asked.user_MD @ asked.items(torch.arange(ITEMS + 1)).T).tolist()


def test_softmax_is_over_the_items_of_train(asked):
    total = 0.0
    for row, target in zip(scores(asked), asked.target_M.tolist(), strict=True):
        total += math.log(sum(math.exp(row[item]) for item in asked.known_K.tolist())) - row[target]
    assert loss("softmax")(asked).item() == pytest.approx(total / PAIRS)


def test_with_logq_the_drawn_sum_is_that_over_all_others_in_expectation(asked):
    made = loss("sampled_softmax", negatives=5, logq=True)
    one = Asked(asked.user_MD[:1], asked.target_M[:1], asked.items, asked.known_K, asked.share_I)
    row, target = scores(asked)[0], asked.target_M[0].item()
    expected = sum(math.exp(row[item]) for item in asked.known_K.tolist() if item != target)
    torch.manual_seed(1)
    with torch.no_grad():
        found = [math.exp(made(one).item() + row[target]) - math.exp(row[target]) for _ in range(20_000)]
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / math.sqrt(len(found)))


@pytest.mark.parametrize("logq", [False, True])
def test_draws_in_the_batch_are_its_targets_by_their_share(asked, logq):
    torch.manual_seed(6)
    found = loss("sampled_softmax", negatives=7, in_batch=True, logq=logq)(asked).item()
    torch.manual_seed(6)
    targets = asked.target_M.tolist()
    drawn = [targets[place] for place in torch.randint(PAIRS, (7,)).tolist()]
    share = {target: count / PAIRS for target, count in Counter(targets).items()}
    total = 0.0
    for row, target in zip(scores(asked), targets, strict=True):
        others = [math.exp(row[item]) / (7 * share[item] if logq else 1) for item in drawn if item != target]
        total += math.log(math.exp(row[target]) + sum(others)) - row[target]
    assert found == pytest.approx(total / PAIRS)


def test_many_draws_with_logq_are_the_full_softmax(asked):
    torch.manual_seed(2)
    found = loss("sampled_softmax", negatives=60_000, logq=True)(asked)
    assert found.item() == pytest.approx(loss("softmax")(asked).item(), abs=0.01)


def test_without_logq_drawn_items_count_as_they_are(asked):
    torch.manual_seed(4)
    found = loss("sampled_softmax", negatives=7)(asked).item()
    torch.manual_seed(4)
    drawn = asked.known_K[torch.randint(len(asked.known_K), (7,))].tolist()
    total = 0.0
    for row, target in zip(scores(asked), asked.target_M.tolist(), strict=True):
        parts = [math.exp(row[target]), *(math.exp(row[item]) for item in drawn if item != target)]
        total += math.log(sum(parts)) - row[target]
    assert found == pytest.approx(total / PAIRS)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sampled_bce", {"negatives": 1}), ("sampled_bce", {"negatives": 3}),
     *(("gbce", {"negatives": 3, "calibration": t}) for t in (0, 0.75, 1))],
)  # fmt: skip
def test_binary_losses_are_those_of_the_papers(asked, name, settings):
    n = settings["negatives"]
    torch.manual_seed(5)
    found = loss(name, **settings)(asked).item()
    torch.manual_seed(5)
    drawn = asked.known_K[torch.randint(len(asked.known_K), (PAIRS, n))].tolist()
    alpha, t = n / (len(asked.known_K) - 1), settings.get("calibration", 0)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    sigmoid = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731
    total = 0.0
    for row, target, others in zip(scores(asked), asked.target_M.tolist(), drawn, strict=True):
        total -= math.log(sigmoid(row[target]) ** beta)
        total -= sum(math.log(1 - sigmoid(row[item])) for item in others if item != target)
    assert found == pytest.approx(total / PAIRS / (n + 1))


@pytest.mark.parametrize("name", ["softmax", "sampled_softmax", "sampled_bce", "gbce"])
def test_a_gradient_reaches_users_and_items(name):
    torch.manual_seed(0)
    table = torch.randn(ITEMS + 1, DIM, requires_grad=True)
    user = torch.randn(PAIRS, DIM, requires_grad=True)
    target, share = torch.tensor([1, 2, 2, 5, 12, 2]), torch.full((ITEMS + 1,), 0.1)
    asked = Asked(user, target, lambda rows: table[rows], torch.arange(1, ITEMS + 1), share)
    for part in torch.autograd.grad(loss(name)(asked), [user, table]):
        assert torch.isfinite(part).all()
        assert part.abs().sum() > 0


def test_losses_of_labels_are_refused():
    from llmcf_cli.rec.retrieval.config import RetrievalConfig

    assert not RetrievalConfig().takes(retrieval_world.default("objective", "bce"))
    assert not RetrievalConfig().takes(retrieval_world.default("backbone", "deepfm"))
    assert RetrievalConfig().takes(retrieval_world.default("augmenter", "none"))
    with refused("unknown-name", LlmcfError):
        registry().get("objective", "softmaxx")
