"""Folders of parcels: the list says what is there, whoever reads it, and a wrong one is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store.parcel import pack
from llmcf_cli.store.parcel_source import open_parcel
from llmcf_cli.store.shelf import INDEX, Listed, list_parcels, read_index, shelf_of

ZEROS = "0" * 64
GOOD = {"folder": "a-1", "sha256": ZEROS, "name": "a", "size": 3}


def packed(folder, name, description="", licence="CC0"):
    (folder / "r.yaml").write_text(f"name: {name}\n")
    files = {"r.yaml": ("recipe", folder / "r.yaml"), "r.lock.yaml": ("recipe", folder / "r.yaml")}
    return pack(folder / "shelf" / name, files, SILENT, name=name, description=description, licence=licence,
                llmcf="1.0", lock="r.lock.yaml")  # fmt: skip


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "shelf").mkdir()
    for name, description in (("shop", "Recommends: 'wine', {x} and #tea"), ("films", "")):
        packed(tmp_path, name, description)
    return tmp_path / "shelf"


def test_the_list_is_what_the_manifests_say(shelf):
    (shelf / "no-parcel").mkdir()
    assert list_parcels(shelf) == shelf / INDEX
    found = {one.folder: one for one in read_index(str(shelf)).parcels}
    assert set(found) == {"shop", "films"}
    for name, one in found.items():
        manifest = open_parcel(shelf / name).manifest
        assert one == Listed(folder=name, sha256=manifest.digest, name=name, description=manifest.description,
                             licence="CC0", size=manifest.size)  # fmt: skip
    assert not list(shelf.glob(".*"))


def test_the_address_may_name_the_file(shelf):
    list_parcels(shelf)
    assert read_index(f"{shelf}/{INDEX}") == read_index(f"{shelf}/") == read_index(str(shelf))
    assert shelf_of(f"{shelf}/{INDEX}") == shelf_of(f"{shelf}//") == str(shelf)


@pytest.mark.parametrize("changed", [
    {"folder": "../elsewhere"}, {"folder": "a/b"}, {"folder": ".."}, {"folder": ""}, {"folder": "a\n"},
    {"sha256": "0"}, {"size": -1}, {"name": None}, {"more": 1},
])  # fmt: skip
def test_what_no_index_says_is_refused(tmp_path, changed):
    (tmp_path / INDEX).write_text(json.dumps({"format": 1, "parcels": [GOOD, GOOD | changed]}))
    with refused("index-invalid", DataError):
        read_index(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{{", "format: 2", "format: 1\nparcels: 5", "a: &a [*a]", "\x00", "é"])
def test_what_is_no_index_is_refused(tmp_path, text):
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with refused("index-invalid", DataError):
        read_index(str(tmp_path))


def test_where_there_is_none(tmp_path):
    with refused("path-missing", DataError):
        read_index(str(tmp_path))
    with refused("index-address", LlmcfError):
        read_index("ftp://example.org/x")


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_foreign_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "index"
    folder.mkdir(exist_ok=True)
    (folder / INDEX).write_bytes(content)
    with contextlib.suppress(DataError):
        read_index(str(folder))
