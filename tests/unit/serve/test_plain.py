"""What needs no conversion is what the readers would have made of it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcf_cli.core.errors import DataError
from llmcf_cli.serve.plain import LARGEST, plain_ids, plain_requests
from llmcf_cli.serve.requests import RequestForm, converted, to_lists, to_requests

TEXT = st.text(max_size=6) | st.sampled_from(
    ["nan", "NaN", "null", "None", "12.0", " a", "a\u00a0", "\ufeffx", "1e5", "[]", "\0"]
)
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ROWS = st.lists(
    st.fixed_dictionaries({"user_id": VALUE, "item_id": VALUE},
                          optional={"history": VALUE | st.lists(VALUE, max_size=3), "time": st.none(), "x": VALUE}),
    max_size=4,
)  # fmt: skip


@example([{"user_id": None, "item_id": "12.0"}, {"user_id": "+1.", "item_id": "a.0"}], "global")
@example([{"user_id": "-0.0", "item_id": "0.5", "history": ["7.00", "7"]}], "per_user")
@given(ROWS, st.sampled_from(["global", "per_user"]))
def test_the_plain_way_gives_what_the_readers_give_or_leaves_it_to_them(rows, clock):
    found = plain_requests(rows, clock == "per_user")
    if found is not None:
        assert found.equals(converted(rows, RequestForm(clock)))


@given(st.lists(st.lists(st.text(alphabet="ab1", min_size=1, max_size=3), max_size=3), min_size=1, max_size=4))
def test_plain_rows_take_the_plain_way(histories):
    rows = [{"user_id": 7, "item_id": "b", "history": history} for history in histories]
    found = plain_requests(rows, False)
    assert found["history"].to_pylist() == histories
    assert found["user_id"].to_pylist() == ["7"] * len(rows)
    assert to_requests(rows, RequestForm()).equals(converted(rows, RequestForm()))


@pytest.mark.parametrize("value", [" a", "", "nan", 1.0, True, LARGEST, -LARGEST, "a\0b", [1], {}, "\ud800"])
def test_what_takes_a_reader_is_left_to_it(value):
    assert plain_ids(["a", value]) is None
    assert plain_requests([{"user_id": "u", "item_id": value}], False) is None


def test_lists_share_what_is_the_users():
    rows = [{"user_id": 1, "candidates": ["a", "b"], "history": ["x"]}, {"user_id": "2", "candidates": [3.0, " c "]}]
    lists = to_lists(rows, RequestForm())
    assert lists.users["user_id"].to_pylist() == ["1", "2"]
    assert lists.users["history"].to_pylist() == [["x"], None]
    assert lists.item_ids == pa.array(["a", "b", "3", "c"])
    assert lists.list_N.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError):
        to_lists([{"user_id": 1, "candidates": ["a", " "]}], RequestForm())
