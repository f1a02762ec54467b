"""The bundle: a folder with a model's artifacts and `manifest.json`, the only truth about them.

A bundle is checked before any engine sees its bytes. Writing one is atomic: it appears complete,
or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .atomic import folder_written_whole, written_whole
from .cache import cache_root
from .errors import BundleError, SvfapError
from .manifest import MANIFEST, Artifact, ArtifactFile, Manifest, parse_manifest
from .signature import SIGNATURE, check_signature

__all__ = [
    "DEFAULT_BUNDLE",
    "Artifact",
    "ArtifactFile",
    "Bundle",
    "Manifest",
    "check_target",
    "check_unsigned",
    "describe_file",
    "digest",
    "find_bundle",
    "parse_manifest",
    "record_quality",
    "write_manifest",
    "writing",
]

DEFAULT_BUNDLE = Path(__file__).parent / "models" / "lite-faces"
"""The model that ships with the package."""


def find_bundle(path: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a bundle. None, or the name "lite-faces" where no folder has it, stands for the
    model in the package: or, where `svfap-edge build` made more artifacts of that model for this
    machine, for the bundle in the cache that holds them too."""
    named = path is not None and os.fspath(path) == DEFAULT_BUNDLE.name
    if path is not None and not (named and not os.path.exists(path)):
        return Path(path)
    built = built_default()
    return built if built is not None and _holds(built, DEFAULT_BUNDLE) else DEFAULT_BUNDLE


def built_default() -> Path | None:
    """Where `svfap-edge build` puts what it makes of the model in the package; None without a
    cache."""
    root = cache_root()
    return None if root is None else root / "models" / DEFAULT_BUNDLE.name


def _holds(built: Path, original: Path) -> bool:
    """Whether a bundle has every artifact of another, unchanged: that one may be newer by now."""
    try:
        files = [
            {name: artifact.files for name, artifact in each.manifest.artifacts.items()}
            for each in (Bundle.open(built), Bundle.open(original))
        ]
    except BundleError:
        return False
    return files[1].items() <= files[0].items()


def _whole(file: BinaryIO) -> bytes:
    return file.read()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


class Bundle:
    """A verified bundle on disk.

    Attributes:
        path: Folder of the bundle.
        manifest: What it says of itself.
        signed_by: File of the public key that its signature was checked with, or None.

    >>> bundle = Bundle.open(DEFAULT_BUNDLE)
    >>> bundle.path_of("fp32.onnx").name
    'fp32.onnx'
    """

    def __init__(
        self, path: Path, manifest: Manifest, written: bytes = b"", signed_by: Path | None = None
    ) -> None:
        """`written` are the bytes of the manifest's file, which the key `signed_by` signed."""
        self.path = path
        self.manifest = manifest
        self.signed_by = signed_by
        self._written = written

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        require_signature: str | os.PathLike[str] | None = None,
    ) -> Bundle:
        """Read and check the manifest of a bundle; see `find_bundle` for what has no path.

        The digest of an artifact is checked when it is asked for, by `verify`.

        Args:
            path: Folder of the bundle.
            require_signature: File of an Ed25519 public key in PEM. The manifest, and with it the
                digest of every file, has to be signed by its owner; see `signature`.

        Raises:
            BundleError: There is no bundle, or its manifest is damaged, of a newer format, names
                files outside the folder, or lacks the signature.
            ConfigError: The key is no Ed25519 public key.
            DependencyMissing: Signatures need the package `cryptography`.
        """
        folder = find_bundle(path)
        file = folder / MANIFEST
        if not os.path.isfile(file):
            raise BundleError(
                f"No bundle at '{folder}': it has no {MANIFEST}. "
                "Make one with: svfap-edge export CHECKPOINT --task TASK -o DIR"
            )
        try:
            written = file.read_bytes()
        except OSError as error:
            raise BundleError(f"'{file}' cannot be read: {error.strerror}.") from error
        if require_signature is not None:
            check_signature(folder, written, require_signature)
        try:
            content = json.loads(written.decode("utf-8"))
            # "\ud800" is JSON, but no text: it could be neither printed nor written.
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except (ValueError, RecursionError) as error:
            raise BundleError(
                f"'{file}' is not readable JSON ({error}). Export the bundle again."
            ) from error
        key = None if require_signature is None else Path(require_signature)
        return cls(folder, parse_manifest(content, str(file)), written, key)

    def artifact(self, name: str) -> Artifact:
        """The artifact of a name.

        Raises:
            BundleError: There is none of that name; the message lists those there are.
        """
        if name not in self.manifest.artifacts:
            raise BundleError(
                f"Bundle '{self.path}' has no artifact '{name}'. "
                f"It has: {', '.join(self.manifest.artifacts)}."
            )
        return self.manifest.artifacts[name]

    def path_of(self, name: str) -> Path:
        """Path of the file to open first of an artifact. The file is not verified."""
        return self.path / self.artifact(name).files[0].file

    def verify(self, name: str) -> Path:
        """Check size and digest of every file of an artifact; return the one to open.

        Raises:
            BundleError: A file is missing, truncated or altered.
        """
        for entry in self.artifact(name).files:
            self._read(name, entry)
        return self.path_of(name)

    def verify_all(self) -> None:
        """Check every file that the manifest lists; the errors are those of `verify`."""
        for name in self.manifest.artifacts:
            self.verify(name)
        self.read_checks()
        self.weights()

    def read(
        self, name: str, take: Callable[[BinaryIO], bytes | memoryview] = _whole
    ) -> list[bytes | memoryview]:
        """The verified bytes of the files of an artifact, in their order.

        They are read once: whoever takes these bytes takes those that were checked, whatever
        happens to the files. The errors are those of `verify`.

        Args:
            take: Reads an open file whole, into memory that no other process can change.
        """
        return [self._read(name, entry, take) for entry in self.artifact(name).files]

    def read_checks(self) -> bytes | None:
        """The verified bytes of the file of check clips; None if the bundle has none. The errors
        are those of `verify`."""
        entry = self.manifest.checks
        return None if entry is None else bytes(self._read("check clips", entry))

    def weights(self) -> Path | None:
        """The verified file of the weights; None if the bundle has none. The errors are those of
        `verify`."""
        entry = self.manifest.weights
        if entry is not None:
            self._read("weights", entry)
        return None if entry is None else self.path / entry.file

    def replaced(self) -> bool:
        """Whether there is another manifest now than when the bundle was opened, or none."""
        try:
            return (self.path / MANIFEST).read_bytes() != self._written
        except OSError:
            return True

    def _read(
        self, name: str, entry: ArtifactFile,
        take: Callable[[BinaryIO], bytes | memoryview] = _whole,
    ) -> bytes | memoryview:  # fmt: skip
        path, root = self.path / entry.file, self.path.resolve()
        if not os.path.isfile(path):
            raise BundleError(
                f"Bundle '{self.path}': file '{entry.file}' ({name}) is missing. "
                "Copy the whole folder again, or export it again."
            )
        if root not in path.resolve().parents:
            raise BundleError(
                f"Bundle '{self.path}': '{entry.file}' is a link that leaves the folder."
            )
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                content = take(file) if size == entry.bytes else b""
        except OSError as error:
            raise BundleError(
                f"Bundle '{self.path}': '{entry.file}' cannot be read: {error.strerror}."
            ) from error
        if len(content) != entry.bytes:
            raise BundleError(
                f"Bundle '{self.path}': '{entry.file}' has {size} bytes, the manifest says "
                f"{entry.bytes}. The copy is incomplete; copy or export it again."
            )
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                f"Bundle '{self.path}': '{entry.file}' was altered (SHA-256 {found[:12]}..., "
                f"the manifest says {entry.sha256[:12]}...). Copy or export it again."
            )
        return content


def check_unsigned(bundle: Bundle) -> None:
    """Raise BundleError if the bundle is signed, so that its manifest must stay as it is."""
    if os.path.lexists(bundle.path / SIGNATURE):
        raise BundleError(
            f"Bundle '{bundle.path}' is signed, and figures written into its manifest would make "
            f"the signature wrong. Record them first and sign then, or remove its {SIGNATURE}."
        )


def record_quality(bundle: Bundle, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Add measured figures to the manifest's `quality`, by artifact; the file is replaced whole.
    BundleError if the bundle is signed or has no such artifact, or the manifest cannot be
    written."""
    check_unsigned(bundle)
    for name, figures in measured.items():
        bundle.artifact(name)
        bundle.manifest.quality[name] = {**bundle.manifest.quality.get(name, {}), **figures}
    write_manifest(bundle.path, bundle.manifest, BundleError)


@contextmanager
def writing(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A scratch folder that becomes `target` when the block ends well, and vanishes otherwise. A
    bundle to be replaced stays untouched until then.

    Raises:
        BundleError: it may not be written there, see `check_target`, or cannot be.
    """
    final = Path(target)
    check_target(final, replace=replace)
    try:
        with folder_written_whole(final) as scratch:
            yield scratch
    except OSError as error:
        raise BundleError(
            f"The bundle '{target}' cannot be written: {error}. Nothing was changed there. It "
            f"needs room in that folder and in '{tempfile.gettempdir()}'."
        ) from error


def check_target(final: Path, *, replace: bool) -> None:
    """Raises BundleError if `final` exists and is not to be replaced, or is not a bundle."""
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists() and not replace:
        raise BundleError(
            f"'{final}' exists. Choose another folder, or replace it with --overwrite."
        )
    if final.exists() and not (final / MANIFEST).is_file():
        raise BundleError(f"'{final}' exists and is not a bundle; it is not overwritten.")


def write_manifest(
    folder: Path, manifest: Manifest, failure: type[SvfapError] | None = None
) -> None:
    """Write `manifest.json` whole, after reading it back through the same checks a loader does;
    BundleError if it does not pass them. For `failure` see `written_whole`."""
    content = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False)
    parse_manifest(json.loads(content))
    with written_whole(folder / MANIFEST, failure) as part:
        part.write_text(content + "\n", encoding="utf-8")


def describe_file(path: Path) -> ArtifactFile:
    """The manifest entry of a file in the bundle being written."""
    return ArtifactFile(path.name, digest(path), path.stat().st_size)
