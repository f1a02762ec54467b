"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import SvfapError, TrainingError

SUFFIX = ".part"


def write_text_atomically(path: Path, text: str, failure: type[SvfapError] = TrainingError) -> None:
    """Write a text file; its folder is made if absent.

    Raises:
        failure: it cannot be written. What was at `path` before is untouched.
    """
    part = path.with_name(path.name + SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(text.encode())
        replace_durably(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise failure(f"'{path}' cannot be written: {error}.") from error


def replace_durably(part: Path, path: Path) -> None:
    """Rename a finished file to its place, so that either it or the one before outlives a power
    cut: the content has to be on the disk before the name is, and the name before going on."""
    _sync(part)
    os.replace(part, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_text(content: Any, indent: int | None = None) -> str:
    """A JSON document in which NaN and infinity, which JSON has no word for, are null."""
    return json.dumps(_without_nan(content), indent=indent, allow_nan=False)


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_stale(folder: Path) -> None:
    """Remove what a killed run had half written."""
    for part in folder.glob(f"*{SUFFIX}"):
        part.unlink(missing_ok=True)


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A name beside `target` to write to; it becomes `target` if the block ends well."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
