"""What the user allows: hosts as a browser tells them apart, keys by their variable's name, places to read."""

import json
import os
import stat
import threading
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import AccessError, LlmcfError, StoreError
from llmcf_cli.core.permissions import READ_VARIABLE, Host, Permissions, Readable, check_readable, is_public


@pytest.fixture
def permissions(tmp_path):
    return Permissions(tmp_path / "config" / "permissions.json")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("api.example.com", "https://api.example.com"), ("API.Example.com:443", "https://api.example.com"),
        ("https://api.example.com/v1", "https://api.example.com"), ("api.example.com.", "https://api.example.com"),
        ("https://api.example.com:8443/v1?a=b", "https://api.example.com:8443"), ("localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"), ("[::1]:9", "http://[::1]:9"),
        ("http://gpu-box:8000", "http://gpu-box:8000"), ("192.0.2.7", "https://192.0.2.7"),
    ],
)  # fmt: skip
def test_hosts(address, shown):
    assert str(Host.of(address)) == shown
    assert Host.of(shown) == Host.of(address)


@pytest.mark.parametrize(
    "address",
    ["", " ", "https://", "ftp://a", "https://user:secret@api.example.com", "https://a b", "http://[::1", "a:99999",
     "https://api.example.com\\@evil.example", "https://a\x00b"],
)  # fmt: skip
def test_no_hosts(address):
    with pytest.raises(LlmcfError):
        Host.of(address)


@given(st.text(max_size=40) | st.from_regex(r"https?://[a-z0-9.@\[\]:\\/#?%-]{0,30}", fullmatch=True))
def test_a_host_is_the_one_that_a_client_asks(address):
    import httpx2

    try:
        host = Host.of(address)
        asked = httpx2.URL(str(host))
        given_url = httpx2.URL(address.strip() if "://" in address else str(host))
    except (LlmcfError, httpx2.InvalidURL):
        return
    assert (given_url.scheme, given_url.host.rstrip("."), given_url.port) == (asked.scheme, asked.host, asked.port)
    assert urlsplit(str(host)).hostname == host.name


@pytest.mark.parametrize(
    ("address", "here"),
    [("http://localhost:1", True), ("http://127.8.8.8", True), ("http://[::1]", True), ("http://0.0.0.0", False),
     ("http://localhost.evil.example", False), ("http://127.0.0.1.evil.example", False), ("http://2130706433", False)],
)  # fmt: skip
def test_this_machine_is_told_by_its_spelling(address, here):
    assert Host.of(address).is_this_machine is here


def test_a_key_goes_to_the_host_it_was_allowed_and_no_other(permissions, monkeypatch):
    monkeypatch.setenv("KEY_OF_A", "secret")
    permissions.allow_host(Host.of("a.example"), "KEY_OF_A")
    assert permissions.key_for("https://a.example/v1") == ("KEY_OF_A", "secret")
    assert permissions.key_for("http://localhost:8000") == (None, "")
    for other in ("https://a.example:444", "http://a.example", "https://b.a.example", "https://a.example.b"):
        with pytest.raises(AccessError):
            permissions.key_for(other)
    assert permissions.forget_host(Host.of("a.example"))
    assert not permissions.forget_host(Host.of("a.example"))
    with pytest.raises(AccessError):
        permissions.key_for("https://a.example/v1")


def test_keys_are_not_written_down_nor_sent_in_the_open(permissions, monkeypatch):
    monkeypatch.setenv("KEY", "secret")
    permissions.allow_host(Host.of("a.example"), "KEY")
    permissions.allow_host(Host.of("localhost:8000"), "KEY")
    permissions.allow_host(Host.of("http://gpu-box:8000"), None)
    for env in ("sk-secret", "", "A B"):
        with pytest.raises(LlmcfError):
            permissions.allow_host(Host.of("a.example"), env)
    with refused("host-insecure", LlmcfError):
        permissions.allow_host(Host.of("http://gpu-box:8000"), "KEY")
    assert "secret" not in permissions.file.read_text()
    assert stat.S_IMODE(permissions.file.stat().st_mode) == 0o600
    assert len(permissions.hosts()) == 3


def test_places_are_allowed_for_one_folder_of_recipes(permissions, tmp_path, monkeypatch):
    monkeypatch.delenv(READ_VARIABLE, raising=False)
    mine, theirs, data, other = (tmp_path / name for name in ("mine", "theirs", "data", "other"))
    for folder in (mine, theirs, data, other):
        folder.mkdir()
    permissions.allow_read(mine, data)
    permissions.allow_read(mine, data)
    assert permissions.folders(mine) == (data,)
    assert permissions.folders(theirs) == ()
    monkeypatch.setenv(READ_VARIABLE, f"{other}{os.pathsep}")
    assert permissions.folders(mine) == (data, other)
    assert permissions.folders(theirs) == (other,)
    assert permissions.reads() == {str(mine): (str(data),)}
    with refused("path-missing", LlmcfError):
        permissions.allow_read(mine, tmp_path / "none")
    assert permissions.forget_reads(mine)
    assert permissions.reads() == {}


def test_links_are_followed_before_a_place_is_judged(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x")
    (inside / "sub" / "fine").symlink_to(inside / "sub")
    check_readable(inside / "sub", Readable([inside]))
    (inside / "sub" / "link").symlink_to(outside / "secret")
    for path in (inside, inside / "sub", inside / "sub" / "link", inside / ".." / "out"):
        with pytest.raises(AccessError):
            check_readable(path, Readable([inside]))
        check_readable(path, Readable([inside, outside]))


def test_the_folder_around_is_read_but_for_what_is_hidden(tmp_path, monkeypatch):
    allowed = Readable([tmp_path / "recipes"], around=tmp_path)
    for name in ("data/clicks.csv", "recipes/.prompts/p.yaml", "data"):
        assert allowed.covers(tmp_path / name)
    for path in (tmp_path / ".ssh" / "id", tmp_path / "data" / ".env", tmp_path.parent / "other", tmp_path.parent):
        assert not allowed.covers(path)
    home = tmp_path / "users" / "me"
    (home / "theirs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for around in (home, home.parent, tmp_path):
        assert not Readable([home / "theirs"], around=around).covers(home / "taxes.csv")
    assert Readable([home / "theirs" / "recipes"], around=home / "theirs").covers(home / "theirs" / "data.csv")


@pytest.mark.parametrize(
    ("name", "public"),
    [("127.0.0.1", False), ("10.1.2.3", False), ("169.254.169.254", False), ("::1", False), ("::ffff:127.0.0.1", False),
     ("localhost", False), ("8.8.8.8", True), ("2606:4700::1111", True)],
)  # fmt: skip
def test_public_names(name, public):
    assert is_public(name) is public


def test_a_broken_file_is_named(permissions):
    permissions.file.parent.mkdir()
    for content in ("{", "[]", '{"format": 2}', "\xff"):
        permissions.file.write_text(content, encoding="latin-1")
        with pytest.raises(StoreError) as error:
            permissions.hosts()
        assert str(error.value.where) == str(permissions.file)


def test_threads_lose_nothing(permissions):
    hosts = [Host.of(f"h{i}.example") for i in range(24)]
    threads = [threading.Thread(target=permissions.allow_host, args=(host, None)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(permissions.hosts()) == sorted(hosts)
    assert json.loads(permissions.file.read_text())["format"] == 1
