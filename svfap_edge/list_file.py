"""The text of a list: which files it names, and what it says of each."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .errors import SourceError
from .media import is_media

HEADERS = frozenset({"path", "file", "filename", "name", "image", "video", "clip", "frames"})
"""First words of a line that names the columns."""

Row = tuple[Path, tuple[str, ...]]
"""The file that a line names, and its other columns."""


def decoded(path: Path, otherwise: str | None = None) -> str:
    """The text of a file as editors and spreadsheets save it: UTF-8 with or without a mark, UTF-16
    with one, or the encoding `otherwise`. SourceError if it is none of them."""
    try:
        data = path.read_bytes()
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data.decode("utf-16")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            if otherwise is None:
                raise
            return data.decode(otherwise)
    except OSError as error:
        raise SourceError(f"'{path}' cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"'{path}' is no text in UTF-8 or UTF-16 ({error.reason}).") from error


def read_rows(path: Path, *, labelled: bool = True) -> list[Row]:
    """The lines of a list, `path label [label ...]`, without comments, header and empty lines.

    Columns are separated by tabs, commas, semicolons or blanks, the same in every line. A path with
    blanks is quoted, ends in a known suffix, or, where lines may have no label, is the whole line.
    Paths are relative to the list; those written on Windows are understood.

    Raises:
        SourceError: it is no readable text, or a line has no label though `labelled` says so.
    """
    lines = [
        (number, line.strip())
        for number, line in enumerate(decoded(path).splitlines(), 1)
        if line.strip() and not (line.startswith("#") and not is_media(line.split()[0]))
    ]
    split = _splitter([line for _, line in lines], path.parent)
    rows: list[Row] = []
    for number, line in lines:
        name, target = split(line)
        if not rows and name.lower() in HEADERS and not os.path.exists(path.parent / name):
            continue
        if not labelled and target and os.path.isdir(path.parent / line):
            name, target = line, ()
        if not name or (labelled and not target):
            raise SourceError(f"'{path}', line {number}: expected 'path label', got '{line:.80}'.")
        rows.append((_find(path.parent, name), target))
    return rows


def _splitter(lines: Sequence[str], folder: Path) -> Callable[[str], tuple[str, tuple[str, ...]]]:
    """A function from a line to its path and its other columns."""
    for mark in "\t,;":
        if not all(mark in line for line in lines):
            continue
        split = partial(_split_at, mark=mark)
        names = [split(line)[0] for line in lines]
        if mark == "\t" or all(
            is_media(name) or os.path.exists(folder / name) or (not i and name.lower() in HEADERS)
            for i, name in enumerate(names)
        ):
            return split
    return _split_words


def _split_at(line: str, mark: str) -> tuple[str, tuple[str, ...]]:
    name, *rest = next(csv.reader([line], delimiter=mark, skipinitialspace=True))
    return name.strip(), tuple(field.strip() for field in rest if field.strip())


def _split_words(line: str) -> tuple[str, tuple[str, ...]]:
    quoted = re.fullmatch(r'"([^"]+)"\s*(.*)', line)
    if quoted:
        return quoted[1], tuple(quoted[2].replace('"', "").split())
    words = line.split()
    for end in range(len(words), 0, -1):
        if is_media(words[end - 1]):
            return " ".join(words[:end]), tuple(" ".join(words[end:]).replace('"', "").split())
    return words[0], tuple(words[1:])  # the path is a folder of frames


def _find(folder: Path, name: str) -> Path:
    """The file of a name as it is on this disk: with slashes, and with accents in one or in two
    characters, as systems write them."""
    plain = folder / name
    if name.isascii() and "\\" not in name:
        return plain
    slashed = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))
    ways = [plain, folder / slashed, *(folder / form for form in forms)]
    return next((way for way in ways if os.path.exists(way)), plain)
