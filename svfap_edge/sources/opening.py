"""Opening any source by its name. Every source yields RGB frames with the time of their capture.

Files and folders are in `files`; cameras, URLs and frames that an application pushes in `live`.
"""

from __future__ import annotations

import math
import os
import queue
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.media import IMAGE_SUFFIXES

from .capture import find_target
from .files import ImageFolder, StillImage, VideoFile
from .frames import Source
from .live import Camera, LiveSettings, PulledFrames
from .passwords import without_passwords
from .sample import sample_source


def open_source(
    source: str | os.PathLike[str] | int | Source | Iterable[tuple[np.ndarray, float]],
    *,
    fps: float | None = None,
    live: LiveSettings | None = None,
) -> Source:
    """Open a file, a camera, a URL, or the frames an application has.

    Args:
        source: Path of a video file, a folder of images or an image; "sample" for the built-in
            demonstration; a camera's number (0, "0", "camera:0", "/dev/video0"); a URL (rtsp://,
            http://, ...); a GStreamer pipeline ("... ! appsink"); an iterable of (image, time in
            seconds), see `live.PulledFrames`; or a source, which is returned as it is.
        fps: Frame rate of a folder of images; overrules its `timestamps.csv`.
        live: Timeouts and patience of a live source.

    Raises:
        SourceError: nothing readable there.
        DependencyMissing: this OpenCV lacks what the source needs (FFmpeg, GStreamer).
    """
    if fps is not None and not (fps > 0 and math.isfinite(fps)):
        raise SourceError(f"The frame rate must be a positive number; got {fps}.")
    if not isinstance(source, (str, os.PathLike)):
        return _open_object(source, live)
    text = os.fspath(source)
    if text == "sample":
        return sample_source()
    path = Path(text)
    if not os.path.isfile(text) and not os.path.isdir(text):
        target = find_target(text)
        if target is not None:
            return Camera(target, live)
    if os.path.isdir(text):
        return ImageFolder(path, fps)
    if not os.path.exists(text):
        raise SourceError(
            f"No source '{without_passwords(text)}'. Expected a video file, a folder of images, a "
            "camera's number, a URL, a GStreamer pipeline, or 'sample'."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return StillImage(path, fps)
    return VideoFile(path)


def _open_object(
    source: int | Source | Iterable[tuple[np.ndarray, float]], live: LiveSettings | None
) -> Source:
    if isinstance(source, int):
        target = find_target(str(source))
        if target is None:
            raise SourceError(f"A camera's number is 0 or more; got {source}.")
        return Camera(target, live)
    if hasattr(source, "items") and hasattr(source, "warnings"):
        return source  # type: ignore[return-value]
    if isinstance(source, Iterable):
        return PulledFrames(source, settings=live)
    raise SourceError(
        f"Cannot read frames from {type(source).__name__}. Expected a path, a URL, a camera's "
        "number, an iterable of (image, timestamp_s), or a source."
    )


def open_sources(
    addresses: Mapping[str, str],
    *,
    fps: float | None = None,
    live: LiveSettings | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Source], dict[str, str]]:
    """Open sources by name, all at once, so that one which is not there does not hold up others.
    One that cannot be opened does not keep the others from running.

    Args:
        fps, live: As `open_source` takes them.
        warn: Takes why a source cannot be opened.

    Returns:
        The opened ones, and of each other one why it is not.

    Raises:
        SvfapError: none can be opened, a package is missing, or files and cameras are mixed.
    """
    opening = _Opening(addresses, partial(open_source, fps=fps, live=live))
    try:
        opened, failed = opening.wait()
        if not opened:
            raise next(iter(failed.values()))
        are_live(opened)
    except BaseException:
        opening.abandon()
        raise
    reasons = {name: str(error) for name, error in failed.items()}
    for name, reason in reasons.items():
        warn(f"{name}: {reason}")
    return opened, reasons


class _Opening:
    """Opens each source in a thread of its own."""

    def __init__(self, addresses: Mapping[str, str], opening: Callable[[str], Source]) -> None:
        self._names = list(addresses)
        self._lock = threading.Lock()
        self._abandoned = False
        self._opened: dict[str, Source] = {}
        self._results: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        for name, address in addresses.items():
            arguments = (name, partial(opening, address))
            threading.Thread(
                target=self._open, args=arguments, name=f"svfap-open-{name}", daemon=True
            ).start()

    def wait(self) -> tuple[dict[str, Source], dict[str, SourceError]]:
        """What was opened, and what was not, in the order of the names. Raises what is no error of
        a source as soon as it comes."""
        failed: dict[str, SourceError] = {}
        for _ in self._names:
            name, error = self._results.get()
            if isinstance(error, SourceError):
                failed[name] = error
            elif error is not None:
                raise error
        opened = {name: self._opened[name] for name in self._names if name in self._opened}
        return opened, {name: failed[name] for name in self._names if name in failed}

    def abandon(self) -> None:
        """Close everything, also what is still being opened, once it is."""
        with self._lock:
            self._abandoned = True
            sources, self._opened = list(self._opened.values()), {}
        for source in sources:
            source.close()

    def _open(self, name: str, opening: Callable[[], Source]) -> None:
        """Runs in a thread."""
        try:
            source = opening()
        except BaseException as error:
            self._results.put((name, error))
            return
        with self._lock:
            wanted = not self._abandoned
            if wanted:
                self._opened[name] = source
        if not wanted:
            source.close()
        self._results.put((name, None))


def are_live(sources: Mapping[str, Source]) -> bool:
    """Whether all sources are live.

    Raises:
        SvfapError: some are, and some are not.
    """
    live = [name for name, source in sources.items() if source.live]
    files = [name for name, source in sources.items() if not source.live]
    if live and files:
        raise SvfapError(
            "Cameras run in their own time, files as fast as they are read: not both at once. "
            f"Run them apart: {', '.join(live)}; and {', '.join(files)}."
        )
    return bool(live)


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
