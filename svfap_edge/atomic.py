"""Files and folders that are written whole or not at all, and outlive a power cut.

Each is made in a scratch folder beside its place and moved there when it is complete. A process
that is killed leaves what was there before; the scratch folder it leaves is removed when the same
file or folder is written again a day later.
"""

from __future__ import annotations

import glob
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import SvfapError, TrainingError

SUFFIX = ".part"
STALE_S = 86_400.0
"""Age in seconds at which a scratch folder is held for one that a killed process left."""


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


def without_nan(content: Any) -> Any:
    """A copy of nested values in which NaN and infinity are None, and every tuple is a list."""
    if isinstance(content, Mapping):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_stale(folder: Path, pattern: str = "*", age_s: float = 0.0) -> None:
    """Remove from a folder what killed processes had half written under names of this pattern, if
    nothing was added for `age_s` seconds; less may be the work of a living process."""
    for left in folder.glob(f".{pattern}.*{SUFFIX}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime >= age_s:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _scratch_beside(path: Path, failure: type[SvfapError] | None) -> Iterator[Path]:
    """A folder on the same disk as `path`, for one writer; removed in the end."""
    try:
        parent = path.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=SUFFIX, dir=parent))
        try:
            yield scratch
            _sync(parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
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
