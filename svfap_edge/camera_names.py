"""What the cameras of a run are called: as given, NAME=SOURCE, or after their sources."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .capture import find_target
from .errors import SourceError, SvfapError
from .masking import without_passwords


def split_name(text: str) -> tuple[str | None, str]:
    """NAME=SOURCE to its two parts; the name is None where there is none.

    A file or folder of the whole text goes first. A name has letters, digits, ".", "-" and "_"
    only, so that a "=" later in a path, a URL or a pipeline is part of the source.
    """
    match = re.fullmatch(r"(\w[\w.-]*)=(.+)", text, re.DOTALL)
    if match is None or _is_there(text):
        return None, text
    return match[1], match[2]


def name_sources(texts: Sequence[str]) -> dict[str, str]:
    """Sources by name, in their order; names that were not given are made unique.

    Raises:
        SvfapError: the same name was given twice.
    """
    parts = [split_name(text) for text in texts]
    given = [name for name, _ in parts if name is not None]
    twice = [name for name in given if given.count(name) > 1]
    if twice:
        raise SvfapError(f"Two cameras are named '{twice[0]}'; every one needs its own name.")
    found: dict[str, str] = {}
    for own, source in parts:
        found[own or _unique(_name_of(source), {*given, *found})] = source
    return found


def _name_of(source: str) -> str:
    """ "camera-0", a file without its suffix, the host of a URL, or "pipeline"."""
    try:
        target = None if _is_there(source) else find_target(source)
    except SourceError:  # opening it tells why
        target = None
    if target is None:
        path = Path(source if _is_there(source) else without_passwords(source))
        name = path.resolve().name if path.is_dir() else path.stem
    elif target.kind == "url":
        name = _host(target.name)
    else:
        name = f"camera-{target.address}" if target.kind == "camera" else "pipeline"
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "camera"


def _is_there(text: str) -> bool:
    """Whether it is a file or folder; a device is a camera."""
    return os.path.isfile(text) or os.path.isdir(text)


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "url"
    except ValueError:  # not well-formed; FFmpeg will say so
        return "url"


def _unique(name: str, taken: Collection[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
