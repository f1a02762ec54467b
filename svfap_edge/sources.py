"""Where frames come from. Every source yields RGB frames with the time they were captured.

Cameras, URLs and frames that an application pushes are in `live`.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from .datalist import IMAGE_SUFFIXES
from .errors import DependencyMissing, SourceError
from .frames import BaseSource, Frame, Source

if TYPE_CHECKING:
    from .live import LiveSettings

DEFAULT_FPS = 25.0
"""Frame rate assumed for a folder of images without `timestamps.csv`."""

TIMESTAMPS = "timestamps.csv"
"""Beside the images of a folder: lines `name,timestamp_s`."""

STILL_SECONDS = 3.0
"""How long a single image is shown."""


class VideoFile(BaseSource):
    """A video file. Times are those of the container, so a variable frame rate is kept."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            SourceError: no such file, not a video, or one without a single readable frame.
        """
        if not path.is_file():
            raise SourceError(f"No video at '{path}'.")
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        first = self._read() if self._capture.isOpened() else None
        if first is None:
            self._capture.release()
            raise SourceError(
                f"'{path}' is not a video that this OpenCV can read, or holds no frame. "
                "Check that it plays; convert it to H.264 in MP4 if it does."
            )
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        super().__init__(
            str(path), int(count) if count > 0 else None, fps if 0 < fps < 1000 else None
        )
        self._first: tuple[np.ndarray, float] | None = first

    def _read(self) -> tuple[np.ndarray, float] | None:
        """The next image and its container time in seconds."""
        good, image = self._capture.read()
        if not good or image is None:
            return None
        return image, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3

    def __iter__(self) -> Iterator[Frame]:
        entry, self._first = self._first, None
        origin_s: float | None = None
        previous_s = -math.inf
        index = 0
        while entry is not None:
            image, time_s = entry
            origin_s = time_s if origin_s is None else origin_s
            timestamp_s = time_s - origin_s
            if timestamp_s <= previous_s:  # some containers carry no times, or repeat one
                timestamp_s = previous_s + 1 / (self.fps or DEFAULT_FPS)
                self._warn("Some frames have no time of their own; spaced by the frame rate.")
            previous_s = timestamp_s
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), timestamp_s, index)
            index += 1
            entry = self._read()
        if self.frames is not None and index < 0.98 * self.frames - 2:
            self._warn(f"The video ended after {index} of {self.frames} frames: it is damaged.")

    def close(self) -> None:
        self._capture.release()


class ImageFolder(BaseSource):
    """A folder of frames, in natural order of their names.

    Times come from `timestamps.csv` in the folder (lines `name,timestamp_s`), or from `fps`.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        """
        Raises:
            SourceError: no images there, or a bad `timestamps.csv`.
        """
        self._times = folder_times(path, fps)
        super().__init__(str(path), len(self._times), fps)
        self._path = path

    def __iter__(self) -> Iterator[Frame]:
        for index, (name, timestamp_s) in enumerate(self._times.items()):
            yield Frame(read_image(self._path / name), timestamp_s, index)


class StillImage(BaseSource):
    """One image, shown for `STILL_SECONDS`."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self._image = read_image(path)
        rate = fps or DEFAULT_FPS
        super().__init__(str(path), round(STILL_SECONDS * rate), rate)

    def __iter__(self) -> Iterator[Frame]:
        assert self.frames is not None and self.fps is not None
        for index in range(self.frames):
            yield Frame(self._image, index / self.fps, index)


class Generated(BaseSource):
    """Frames drawn by a function of time."""

    def __init__(
        self, name: str, draw: Callable[[float], np.ndarray], seconds: float, fps: float
    ) -> None:
        super().__init__(name, round(seconds * fps), fps)
        self._draw = draw

    def __iter__(self) -> Iterator[Frame]:
        assert self.frames is not None and self.fps is not None
        for index in range(self.frames):
            timestamp_s = index / self.fps
            yield Frame(self._draw(timestamp_s), timestamp_s, index)


def sample_source() -> Generated:
    """The built-in demonstration: 6 s of a camera over a portrait of a smiling astronaut.

    The portrait is NASA's, in the public domain, carried by scikit-image
    (`skimage.data.astronaut()`). For 3.5 s the camera sways over the face, then it swings away
    to the shuttle model beside it. 640x360 pixels, 25 fps.

    Raises:
        DependencyMissing: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise DependencyMissing(
            'The sample needs scikit-image: pip install "svfap-edge[demo]". '
            "Or run on a video of your own: svfap-edge run VIDEO"
        ) from error
    portrait = data.astronaut()  # type: ignore[no-untyped-call]
    # View (center x, center y, width) of the 512x512 portrait at these times.
    times = (0.0, 1.2, 2.4, 3.5, 4.2, 6.0)
    views = np.array(
        [(215, 125, 300), (235, 120, 270), (222, 135, 250), (230, 125, 290), (400, 390, 200),
         (395, 400, 210)],
        float,
    )  # fmt: skip

    def draw(timestamp_s: float) -> np.ndarray:
        x, y, width = (np.interp(timestamp_s, times, column) for column in views.T)
        scale = 640 / width
        shift = np.array([[scale, 0, 320 - scale * x], [0, scale, 180 - scale * y]])
        return cv2.warpAffine(portrait, shift, (640, 360), borderMode=cv2.BORDER_REPLICATE)

    return Generated("sample", draw, seconds=6.0, fps=25.0)


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
        from .capture import find_target

        target = find_target(text)
        if target is not None:
            from .live import Camera

            return Camera(target, live)
    if os.path.isdir(text):
        return ImageFolder(path, fps)
    if not os.path.exists(text):
        raise SourceError(
            f"No source '{text}'. Expected a video file, a folder of images, a camera's number, "
            "a URL, a GStreamer pipeline, or 'sample'."
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return StillImage(path, fps)
    return VideoFile(path)


def _open_object(
    source: int | Source | Iterable[tuple[np.ndarray, float]], live: LiveSettings | None
) -> Source:
    from .capture import find_target
    from .live import Camera, PulledFrames

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


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file; grey images are spread to three channels.

    Raises:
        SourceError: not a readable image.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"'{path}' is not a readable image.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def folder_times(path: Path, fps: float | None = None) -> dict[str, float]:
    """Images of a folder and their times in seconds, in order; see `ImageFolder`.

    Raises:
        SourceError: no images there, or a bad `timestamps.csv`.
    """
    names = [p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise SourceError(f"Folder '{path}' holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    names.sort(key=_natural)
    table = path / TIMESTAMPS
    if table.is_file() and fps is None:
        return _read_timestamps(table, names)
    return {name: i / (fps or DEFAULT_FPS) for i, name in enumerate(names)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts frame 10 after frame 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_timestamps(table: Path, names: list[str]) -> dict[str, float]:
    """Name to time, in order of time, for all images of the folder."""
    times: dict[str, float] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                name, value = row[0].strip(), float(row[1])
            except (IndexError, ValueError) as error:
                if number == 1:  # a header
                    continue
                raise SourceError(
                    f"'{table}', line {number}: expected 'name,timestamp_s', got {row}."
                ) from error
            times[name] = value
    missing = [name for name in names if name not in times]
    unknown = [name for name in times if name not in set(names)]
    if missing or unknown:
        raise SourceError(
            f"'{table}' does not match the folder: no time for {missing[:3]}, no file for "
            f"{unknown[:3]}."
        )
    ordered = dict(sorted(times.items(), key=lambda item: item[1]))
    values = list(ordered.values())
    if not all(math.isfinite(v) for v in values) or len(set(values)) != len(values):
        raise SourceError(f"'{table}': times must be finite and all different.")
    return {name: value - values[0] for name, value in ordered.items()}
