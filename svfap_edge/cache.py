"""Where the SDK keeps files between runs: compiled models and a downloaded face detector.

`SVFAP_EDGE_CACHE` names another folder; "off" turns the cache off. The folder may hold what is not
ours: only entries that carry our name and our marker are ever removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from .atomic import written_whole
from .manifest import Artifact

if os.name == "posix":
    import fcntl

FACE_MODEL_NAME = "face_detection_yunet_2023mar.onnx"
"""Name of the YuNet file in the cache folder."""

COMPILED_LIMIT_BYTES = 1 << 30
"""Bytes that all compiled models may take together; the longest unused are removed first."""

MARKER = "svfap-edge.json"
"""A file in every entry of compiled models, which says what it was made of."""

_ENTRY = re.compile(r"svfap-edge-[0-9a-f]{40}")
_SUM_BYTES = 4


class CacheEntry(NamedTuple):
    """A folder of compiled models: when it was last used, and its size."""

    used_s: float
    size_bytes: int
    path: Path


def cache_root() -> Path | None:
    """The cache folder, which may not exist yet; None if the cache is off or has no home."""
    setting = os.environ.get("SVFAP_EDGE_CACHE", "")
    if setting.lower() in ("off", "0", "none"):
        return None
    if setting:
        return Path(setting)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if base.startswith("~") else Path(base) / "svfap-edge"


def compiled_model_cache(
    artifact: Artifact, builder: str, settings: Mapping[str, Any]
) -> Path | None:
    """The folder, which exists, for what an engine compiled from an artifact.

    It is another one for every difference that can change what is compiled: the bytes of any file
    of the artifact, the engine, and how it compiles.

    Args:
        builder: The engine's name and version.
        settings: Device, precision and whatever else the engine was told, as JSON has it.

    Returns:
        None if the cache is off or cannot be written, so that the engine compiles every time.
    """
    root = cache_root()
    if root is None:
        return None
    made_of = {
        "files": [[entry.file, entry.sha256] for entry in artifact.files],
        "precision": artifact.precision,
        "builder": builder,
        "settings": dict(settings),
    }
    text = json.dumps(made_of, sort_keys=True, indent=1)
    key = hashlib.sha256(text.encode()).hexdigest()[:40]
    folder = root / "compiled" / f"svfap-edge-{key}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARKER).is_file():
            with written_whole(folder / MARKER) as part:
                part.write_text(text + "\n", encoding="utf-8")
        os.utime(folder)
        _prune(keep=folder)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def keep_compiled(file: Path, content: bytes) -> None:
    """Keep what an engine compiled, with a check sum (CRC-32, against damage alone).

    The file is replaced whole, so that neither a kill nor another process leaves half of one; a
    full disk leaves none.
    """
    with suppress(OSError), written_whole(file) as part, part.open("wb") as out:
        out.write(zlib.crc32(content).to_bytes(_SUM_BYTES, "little"))
        out.write(content)


def kept_compiled(file: Path) -> memoryview | None:
    """What `keep_compiled` kept; None if it is not there or damaged. The bytes are read into
    memory: nobody who cuts the file off later can end this process."""
    try:
        content = memoryview(file.read_bytes())
    except OSError:
        return None
    written, content = content[:_SUM_BYTES], content[_SUM_BYTES:]
    return content if zlib.crc32(content).to_bytes(_SUM_BYTES, "little") == written else None


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Keep other processes out of an entry while an engine writes into it by itself."""
    if folder is None or os.name != "posix":
        yield
        return
    with (folder / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compiled_entries() -> list[CacheEntry]:
    """Our entries of compiled models, the longest unused first."""
    root = cache_root()
    entries = []
    with suppress(OSError):
        for folder in (root / "compiled").iterdir() if root else ():
            ours = _ENTRY.fullmatch(folder.name) and not folder.is_symlink()
            if ours and (folder / MARKER).is_file():
                files = (path for path in folder.rglob("*") if path.is_file())
                size = sum(path.lstat().st_size for path in files)
                entries.append(CacheEntry(folder.stat().st_mtime, size, folder))
    return sorted(entries)


def clear_compiled() -> list[CacheEntry]:
    """Remove all compiled models, which are made again when they are needed; returns them."""
    entries = compiled_entries()
    for entry in entries:
        shutil.rmtree(entry.path, ignore_errors=True)
    return entries


def _prune(keep: Path) -> None:
    entries = compiled_entries()
    total = sum(entry.size_bytes for entry in entries)
    for entry in entries:
        if total <= COMPILED_LIMIT_BYTES:
            break
        if entry.path != keep:
            shutil.rmtree(entry.path, ignore_errors=True)
            total -= entry.size_bytes


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
