"""Who made a bundle: an Ed25519 signature over its manifest, which holds the digest of every file.

The signature is the 64 bytes of RFC 8032 over the bytes of `manifest.json`, in `manifest.sig`
beside it. So OpenSSL checks it, too:

    openssl pkeyutl -verify -pubin -inkey PUBLIC.pem -rawin -in manifest.json -sigfile manifest.sig
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import written_whole
from .errors import BundleError, ConfigError, DependencyMissing
from .manifest import MANIFEST

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE = "manifest.sig"
"""Name of the file in a bundle that holds the signature of its manifest."""

MAX_KEY_BYTES = 1 << 16


def check_signature(folder: Path, written: bytes, key: str | os.PathLike[str]) -> None:
    """Check that the holder of a key signed a manifest.

    Args:
        folder: Folder of the bundle, with the signature.
        written: The bytes of the manifest, as they are parsed.
        key: File of an Ed25519 public key in PEM.

    Raises:
        BundleError: it is not signed, was signed by another key, or was altered since.
        ConfigError: the file is no Ed25519 public key.
        DependencyMissing: the package `cryptography` is not installed.
    """
    from_pem = _serialization().load_pem_public_key
    public: Ed25519PublicKey = _key(key, "public", from_pem, "Ed25519PublicKey")
    try:
        signature = (folder / SIGNATURE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"Bundle '{folder}' is not signed (no {SIGNATURE}), and a signature by '{key}' is "
            "required. Get a signed bundle, or sign it: svfap-edge sign BUNDLE --key PRIVATE.pem"
        ) from error
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, written)
    except InvalidSignature as error:
        raise BundleError(
            f"Bundle '{folder}' was not signed by '{key}': its manifest was altered after it was "
            "signed, or another key signed it. Get it from its maker again; do not use this one."
        ) from error


def sign(folder: Path, key: str | os.PathLike[str], passphrase: Callable[[], str]) -> Path:
    """Sign the manifest of a bundle; returns the signature's file. It is of the manifest as it is:
    check the bundle first.

    Args:
        folder: Folder of the bundle.
        key: File of an Ed25519 private key in PEM.
        passphrase: Called if the key is encrypted.

    Raises:
        BundleError: the manifest cannot be read, or the signature cannot be written.
        ConfigError: the file is no Ed25519 private key, or its passphrase is another.
        DependencyMissing: the package `cryptography` is not installed.
    """
    from_pem = _serialization().load_pem_private_key

    def load(content: bytes) -> Any:
        try:
            return from_pem(content, None)
        except TypeError:  # it is encrypted
            return from_pem(content, passphrase().encode())

    private: Ed25519PrivateKey = _key(key, "private", load, "Ed25519PrivateKey")
    try:
        written = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"'{folder / MANIFEST}' cannot be read: {error.strerror}.") from error
    signature = private.sign(written)
    with written_whole(folder / SIGNATURE, BundleError) as part:
        part.write_bytes(signature)
    return folder / SIGNATURE


def _key(path: str | os.PathLike[str], kind: str, load: Callable[[bytes], Any], wanted: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with open(path, "rb") as file:
            found = load(file.read(MAX_KEY_BYTES))
    except OSError as error:
        raise ConfigError(f"The key '{path}' cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"'{path}' is no {kind} key in PEM, or its passphrase is another. {_MAKE[kind]}"
        ) from error
    if wanted not in [each.__name__ for each in type(found).__mro__]:
        raise ConfigError(f"'{path}' is no Ed25519 key. {_MAKE[kind]}")
    return found


_MAKE = {
    "private": "Make one: openssl genpkey -algorithm ed25519 -out PRIVATE.pem",
    "public": "Take it from the private one: openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem",
}


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise DependencyMissing(
            "Signatures need 'cryptography': pip install \"svfap-edge[sign]\""
        ) from error
    return serialization
