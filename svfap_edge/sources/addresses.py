"""What the text that names a source stands for: a camera, a URL, a pipeline; and what it is called.

Files and folders go first: a text that is the path of one is never a camera.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from svfap_edge.errors import SourceError, SvfapError

from .passwords import without_passwords

Kind = Literal["camera", "url", "gstreamer"]

PROTOCOLS = ("rtsp", "rtsps", "http", "https", "tcp", "tls", "udp", "rtp")
"""Protocols of the URLs that are opened: those that cameras speak. Others of FFmpeg's, such as
`concat`, `cache` and `async`, read files of this machine."""


@dataclass(frozen=True)
class Target:
    """A live source that can be opened.

    Attributes:
        kind: "camera" (a device of this machine), "url" (read by FFmpeg) or "gstreamer" (a
            pipeline).
        address: The device's number, the URL, or the pipeline, with its passwords.
        name: The address without passwords, for messages.
    """

    kind: Kind
    address: str
    name: str


def find_target(text: str) -> Target | None:
    """The camera ("0", "camera:0", "/dev/video0"), URL or pipeline that a text names, else None;
    SourceError for a pipeline without an appsink, or a URL of another protocol than `PROTOCOLS`."""
    match = re.fullmatch(r"(?:camera:|/dev/video)?(\d+)", text)
    if match:
        return Target("camera", match[1], f"camera:{match[1]}")
    # Pipelines before URLs: elements of a pipeline may hold URLs.
    if re.search(r"\s!\s", text):
        name = without_passwords(text)
        if "appsink" not in text:
            raise SourceError(
                f"The GStreamer pipeline '{name}' does not end in an appsink, so no frame could be "
                "read. End it with: ! videoconvert ! appsink drop=true max-buffers=1"
            )
        _require_text(text, name)
        return Target("gstreamer", text, name)
    match = re.match(r"([a-z][a-z0-9+.-]+)://", text, re.IGNORECASE)
    if match:
        name = without_passwords(text)
        if match[1].lower() == "file":
            raise SourceError(f"'{name}' is a file: pass its path.")
        if match[1].lower() not in PROTOCOLS:
            raise SourceError(
                f"'{name}' is no address of a camera: its protocol is none of "
                f"{', '.join(PROTOCOLS)}. A file is opened by its path."
            )
        _require_text(text, name)
        return Target("url", text, name)
    return None


def _require_text(address: str, name: str) -> None:
    """SourceError for an address that OpenCV cannot take."""
    try:
        address.encode()
    except UnicodeEncodeError:
        where = "is no text in UTF-8"
    else:
        where = "holds a NUL character" if "\0" in address else ""
    if where:
        raise SourceError(f"The address '{name}' {where}. Percent-encode it: %FF for a byte FF.")


def is_path(text: str) -> bool:
    """Whether a file or folder of that name exists. A device such as /dev/video0 is neither."""
    return os.path.isfile(text) or os.path.isdir(text)


def split_name(text: str) -> tuple[str | None, str]:
    """Split NAME=SOURCE into its two parts; the name is None where there is none.

    A file or folder of the whole text goes first. A name has letters, digits, ".", "-" and "_"
    only, so that a "=" later in a path, a URL or a pipeline is part of the source.
    """
    match = re.fullmatch(r"(\w[\w.-]*)=(.+)", text, re.DOTALL)
    if match is None or is_path(text):
        return None, text
    return match[1], match[2]


def name_sources(texts: Sequence[str]) -> dict[str, str]:
    """Sources by name, in their order; names that were not given are made, each a different one.
    SvfapError if the same name was given twice."""
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
        target = None if is_path(source) else find_target(source)
    except SourceError:  # opening it says why
        target = None
    if target is None:
        path = Path(source if is_path(source) else without_passwords(source))
        name = path.resolve().name if os.path.isdir(path) else path.stem
    elif target.kind == "url":
        name = _host(target.name)
    else:
        name = f"camera-{target.address}" if target.kind == "camera" else "pipeline"
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "camera"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "url"
    except ValueError:  # it is not well-formed; FFmpeg will say so
        return "url"


def _unique(name: str, taken: Collection[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
