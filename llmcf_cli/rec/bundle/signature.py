"""Who made a bundle: an Ed25519 signature of its manifest, whose digests cover every other file.

Keys are OpenSSH's, so that nobody needs a new one: `ssh-keygen -t ed25519` makes one, and a list of whom you trust is a
file in the form of `authorized_keys`, a public key a line. Signatures by RFC 8032, done by the library `cryptography`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError, PackageError, StoreError
from llmcf_cli.core.files import read_small

SIGNATURE = "bundle.sig"
_FORMAT = 1
_MOST_BYTES = 1 << 16
_PURPOSE = b"llmcf bundle 1\n"
"""Begins what is signed, so that a signature made for something else is none of a bundle's."""


def sign(bundle: Path, manifest: str, key_file: Path, password: Callable[[], str]) -> str:
    """Write `bundle.sig`, a signature of the bundle as it stands; an earlier one is replaced.

    Args:
        bundle: The folder.
        manifest: Name of the file in it that covers all others.
        key_file: An Ed25519 private key in OpenSSH's form.
        password: Asked only if the key has one.

    Returns:
        The key's fingerprint, as `ssh-keygen -l` shows it.

    Raises:
        DataError: The file holds no such key, or the password is wrong.
    """
    serialization, ed25519 = _library()
    data = read_small(key_file, _MOST_BYTES)
    try:
        try:
            key = serialization.load_ssh_private_key(data, None)
        except TypeError:  # it has a password
            key = serialization.load_ssh_private_key(data, password().encode())
    except Exception as error:  # the library's own, of several kinds
        raise DataError(f"not a private key in OpenSSH format: {error}", code="signature-key", where=str(key_file),
                        hint="ssh-keygen -t ed25519") from error  # fmt: skip
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise DataError("not an Ed25519 key", code="signature-key", where=str(key_file), hint="ssh-keygen -t ed25519")
    public = _line(key.public_key())
    signature = base64.b64encode(key.sign(_signed(bundle / manifest))).decode()
    content = {"format": _FORMAT, "public_key": public, "signature": signature}
    fresh = bundle / f".{SIGNATURE}.new"
    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
    fresh.replace(bundle / SIGNATURE)
    return fingerprint(public)


def signer(bundle: Path, manifest: str) -> str | None:
    """The public key that a bundle is signed with, as a line in OpenSSH's form; None where it is not signed.

    Raises:
        StoreError: There is a signature, and it is none of this bundle as it stands.
    """
    file = bundle / SIGNATURE
    if not file.is_file():
        return None
    serialization, ed25519 = _library()
    try:
        content: Any = json.loads(read_small(file, _MOST_BYTES))
        public, signature = content["public_key"], base64.b64decode(content["signature"], validate=True)
        key = serialization.load_ssh_public_key(public.encode())
        if content["format"] != _FORMAT or not isinstance(key, ed25519.Ed25519PublicKey):
            raise ValueError("another format or kind of key")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        raise StoreError(
            f"not a valid signature: {error}", code="signature-malformed", where=str(file), hint="llmcf bundle sign"
        ) from error
    try:
        key.verify(signature, _signed(bundle / manifest))
    except Exception as error:
        raise StoreError("the signature does not match the bundle: the bundle was changed, or signed by someone else",
                         code="signature-wrong", where=str(file),
                         hint="copy the bundle again, or ask who made it") from error  # fmt: skip
    return _line(key)


def check_signer(bundle: Path, manifest: str, trusted: Path) -> str:
    """Check that a bundle is signed by one of the keys in a file; the fingerprint of the one.

    Raises:
        StoreError: It is not signed, by somebody else, or changed since.
        DataError: The file lists no key.
    """
    lines = read_small(trusted, _MOST_BYTES).decode("utf-8", "replace").splitlines()
    listed = {" ".join(line.split()[:2]) for line in lines if line.strip() and not line.startswith("#")}
    if not listed:
        raise DataError(
            "contains no public key",
            code="signature-key",
            where=str(trusted),
            hint="write public keys into it, one per line",
        )
    found = signer(bundle, manifest)
    if found is None:
        raise StoreError(
            "not signed",
            code="signature-missing",
            where=str(bundle),
            hint="ask who made it, or load it without --signers",
        )
    if found not in listed:
        raise StoreError(f"is signed by {fingerprint(found)}, who is not among the signers in {trusted}",
                         code="signature-untrusted", where=str(bundle),
                         hint="add its public key to the file if you trust it")  # fmt: skip
    return fingerprint(found)


def fingerprint(public: str) -> str:
    """`SHA256:…` of a public key's line, as `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _signed(manifest: Path) -> bytes:
    return _PURPOSE + hashlib.sha256(manifest.read_bytes()).hexdigest().encode()


def _line(key: Any) -> str:
    serialization, _ = _library()
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    line: bytes = key.public_bytes(*form)
    return " ".join(line.decode().split()[:2])


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise PackageError("cryptography", where=SIGNATURE) from error
    return serialization, ed25519
