"""What a run writes must not be what it reads, nor two things in one file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from svfap_edge.errors import ConfigError, SourceError
from svfap_edge.media import is_image
from svfap_edge.sources.files import TIMESTAMPS


def check_outputs(outputs: Mapping[str, Path], inputs: Iterable[str]) -> None:
    """Refuse outputs, by the option that names them, that would destroy an input or each other.

    SourceError if an output is an input, lies as an image in a folder that is read, or is another
    output. Devices and pipes are let pass; nothing is opened.
    """
    written = {option: path for option, path in outputs.items() if not _is_device(path)}
    for (one, path), (other, second) in combinations(written.items(), 2):
        if _same(path, second):
            raise SourceError(
                f"{one} and {other} would both write '{path}'. Give each a file of its own."
            )
    for source in inputs:
        for option, path in written.items():
            if os.path.isfile(source) and _same(path, Path(source)):
                raise SourceError(
                    f"{option} '{path}' would overwrite the source '{source}'. Nothing was "
                    "changed; write to another file."
                )
            if os.path.isdir(source) and _is_read_from(Path(source), path):
                raise SourceError(
                    f"{option} '{path}' would be one of the images of the source '{source}', or "
                    "their times. Nothing was changed; write to another folder."
                )


def _is_read_from(folder: Path, path: Path) -> bool:
    """Whether a folder of images, when read, reads this file; also under another name of it."""
    if _is_part(path) and _same(path.parent, folder):
        return True
    if not os.path.exists(path):
        return False
    return any(_same(path, part) for part in folder.iterdir() if _is_part(part))


def _is_part(path: Path) -> bool:
    return is_image(path) or path.name == TIMESTAMPS


def _same(one: Path, other: Path) -> bool:
    """Whether both are the same file or folder, or would be: over links and any spelling."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one is not there
        first, second = (os.path.normcase(os.path.realpath(path)) for path in (one, other))
        return first == second


def _is_device(path: Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def check_writable(path: Path) -> None:
    """Raises SourceError unless a file can be made at `path`; makes none."""
    folder = path.parent
    if not os.path.isdir(folder):
        raise SourceError(f"Cannot write '{path}': there is no folder '{folder}'.")
    if os.path.isdir(path):
        raise SourceError(f"Cannot write '{path}': it is a folder.")
    try:
        os.stat(path)
    except FileNotFoundError:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SourceError(f"Cannot write '{path}': no right to write in '{folder}'.") from None
    except OSError as error:  # such as a name that is too long
        raise SourceError(f"Cannot write '{path}': {error.strerror}.") from error


PLACE = "{camera}"
"""Where the name of the camera goes in the path of an output."""


VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".m4v")
PLOT_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
"""Suffixes of the files that overlay videos and timelines are written as."""


def camera_paths(
    option: str, pattern: Path, cameras: Sequence[str], suffix: str
) -> dict[str, Path]:
    """The file of each camera: a pattern, given as `option`, in which "{camera}" stands for the
    name, with the suffix if it has none. ConfigError if there are several cameras and no place for
    their names."""
    if not pattern.name:
        raise ConfigError(f"{option} '{pattern}' names no file.")
    if not pattern.suffix and not _is_device(pattern):
        pattern = pattern.with_name(pattern.name + suffix)
    if PLACE not in str(pattern) and len(cameras) > 1:
        example = pattern.with_name(f"{pattern.stem}-{PLACE}{pattern.suffix}")
        raise ConfigError(
            f"{option} '{pattern}' is one file for {len(cameras)} cameras "
            f"({', '.join(cameras)}). Each needs its own: write {option} '{example}'."
        )
    return {name: Path(str(pattern).replace(PLACE, name)) for name in cameras}


def check_kind(option: str, paths: Iterable[Path], suffixes: Sequence[str]) -> None:
    """Raise ConfigError for a path that does not end as a file of this kind does."""
    for path in paths:
        if path.suffix.lower() not in suffixes and not _is_device(path):
            raise ConfigError(
                f"{option} '{path}' cannot be written as '{path.suffix}'. Use one of "
                f"{', '.join(suffixes)}."
            )
