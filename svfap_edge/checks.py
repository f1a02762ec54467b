"""Check clips: a few drawn clips in a bundle with the answers to them, by which any machine can
tell whether its engines compute what they should.

They show nobody: the faces are drawn. The file holds `clips`, each picture as its difference from
the one before (modulo 256), and for a precision the logits that artifacts of that precision are
held to: "fp32" those of the float model, for all float artifacts; "int8" those of int8.onnx, its
graph computed in float32.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bundle import Bundle
from .clip import ClipSpec
from .errors import BundleError

CHECKS = "check.npz"
"""Name of the file in a bundle."""

MOST_CLIPS = 64
MOST_HEADER = 4096
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class Checks:
    """Check clips and the answers to them.

    Attributes:
        clips: (N, T, H, W, 3) uint8 RGB.
        logits: (N, L) float32 by precision, "fp32" or "int8".
    """

    clips: np.ndarray
    logits: Mapping[str, np.ndarray]

    def reference(self, precision: str) -> np.ndarray | None:
        """The logits (N, L) to which an artifact of a precision is held; None if there are none."""
        first = "int8" if precision == "int8" else "fp32"
        return self.logits.get(first, self.logits.get("fp32"))


def write_checks(path: Path, checks: Checks) -> None:
    """Write the file; OSError if that fails."""
    first = np.zeros_like(checks.clips[:, :1])
    change = np.diff(checks.clips, axis=1, prepend=first)  # wraps around, as uint8 does
    logits = {name: values.astype(np.float32) for name, values in checks.logits.items()}
    np.savez_compressed(path, clips=change, **logits)  # type: ignore[arg-type]


def read_checks(bundle: Bundle) -> Checks | None:
    """The check clips of a bundle; None if it has none.

    Raises:
        BundleError: the file is missing, altered, or does not fit the manifest.
    """
    content = bundle.read_checks()
    if content is None:
        return None
    try:
        return _parsed(content, bundle.manifest.clip, len(bundle.manifest.task.labels))
    except (ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"Bundle '{bundle.path}': its check clips are not readable ({error}). Export it again."
        ) from error


def _parsed(content: bytes, clip: ClipSpec, outputs: int) -> Checks:
    most = {"clips.npy": MOST_CLIPS * int(np.prod(clip.shape)) + MOST_HEADER}
    most |= {f"{name}.npy": MOST_CLIPS * outputs * 4 + MOST_HEADER for name in PRECISIONS}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            if member.file_size > most.get(member.filename, 0):
                raise ValueError(f"it holds {member.file_size} bytes of '{member.filename:.80}'")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    change = found.pop("clips")
    if change.dtype != np.uint8 or change.shape[1:] != clip.shape or not len(change):
        raise ValueError(f"clips of {change.shape} {change.dtype}")
    for name, logits in found.items():
        if logits.shape != (len(change), outputs) or not np.isfinite(logits).all():
            raise ValueError(f"logits '{name}' of {logits.shape}, or not finite")
    if not found:
        raise ValueError("no logits")
    return Checks(np.cumsum(change, axis=1, dtype=np.uint8), found)
