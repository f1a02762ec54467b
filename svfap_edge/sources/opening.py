"""Opening any source by its name, and several at once."""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.media import is_image

from .addresses import find_target, is_path
from .files import ImageFolder, StillImage, VideoFile
from .frames import Source
from .live import Camera, LiveSettings, PulledFrames
from .passwords import without_passwords
from .sample import sample_source

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
    return StillImage(path, fps) if is_image(path) else VideoFile(path)


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
        addresses: What to open, by name; see `open_source`.
        fps: Frames a second of folders of images; see `open_source`.
        live: Timeouts and patience of live sources; see `open_source`.
        warn: Called once for each source that cannot be opened, with its name and the reason.

    Returns:
        The opened sources by name, and the reason for each of the others by name.

    Raises:
        SvfapError: none can be opened, a package is missing, or files and cameras are mixed. Then
            nothing stays open.
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
    """Sources that are being opened, each in a thread of its own."""

    def __init__(
        self, addresses: Mapping[str, Openable], opening: Callable[[Openable], Source]
    ) -> None:
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
        """Wait for all; return those that were opened and the errors of the others, in order.

        Raises:
            BaseException: anything but a SourceError, as soon as it comes.
        """
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
        """Close all sources; one that is still being opened is closed once it is open."""
        with self._lock:
            self._abandoned = True
            sources, self._opened = list(self._opened.values()), {}
        for source in sources:
            source.close()

    def _open(self, name: str, opening: Callable[[], Source]) -> None:
        """Open one source, in its thread."""
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
        SvfapError: some are live and some are not.
    """
    live = [name for name, source in sources.items() if source.live]
    files = [name for name, source in sources.items() if not source.live]
    if live and files:
        raise SvfapError(
            "Cameras run in their own time, files as fast as they are read: not both at once. "
            f"Run them apart: {', '.join(live)}; and {', '.join(files)}."
        )
    return bool(live)
