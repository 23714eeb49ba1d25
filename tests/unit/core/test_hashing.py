"""Digests are stable names: pinned by literals, indifferent to order, sensitive to content."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.core.hashing import digest_file, digest_json, digest_path, digest_text

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8,
)  # fmt: skip


def test_pinned():
    assert digest_text("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (
        digest_json({"b": [1, 2.5, None], "a": "é"})
        == hashlib.sha256('{"a":"é","b":[1,2.5,null]}'.encode()).hexdigest()
    )


@given(st.dictionaries(st.text(max_size=3), plain, max_size=5))
def test_the_order_of_keys_does_not_count(data):
    assert digest_json(data) == digest_json(dict(reversed(data.items())))


@given(plain, plain)
def test_equal_digests_mean_equal_data(left, right):
    same = repr(left) == repr(right) or left == right
    assert (digest_json(left) == digest_json(right)) <= same


def test_what_is_no_json_is_refused():
    with pytest.raises(ValueError):
        digest_json({"a": float("nan")})
    with pytest.raises(TypeError):
        digest_json({"a": object()})


def test_files_and_folders(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"")
    assert digest_file(tmp_path / "sub/a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert digest_path(tmp_path / "b") == digest_text("")
    before = digest_path(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert digest_path(tmp_path) != before, "a file's name counts"
    (tmp_path / "c").rename(tmp_path / "b")
    assert digest_path(tmp_path) == before
    (tmp_path / "sub/a").write_bytes(b"y")
    assert digest_path(tmp_path) != before, "its bytes count"
