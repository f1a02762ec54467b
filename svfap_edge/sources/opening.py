"""Opening any source by its name, and several at once."""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import numpy as np

from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.media import is_picture

from .addresses import find_target, is_path
from .files import ImageFolder, StillImage
from .frames import Source
from .live import Camera, LiveSettings, PulledFrames
from .passwords import without_passwords
from .sample import sample_source
from .video import VideoFile

Openable: TypeAlias = "str | os.PathLike[str] | int | Source | Iterable[tuple[np.ndarray, float]]"
"""What `open_source` opens."""


def open_source(
    source: Openable,
    *,
    fps: float | None = None,
    live: LiveSettings | None = None,
) -> Source:
    """Open a file, a camera, a URL, or the frames an application has.

    Every source yields RGB frames with the time of their capture.

    Args:
        source: Path of a video file, a folder of images or an image; "sample" for the built-in
            demonstration; a camera's number (0, "0", "camera:0", "/dev/video0"); a URL (rtsp://,
            http://, ...); a GStreamer pipeline ("... ! appsink"); an iterable of (image, time in
            seconds), see `PulledFrames`; or a source, which is returned as it is.
        fps: Frames a second of a folder of images, instead of its `timestamps.csv`, or of a single
            image. None takes the times of the folder, or 25.
        live: Timeouts and patience of a live source; None for the defaults of `LiveSettings`.

    Raises:
        SourceError: nothing readable is there, or `fps` is not a positive number.
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
    if not is_path(text):
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
    return StillImage(path, fps) if is_picture(path) else VideoFile(path)


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
    addresses: Mapping[str, Openable],
    *,
    fps: float | None = None,
    live: LiveSettings | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Source], dict[str, str]]:
    """Open several sources at once, so that one which does not answer does not hold up the others.

    A source that cannot be opened does not keep the others from running.

    Args:
        addresses: What to open, by name; `fps` and `live` are for all. See `open_source`.
        warn: Called once for each source that cannot be opened, with its name and the reason.

    Returns:
        The opened sources by name, and the reason for each of the others by name.

    Raises:
        SvfapError: none can be opened, a package is missing, or files and cameras are mixed. Then
            nothing stays open.
    """
    results: queue.SimpleQueue[tuple[str, Source | BaseException]] = queue.SimpleQueue()
    abandoned = threading.Event()

    def open_one(name: str, address: Openable) -> None:
        try:
            results.put((name, open_source(address, fps=fps, live=live)))
        except BaseException as error:
            results.put((name, error))
        if abandoned.is_set():
            _close_all(results)

    for item in addresses.items():
        threading.Thread(
            target=open_one, args=item, name=f"svfap-open-{item[0]}", daemon=True
        ).start()
    opened: dict[str, Source] = {}
    failed: dict[str, SourceError] = {}
    try:
        for _ in addresses:
            name, result = results.get()
            if isinstance(result, SourceError):
                failed[name] = result
            elif isinstance(result, BaseException):
                raise result
            else:
                opened[name] = result
        opened = {name: opened[name] for name in addresses if name in opened}
        failed = {name: failed[name] for name in addresses if name in failed}
        if not opened:
            raise next(iter(failed.values()))
        are_live(opened)
    except BaseException:
        abandoned.set()  # a source that is still being opened is closed once it is open
        _close_all(results)
        for source in opened.values():
            source.close()
        raise
    reasons = {name: str(error) for name, error in failed.items()}
    for name, reason in reasons.items():
        warn(f"{name}: {reason}")
    return opened, reasons


def _close_all(results: queue.SimpleQueue[tuple[str, Source | BaseException]]) -> None:
    """Close the sources that nobody took."""
    with suppress(queue.Empty):
        while True:
            _, result = results.get_nowait()
            if not isinstance(result, BaseException):
                result.close()


def are_live(sources: Mapping[str, Source]) -> bool:
    """Whether all sources are live; SvfapError if some are and some are not."""
    live = [name for name, source in sources.items() if source.live]
    files = [name for name, source in sources.items() if not source.live]
    if live and files:
        raise SvfapError(
            "Cameras run in their own time, files as fast as they are read: not both at once. "
            f"Run them apart: {', '.join(live)}; and {', '.join(files)}."
        )
    return bool(live)
