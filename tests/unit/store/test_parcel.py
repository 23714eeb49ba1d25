"""Parcels: packed and taken in unchanged; whatever is damaged, too much or points elsewhere is refused by name."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import shutil
import ssl
import struct
import threading
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import AccessError, AssetError, DataError, LlmcfError, StoreError
from llmcf_cli.core.hashing import digest_text
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store.parcel import MANIFEST, MAX_FILES, ParcelManifest, pack, read_parcel_manifest
from llmcf_cli.store.parcel_source import open_parcel, take_in
from llmcf_cli.store.shelf import list_parcels, read_index, shelf_of
from llmcf_cli.store.transfer import open_address

CONTENT = {"recipe.yaml": b"name: a\n", "recipe.lock.yaml": b"format: 1\n", "data/a.csv": b"u,i\n" * 1000,
           "llmcf/texts.parquet": bytes(range(256)) * 40, "empty": b""}  # fmt: skip


def packed(tmp_path: Path, target: str, content=CONTENT) -> Path:
    source = tmp_path / "source"
    files = {}
    for path, data in content.items():
        place = source / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        files[path] = ("recipe", place)
    pack(tmp_path / target, files, SILENT, name="a", description="", licence="", llmcf="1", lock="recipe.lock.yaml")
    return tmp_path / target


def content_of(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    found.pop(MANIFEST)
    return found


def manifest(**files) -> dict:
    listed = {path: {"part": "recipe", "sha256": digest_text(text), "size": len(text)} for path, text in files.items()}
    return {"format": 1, "name": "a", "description": "", "licence": "", "llmcf": "1", "lock": "lock", "files": listed}


def write_zip(file: Path, said: dict, members, **info) -> Path:
    """A zip by hand, with a manifest that is sound where pydantic lets it be."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        try:
            text = ParcelManifest.model_validate(said).text()
        except ValueError:
            text = json.dumps(said)
        archive.writestr(MANIFEST, text)
        for path, content in members:
            one = zipfile.ZipInfo(path)
            for name, value in info.items():
                setattr(one, name, value)
            archive.writestr(one, content)
    return file


@pytest.mark.parametrize("target", ["parcel", "parcel.zip"])
def test_what_is_packed_is_taken_in_unchanged(tmp_path, target):
    source = open_parcel(packed(tmp_path, target))
    take_in(source, tmp_path / "out", SILENT)
    assert content_of(tmp_path / "out") == CONTENT
    assert open_parcel(tmp_path / "out").manifest == source.manifest
    assert not list(tmp_path.glob(".*"))


def test_the_same_files_are_the_same_zip_and_have_the_folders_digest(tmp_path):
    one, two, folder = (packed(tmp_path, name) for name in ("1.zip", "2.zip", "folder"))
    assert one.read_bytes() == two.read_bytes()
    assert open_parcel(one).manifest.digest == open_parcel(folder).manifest.digest


@pytest.mark.parametrize("target", ["parcel", "parcel.zip"])
def test_nothing_is_overwritten(tmp_path, target):
    parcel = packed(tmp_path, target)
    with refused("target-taken", StoreError):
        packed(tmp_path, target)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with refused("target-taken", StoreError):
        take_in(open_parcel(parcel), tmp_path / "out", SILENT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_zip_is_refused(tmp_path, place, bit):
    whole = tmp_path / "whole.zip"
    if not whole.exists():
        packed(tmp_path, whole.name)
    content = bytearray(whole.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    with pytest.raises(LlmcfError):
        take_in(open_parcel(damaged), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()


def test_every_flipped_byte_of_a_folder_is_refused_with_the_files_name(tmp_path):
    small = {"recipe.lock.yaml": b"format: 1\n", "b/c": b"xyz"}
    parcel = packed(tmp_path, "parcel", small)
    for file in sorted(path for path in parcel.rglob("*") if path.is_file()):
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DataError, match=file.name) as caught:
                take_in(open_parcel(parcel), tmp_path / "out", SILENT)
            assert caught.value.code in ("parcel-changed", "parcel-invalid")
            shutil.rmtree(tmp_path / ".out.partial", ignore_errors=True)
        file.write_bytes(whole)
    take_in(open_parcel(parcel), tmp_path / "out", SILENT)


PATHS = ["/etc/passwd", "../up", "a/../../b", "a//b", "a/./b", "C:/x", "a\\b", "", "a\0b", "x" * 300, "manifest.JSON"]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_lead_elsewhere_are_no_manifest(tmp_path, path):
    said = manifest(**{"lock": "x", path: "x"})
    file = tmp_path / "p.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(MANIFEST, json.dumps(said))
    with pytest.raises(DataError) as caught:
        open_parcel(file)
    assert caught.value.code in ("parcel-invalid", "parcel-changed")


@pytest.mark.parametrize("files", [{"a": "", "a/b": ""}, {"a": "", "A": ""}])
def test_files_that_take_each_others_place_are_no_manifest(files):
    with pytest.raises(ValueError, match="collides"):
        ParcelManifest.model_validate(manifest(lock="x", **files))


def test_members_that_the_manifest_does_not_list_or_that_are_no_files_are_refused(tmp_path):
    said = manifest(lock="x", a="text")
    both = [("lock", "x"), ("a", "text")]
    cases = {
        "outside": ([*both, ("../../evil", "x")], {}),
        "further": ([*both, ("more", "x")], {}),
        "folder": ([*both, ("more/", "")], {}),
        "link": (both, {"external_attr": 0o120777 << 16}),
        "bzip2": (both, {"compress_type": zipfile.ZIP_BZIP2}),
        "size": ([("lock", "x"), ("a", "other text")], {}),
        "missing": ([("lock", "x")], {}),
    }
    for name, (members, info) in cases.items():
        with refused("parcel-changed", DataError):
            open_parcel(write_zip(tmp_path / f"{name}.zip", said, members, **info))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = write_zip(tmp_path / "twice.zip", said, [*both, ("a", "text")])
    with refused("parcel-changed", DataError):
        open_parcel(twice)
    with refused("parcel-changed", DataError, names="a"):
        take_in(open_parcel(write_zip(tmp_path / "text.zip", said, [("lock", "x"), ("a", "TEXT")])),
                tmp_path / "out", SILENT)  # fmt: skip


def test_a_zip_that_unpacks_to_more_than_it_says_is_stopped(tmp_path):
    """The size is that of the manifest in both lists, the content a thousand times as long."""
    said = manifest(lock="x", a="0" * 10)
    file = write_zip(tmp_path / "bomb.zip", said, [("lock", "x"), ("a", "0" * 10_000)])
    content = file.read_bytes().replace(struct.pack("<L", 10_000), struct.pack("<L", 10))
    file.write_bytes(content)
    with refused("parcel-changed", DataError):
        take_in(open_parcel(file), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()


def test_a_zip_with_too_many_members_is_refused_before_they_are_read(tmp_path):
    file = tmp_path / "many.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(MAX_FILES + 2):
            archive.writestr(str(number), "")
    with refused("file-limit", DataError):
        open_parcel(file)


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip at all", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_parcel_is_one_error(tmp_path, content):
    file = tmp_path / "p.zip"
    file.write_bytes(content)
    with pytest.raises(DataError):
        open_parcel(file)
    with refused("path-missing", DataError):
        open_parcel(tmp_path / "none.zip")
    (tmp_path / "folder").mkdir()
    with refused("path-missing", DataError):
        open_parcel(tmp_path / "folder")


def test_links_in_a_folder_are_refused(tmp_path):
    parcel = packed(tmp_path, "parcel")
    secret = tmp_path / "secret"
    (parcel / "data" / "a.csv").rename(secret)
    (parcel / "data" / "a.csv").symlink_to(secret)
    with refused("parcel-changed", DataError, names=r"a\.csv"):
        take_in(open_parcel(parcel), tmp_path / "out", SILENT)
    assert not list(tmp_path.glob(".*"))


PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(
    st.recursive(
        PLAIN,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    )
)
def test_any_other_json_is_no_manifest(data):
    with pytest.raises(DataError):
        read_parcel_manifest(json.dumps(data).encode(), "here")


# --- from a server ---


class Shown(http.server.SimpleHTTPRequestHandler):
    """A static server with ranges, which can cut answers short; it notes what was asked."""

    asked: list[tuple[str, str | None]]
    cut: int | None

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        begin = self.headers.get("Range")
        type(self).asked.append((self.path, begin))
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start = int(begin.removeprefix("bytes=").rstrip("-")) if begin else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if begin:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        most = type(self).cut
        self.wfile.write(content[start:] if most is None or file.name == MANIFEST else content[start : start + most])
        if most is not None and file.name != MANIFEST:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Key and certificate of 127.0.0.1, in one file, by the tests themselves."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=5))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return file


@contextmanager
def shown(folder: Path, certificate: Path, cut: int | None = None):
    """Address of a server of a folder, and what it was asked."""
    handler = type("Handler", (Shown,), {"asked": [], "cut": cut})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *given: handler(*given, directory=str(folder))
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def trusted(certificate, monkeypatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return certificate


def test_a_parcel_is_pulled_from_a_server(tmp_path, trusted):
    parcel = packed(tmp_path, "shown/parcel")
    digest = open_parcel(parcel).manifest.digest
    with shown(tmp_path / "shown", trusted) as (address, _):
        pinned = f"{address}/parcel#sha256={digest}"
        with refused("host-refused", AccessError):
            open_address(pinned, tmp_path / "work")
        Permissions().allow_host(Host.of(address), None)
        take_in(open_address(pinned, tmp_path / "work"), tmp_path / "out", SILENT)
    assert content_of(tmp_path / "out") == CONTENT


def test_an_index_is_read_from_a_server(tmp_path, trusted):
    packed(tmp_path, "shown/parcel")
    list_parcels(tmp_path / "shown")
    with shown(tmp_path / "shown", trusted) as (address, _):
        with refused("host-refused", AccessError):
            read_index(address)
        Permissions().allow_host(Host.of(address), None)
        assert read_index(f"{address}/index.yaml") == read_index(str(tmp_path / "shown"))
        one = read_index(address).parcels[0]
        take_in(open_address(f"{shelf_of(address)}/{one.folder}#sha256={one.sha256}", tmp_path / "work"),
                tmp_path / "out", SILENT)  # fmt: skip
    assert content_of(tmp_path / "out") == CONTENT


def test_a_pull_that_is_cut_off_goes_on_and_brings_no_byte_twice(tmp_path, trusted):
    parcel = packed(tmp_path, "shown/parcel")
    digest = open_parcel(parcel).manifest.digest
    sent = 3_000
    with shown(tmp_path / "shown", trusted, cut=sent) as (address, handler):
        Permissions().allow_host(Host.of(address), None)
        pinned = f"{address}/parcel#sha256={digest}"
        for _ in range(20):
            with suppress(AssetError):
                take_in(open_address(pinned, tmp_path / "work"), tmp_path / "out", SILENT)
                break
            assert not (tmp_path / "out").exists()
        asked = [one for one in handler.asked if MANIFEST not in one[0]]
    assert content_of(tmp_path / "out") == CONTENT
    texts = [begin for path, begin in asked if path.endswith("texts.parquet")]
    assert texts == [None, *(f"bytes={start}-" for start in range(sent, len(CONTENT["llmcf/texts.parquet"]), sent))]
    assert len([path for path, _ in asked if path.endswith("recipe.yaml")]) == 1


def test_another_parcel_at_the_address_and_an_address_without_digest_are_refused(tmp_path, trusted):
    parcel = packed(tmp_path, "shown/parcel")
    with shown(tmp_path / "shown", trusted) as (address, _):
        Permissions().allow_host(Host.of(address), None)
        with refused("parcel-other", DataError):
            open_address(f"{address}/parcel#sha256={'0' * 64}", tmp_path / "work")
        with refused("asset-unfetchable", AssetError):
            open_address(f"{address}/none#sha256={'0' * 64}", tmp_path / "work")
    for bare in (f"{address}/parcel", str(parcel), f"ftp://host/a#sha256={'0' * 64}"):
        with refused("parcel-unpinned"):
            open_address(bare, tmp_path / "work")
    with refused("parcel-other", DataError):
        open_address(f"{parcel}#sha256={'0' * 64}", tmp_path / "work")


def test_a_server_that_is_not_who_it_says_is_refused(tmp_path, certificate):
    parcel = packed(tmp_path, "shown/parcel")
    digest = open_parcel(parcel).manifest.digest
    with shown(tmp_path / "shown", certificate) as (address, _):
        Permissions().allow_host(Host.of(address), None)
        with refused("asset-unfetchable", AssetError):
            open_address(f"{address}/parcel#sha256={digest}", tmp_path / "work")


def test_a_file_that_was_changed_on_the_server_is_refused_with_its_name(tmp_path, trusted):
    parcel = packed(tmp_path, "shown/parcel")
    digest = open_parcel(parcel).manifest.digest
    (parcel / "data" / "a.csv").write_bytes(CONTENT["data/a.csv"].replace(b"u", b"x", 1))
    with shown(tmp_path / "shown", trusted) as (address, _):
        Permissions().allow_host(Host.of(address), None)
        with refused("parcel-changed", DataError, names=r"data/a\.csv"):
            take_in(open_address(f"{address}/parcel#sha256={digest}", tmp_path / "work"), tmp_path / "out", SILENT)
    assert not (tmp_path / "out").exists()
