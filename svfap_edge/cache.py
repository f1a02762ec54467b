"""Where the SDK keeps files between runs: compiled models and a downloaded face detector.

`SVFAP_EDGE_CACHE` names another folder; "off" turns the cache off.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FACE_MODEL_NAME = "face_detection_yunet_2023mar.onnx"
"""Name of the YuNet file in the cache folder."""

COMPILED_LIMIT_BYTES = 1 << 30
"""Bytes that all compiled models may take together; the longest unused are removed first."""


def cache_root() -> Path | None:
    """The cache folder, which may not exist yet; None if the cache is off or has no home."""
    setting = os.environ.get("SVFAP_EDGE_CACHE", "")
    if setting.lower() in ("off", "0", "none"):
        return None
    if setting:
        return Path(setting)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if base.startswith("~") else Path(base) / "svfap-edge"


def compiled_model_cache(model_sha256: str, builder: str) -> Path | None:
    """The folder, which exists, for what an engine compiled from the model file of that digest.

    `builder` is the engine's name and version. None if the cache is off or cannot be written, so
    that the engine compiles every time.
    """
    root = cache_root()
    if root is None:
        return None
    folder = root / "compiled" / f"{model_sha256[:24]}-{builder.split('-releases')[0]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _prune(root / "compiled", keep=folder)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _prune(compiled: Path, keep: Path) -> None:
    entries = []
    for folder in compiled.iterdir():
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        entries.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= COMPILED_LIMIT_BYTES:
            break
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def find_face_model() -> Path | None:
    """The file of the YuNet face detector; None if there is none.

    It is the one that `SVFAP_EDGE_FACE_MODEL` names, or else the one in the cache folder.
    """
    named = os.environ.get("SVFAP_EDGE_FACE_MODEL")
    if named:
        return Path(named)
    root = cache_root()
    cached = root / FACE_MODEL_NAME if root else None
    return cached if cached and cached.is_file() else None
