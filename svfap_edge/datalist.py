"""Lists of labelled files, in the published format: `path label` per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import SourceError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".flv", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Item:
    """One line of a list.

    Attributes:
        path: A video, a folder of frames, or an image.
        target: Class index or label as written, or several numbers; empty in a folder listing.
    """

    path: Path
    target: tuple[str, ...] = ()


def find_media(path: Path) -> list[Item]:
    """Items of a list file, every video and image below a folder, or the one file given.

    Raises:
        SourceError: nothing there, or a line that is not `path label`.
    """
    if path.is_dir():
        suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
        items = [Item(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes]
        if not items:
            raise SourceError(f"'{path}' holds no videos or images ({', '.join(suffixes)}).")
        return items
    if not path.is_file():
        raise SourceError(f"No file or folder '{path}'.")
    if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        return [Item(path)]
    return read_list(path)


def read_list(path: Path) -> list[Item]:
    """Read `path label [label ...]` lines; relative paths are relative to the list.

    Raises:
        SourceError: unreadable, empty, or a line without a label (its number is named).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"'{path}' is not a readable list: {error}") from error
    items = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2:
            raise SourceError(f"'{path}', line {number}: expected 'path label', got '{line:.80}'.")
        items.append(Item(path.parent / words[0], tuple(words[1:])))
    if not items:
        raise SourceError(f"'{path}' is an empty list.")
    return items
