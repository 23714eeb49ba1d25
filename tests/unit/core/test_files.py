"""Only files and folders are read: no pipe, device or impossible path hangs or ends in a traceback."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.files import kind_of, read_json, read_small
from llmcf_cli.core.hashing import digest_path


def test_files_folders_and_nothing_are_told_apart(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    found = {name: kind_of(tmp_path / name) for name in ("", "file", "link", "dangling", "none", "file/below")}
    assert found == {"": "folder", "file": "file", "link": "file", "dangling": "nothing", "none": "nothing",
                     "file/below": "nothing"}  # fmt: skip


@pytest.fixture
def strange(tmp_path):
    """A folder of things that are neither file nor folder."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    return tmp_path


@pytest.mark.parametrize("name", ["pipe", "zero", "circle", "socket", "x" * 5_000, "a\0b", "/".join("y" * 5_000)])
def test_what_might_never_end_is_refused(strange, name):
    for read in (kind_of, digest_path):
        with pytest.raises(DataError) as caught:
            read(strange / name)
        assert len(str(caught.value.where)) < 300


def test_a_folder_that_holds_a_pipe_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.parquet").touch()
    digest_path(tmp_path / "data")
    os.mkfifo(tmp_path / "data" / "2.parquet")
    with refused("file-irregular", DataError):
        digest_path(Path(tmp_path / "data"))


def test_no_more_of_a_small_file_is_read_than_it_may_have(strange):
    (strange / "small").write_bytes(b"{}  ")
    assert read_small(strange / "small", 4) == b"{}  "
    assert read_json(strange / "small", 4) == {}
    with pytest.raises(StoreError, match="larger than 3 bytes"):
        read_small(strange / "small", 3, StoreError)
    for name in ("none", "", "pipe", "zero"):
        with pytest.raises(StoreError):
            read_small(strange / name, 4, StoreError)
    for content in (b"{", b"[" * 100_000, b"\xff"):
        (strange / "small").write_bytes(content)
        with pytest.raises(StoreError, match="not valid JSON"):
            read_json(strange / "small", 1 << 20, StoreError)
