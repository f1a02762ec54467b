"""Files and folders that are written whole or not at all, and outlive a power cut.

Each is made in a scratch folder beside its place and moved there when it is complete. A process
that is killed leaves what was there before; the scratch folder it leaves is removed when the same
file or folder is written again: at once on the same machine, where its lock tells that nobody works
in it, and a day later elsewhere.
"""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import SvfapError, TrainingError

SUFFIX = ".part"
STALE_S = 86_400.0
"""Age in seconds at which a scratch folder is held for one that a killed process left."""

UNLOCKED_S = 2.0
"""The same for a scratch folder of this machine that nobody has locked."""

_HERE = f"{zlib.crc32(platform.node().encode()):08x}"
"""Part of the names of scratch folders: locks need not reach other machines on a shared disk."""


@contextmanager
def written_whole(path: Path, failure: type[SvfapError] | None = None) -> Iterator[Path]:
    """Yield a file name to write to; the file replaces `path` if the block ends well.

    The folder of `path` is made if it is absent. If it cannot be written, an OSError, or `failure`
    in its place, leaves what was at `path` untouched.
    """
    with _scratch_beside(path, failure) as scratch:
        part = scratch / path.name
        yield part
        # The content has to be on the disk before the name is, and the name before going on.
        _sync(part)
        os.replace(part, path)


@contextmanager
def folder_written_whole(folder: Path, failure: type[SvfapError] | None = None) -> Iterator[Path]:
    """Yield a new folder to fill; it replaces `folder` if the block ends well.

    The rest is as for `written_whole`.
    """
    with _scratch_beside(folder, failure) as scratch:
        new = scratch / folder.name
        new.mkdir()
        yield new
        for path in (*new.rglob("*"), new):
            _sync(path)
        if not folder.exists():
            os.rename(new, folder)
        elif not _exchange(new, folder):
            old = scratch / "old"
            os.rename(folder, old)
            try:
                os.rename(new, folder)
            except OSError:
                os.rename(old, folder)
                raise


def write_text_atomically(path: Path, text: str, failure: type[SvfapError] = TrainingError) -> None:
    """Write a text file in UTF-8; see `written_whole`."""
    with written_whole(path, failure) as part:
        part.write_bytes(text.encode())


def json_text(content: Any, indent: int | None = None) -> str:
    """A JSON document in which NaN and infinity, which JSON has no word for, are null."""
    return json.dumps(without_nan(content), indent=indent, allow_nan=False)


def json_line(content: Any, encoding: str | None) -> str:
    """A JSON document in one line that an output of this encoding takes: as it is read best, or
    with escapes for what the output has no characters for."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, allow_nan=False)
    return text


def without_nan(content: Any) -> Any:
    """A copy of nested values in which NaN and infinity are None, and every tuple is a list."""
    if isinstance(content, Mapping):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_stale(folder: Path, pattern: str = "*", age_s: float = 0.0) -> None:
    """Remove from a folder what killed processes had half written under names of this pattern, if
    nothing was added for `age_s` seconds; less may be the work of a living process, unless that is
    known to be dead."""
    for left in folder.glob(f".{pattern}.*{SUFFIX}"):
        with suppress(OSError):
            age = time.time() - left.stat().st_mtime
            if age >= age_s or (age >= UNLOCKED_S and _is_abandoned(left)):
                shutil.rmtree(left, ignore_errors=True)


def _is_abandoned(scratch: Path) -> bool:
    """Whether it was made on this machine, and the process that locked it has gone."""
    lock = _lock(scratch) if scratch.name.endswith(f"-{_HERE}{SUFFIX}") else None
    if lock is not None:
        os.close(lock)
    return lock is not None


def _lock(folder: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None where another has the lock, or the
    system or the disk has none."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _scratch_beside(path: Path, failure: type[SvfapError] | None) -> Iterator[Path]:
    """A folder on the same disk as `path`, for one writer; removed in the end."""
    try:
        parent = path.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        suffix = f"-{_HERE}{SUFFIX}"
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=suffix, dir=parent))
        lock = _lock(scratch)
        try:
            yield scratch
            _sync(parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if lock is not None:
                os.close(lock)
        # Only now: the last good copy may be in there where two renames were cut in half.
        remove_stale(parent, glob.escape(path.name), STALE_S)
    except OSError as error:
        if failure is None:
            raise
        raise failure(f"'{path}' cannot be written: {error}.") from error


def _sync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> bool:
    """Swap two folders in one step, so that a kill leaves one or the other at each name. Returns
    False where the system or the kind of its disk cannot."""
    if sys.platform != "linux":
        return False
    import ctypes

    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(new.absolute()), os.fsencode(old.absolute())
    return call is not None and call(here, names[0], here, names[1], exchange) == 0
