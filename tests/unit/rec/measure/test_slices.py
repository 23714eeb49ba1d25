"""Cold-start slices are what their names say, judged by train rows only."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.measure.ranking import AUC
from llmcf_cli.rec.measure.slices import LEAST, cold_start_slices, slice_values, too_small


def samples(user, item, label, lengths) -> Samples:
    history = np.zeros((len(user), 5), np.int32)
    for row, length in enumerate(lengths):
        history[row, :length] = 1
    number = np.arange(len(user))
    return Samples(
        sample_id_N=number.astype(np.int64), user_row_N=np.array(user, np.int32), item_row_N=np.array(item, np.int32),
        label_N=np.array(label, np.float32), time_N=number.astype(np.int64), history_row_NL=history,
    )  # fmt: skip


def test_slices_follow_train_counts_and_history_lengths():
    train = samples([1, 1, 1, 2, 2, 2, 2], [1, 1, 2, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1, 1], [0] * 7)
    test = samples([1, 3, 2, 2], [1, 1, 2, 9], [1, 0, 1, 0], [4, 3, 0, 5])
    found = {name.split(" (")[0]: mask.tolist() for name, mask in cold_start_slices(train, test).items()}
    assert found["new users"] == [False, True, False, False]
    # Item 2 has a negative in train only, which chance may have put there.
    assert found["new items"] == [False, False, True, True]
    assert found["short histories"] == [False, True, True, False]
    assert found["long histories"] == [True, False, False, True]
    assert "rare items" not in found  # no test sample is of one


def test_pairs_are_split_where_some_are_repeated():
    train = samples([1, 1, 2], [1, 2, 1], [1, 0, 1], [0] * 3)
    test = samples([1, 1, 2, 3], [1, 2, 1, 1], [1, 0, 1, 0], [0] * 4)
    found = {name.split(" (")[0]: mask.tolist() for name, mask in cold_start_slices(train, test).items()}
    assert found["repeated pairs"] == [
        True,
        False,
        True,
        False,
    ]  # user 1 was shown item 2 in train, and did not take it
    assert found["first pairs"] == [False, True, False, True]
    assert "repeated pairs" not in {n.split(" (")[0] for n in cold_start_slices(train, samples([3], [1], [1], [0]))}


def test_auc_of_a_slice_needs_enough_of_both_labels():
    rng = np.random.default_rng(0)
    label = (np.arange(400) % 2).astype(np.float32)
    logit = (label + rng.normal(size=400)).astype(np.float32)
    half, few = np.arange(400) < 200, np.arange(400) < 2 * LEAST - 1
    truth = Truth(label, np.zeros(400, np.int32))
    found = slice_values(AUC(), logit, truth, {"half": half, "few": few})
    small = too_small(AUC(), truth, {"half": half, "few": few})
    assert small == {"few": {"positive samples": LEAST - 1, "negative samples": LEAST}}
    assert found == {"half": pytest.approx(roc_auc_score(label[half], logit[half]))}
