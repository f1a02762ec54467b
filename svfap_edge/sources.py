"""Opening any source by its name. Every source yields RGB frames with the time of their capture.

Files and folders are in `files`; cameras, URLs and frames that an application pushes in `live`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .capture import find_target
from .datalist import IMAGE_SUFFIXES
from .errors import SourceError
from .files import ImageFolder, StillImage, VideoFile
from .frames import Source
from .live import Camera, LiveSettings, PulledFrames
from .masking import without_passwords
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
