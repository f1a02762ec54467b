"""Signed bundles: what is accepted, and every way to be refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from svfap_edge.bundle import Bundle, record_quality
from svfap_edge.errors import BundleError, ConfigError
from svfap_edge.runtimes import Engine
from svfap_edge.signature import SIGNATURE, sign

from .cli.test_commands import call, refused

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")


def make_key(folder: Path, name: str, passphrase: str = "") -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    how = serialization.NoEncryption()
    if passphrase:
        how = serialization.BestAvailableEncryption(passphrase.encode())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(pem, pkcs8, how))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, info))
    return private, public


@pytest.fixture
def signed(tmp_path: Path, tiny: Bundle) -> tuple[Path, Path]:
    """A signed bundle, and the public key."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny.path, bundle)
    private, public = make_key(tmp_path, "ours")
    assert call("sign", bundle, "--key", private).exit_code == 0
    return bundle, public


def test_a_signed_bundle_runs(signed: tuple[Path, Path], video: Path) -> None:
    bundle, key = signed
    assert Bundle.open(bundle, require_signature=key).signed_by == key
    with Engine.load(bundle, require_signature=key):
        pass
    with Engine.load(Bundle.open(bundle), require_signature=key):
        pass
    assert "signed" in call("inspect", bundle, "--require-signature", key).stdout
    assert len((bundle / SIGNATURE).read_bytes()) == 64
    found = call("run", video, "--bundle", bundle, "--detector", "none", "--require-signature", key)
    assert found.exit_code == 0, found.output


def test_openssl_agrees(signed: tuple[Path, Path]) -> None:
    bundle, key = signed
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    words = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin"]
    words += ["-in", bundle / "manifest.json", "-sigfile", bundle / SIGNATURE]
    assert subprocess.run(words, capture_output=True).returncode == 0


def test_what_is_altered_missing_or_foreign_is_refused_by_every_command(
    signed: tuple[Path, Path], tmp_path: Path, video: Path, tiny: Bundle
) -> None:
    bundle, key = signed
    other = make_key(tmp_path, "other")[1]
    altered = tmp_path / "altered"
    shutil.copytree(bundle, altered)
    content = json.loads((altered / "manifest.json").read_text())
    content["name"] = "another"
    (altered / "manifest.json").write_text(json.dumps(content))
    short = tmp_path / "short"
    shutil.copytree(bundle, short)
    (short / SIGNATURE).write_bytes((bundle / SIGNATURE).read_bytes()[:63])
    cases = [
        (altered, key, "was not signed by"),
        (bundle, other, "was not signed by"),
        (short, key, "was not signed by"),
        (tiny.path, key, "is not signed"),
    ]
    data = tmp_path / "data"
    data.mkdir()
    for folder, public, words in cases:
        required = ("--require-signature", public)
        for command in (
            ("run", video, "--bundle", folder),
            ("inspect", folder),
            ("evaluate", folder, "--data", data),
            ("benchmark", folder),
            ("benchmark-cameras", video, folder, "--detector", "none"),
        ):
            assert words in refused(2, *command, *required), command
        with pytest.raises(BundleError, match=words):
            Engine.load(folder, require_signature=public)
        with pytest.raises(BundleError, match=words):
            Engine.load(Bundle.open(folder), require_signature=public)


def test_the_environment_requires_it_too(
    signed: tuple[Path, Path], tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVFAP_EDGE_REQUIRE_SIGNATURE", str(signed[1]))
    assert call("inspect", signed[0]).exit_code == 0
    assert "is not signed" in refused(2, "inspect", tiny.path)


def test_files_are_part_of_what_is_signed(signed: tuple[Path, Path]) -> None:
    """The manifest holds their digests."""
    bundle, key = signed
    file = bundle / "fp32.onnx"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(BundleError, match="altered"):
        Engine.load(bundle, artifact="fp32.onnx", require_signature=key)
    assert "altered" in refused(2, "sign", bundle, "--key", key)


def test_figures_are_not_recorded_in_a_signed_bundle(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle, key = signed
    with pytest.raises(BundleError, match="is signed"):
        record_quality(Bundle.open(bundle), {})
    assert "is signed" in refused(2, "evaluate", bundle, "--data", tmp_path, "--record")
    Bundle.open(bundle, require_signature=key)


def test_a_key_with_a_passphrase(tmp_path: Path, tiny: Bundle) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny.path, bundle)
    private, public = make_key(tmp_path, "secret", "swordfish")
    sign(bundle, private, lambda: "swordfish")
    Bundle.open(bundle, require_signature=public)
    with pytest.raises(ConfigError, match="passphrase"):
        sign(bundle, private, lambda: "no")


def test_keys_that_are_none(tmp_path: Path, tiny: Bundle, signed: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    curve = tmp_path / "curve.pem"
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    curve.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    (tmp_path / "text.pem").write_text("no key")
    for path, words in (
        (curve, "no Ed25519 key"), (tmp_path / "text.pem", "no public key in PEM"),
        (tmp_path / "none.pem", "cannot be read"), (tmp_path / "ours.pem", "no public key"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            Bundle.open(signed[0], require_signature=path)
    with pytest.raises(ConfigError, match="no private key"):
        sign(signed[0], signed[1], lambda: "")
