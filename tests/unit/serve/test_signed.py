"""Signed bundles: who made one, and that it is what they made."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.rec.bundle.bundle import MANIFEST, save_bundle
from llmcf_cli.rec.bundle.signature import SIGNATURE, fingerprint, sign, signer
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, RankingConfig, TextConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.serve.scorer import Scorer

PEM, SSH = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
OPEN = serialization.NoEncryption()


def key_pair(folder, name, private=None, encryption=OPEN):
    """Files of a private and a public key."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    path = folder / name
    path.write_bytes(private.private_bytes(PEM, SSH, encryption))
    public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (folder / f"{name}.pub").write_bytes(public + b" maker@example\n")
    return path


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "bundle"
    model = RecModel(world.data.resources, DeepFMConfig(), TextConfig(), (BCEConfig(),), seed=4)
    save_bundle(folder, model, task=RankingConfig(), recipe={}, clock="global")
    return folder


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


def no_password() -> str:
    raise AssertionError


def test_a_signed_bundle_loads_for_those_who_trust_its_maker(bundle, tmp_path):
    mine, other = key_pair(tmp_path, "mine"), key_pair(tmp_path, "other")
    with refused("signature-missing", StoreError):
        Scorer.load(bundle, signers=tmp_path / "mine.pub")
    made = sign(bundle, MANIFEST, mine, no_password)
    trusted = tmp_path / "signers"
    trusted.write_text("# people\n\n" + (tmp_path / "other.pub").read_text() + (tmp_path / "mine.pub").read_text())
    Scorer.load(bundle, signers=trusted)
    Scorer.load(bundle)
    with pytest.raises(StoreError) as error:
        Scorer.load(bundle, signers=tmp_path / "other.pub")
    assert made in error.value.what
    assert sign(bundle, MANIFEST, other, no_password) != made
    Scorer.load(bundle, signers=tmp_path / "other.pub")


def test_the_fingerprint_is_that_of_ssh_keygen(bundle, tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    made = sign(bundle, MANIFEST, key_pair(tmp_path, "key"), no_password)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[1] == made == fingerprint(signer(bundle, MANIFEST) or "")


def test_a_changed_bundle_is_nobodys(bundle, tmp_path):
    sign(bundle, MANIFEST, key_pair(tmp_path, "key"), no_password)
    manifest = bundle / MANIFEST
    manifest.write_text(manifest.read_text().replace('"clock"', '"clock" '))
    for load in (lambda: signer(bundle, MANIFEST), lambda: Scorer.load(bundle, signers=tmp_path / "key.pub")):
        with pytest.raises(StoreError):
            load()


@pytest.mark.parametrize(
    "change",
    [{"signature": "AAAA"}, {"signature": "not base64"}, {"public_key": "ssh-ed25519 AAAA"}, {"public_key": 5},
     {"format": 2}, {"signature": None}],
)  # fmt: skip
def test_a_malformed_signature_is_refused(bundle, tmp_path, change):
    sign(bundle, MANIFEST, key_pair(tmp_path, "key"), no_password)
    file = bundle / SIGNATURE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(StoreError):
        signer(bundle, MANIFEST)
    for content in ("[]", "{", "[" * 30_000):
        file.write_text(content)
        with pytest.raises(StoreError):
            signer(bundle, MANIFEST)


def test_a_signature_of_another_bundle_is_none_of_this_one(bundle, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / MANIFEST).write_text("{}")
    sign(other, MANIFEST, key_pair(tmp_path, "key"), no_password)
    shutil.copy(other / SIGNATURE, bundle)
    with refused("signature-wrong", StoreError):
        signer(bundle, MANIFEST)


def test_keys_that_do_not_do(bundle, tmp_path):
    locked = key_pair(tmp_path, "locked", encryption=serialization.BestAvailableEncryption(b"right"))
    with pytest.raises(DataError):
        sign(bundle, MANIFEST, locked, lambda: "wrong")
    sign(bundle, MANIFEST, locked, lambda: "right")
    (tmp_path / "text").write_text("no key")
    rsa_key = key_pair(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    for path in (rsa_key, tmp_path / "text", tmp_path / "none", tmp_path / "locked.pub"):
        with pytest.raises(LlmcfError):
            sign(bundle, MANIFEST, path, no_password)
    (tmp_path / "empty").write_text("# nobody\n")
    with refused("signature-key", DataError):
        Scorer.load(bundle, signers=tmp_path / "empty")


def test_the_commands(bundle, tmp_path):
    key, run = key_pair(tmp_path, "key"), CliRunner().invoke
    assert "not signed" in run(app, ["bundle", "verify", str(bundle)]).output
    assert run(app, ["bundle", "sign", str(bundle), "--key", str(key)]).exit_code == 0
    assert "SHA256:" in run(app, ["bundle", "verify", str(bundle), "--signers", f"{key}.pub"]).output
    (bundle / "weights.safetensors").write_bytes(b"")
    assert isinstance(run(app, ["bundle", "verify", str(bundle), "--signers", f"{key}.pub"]).exception, StoreError)
