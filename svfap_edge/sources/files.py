"""Recorded frames: video files, folders of frames, single images."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.errors import SourceError
from svfap_edge.media import IMAGE_SUFFIXES, is_image

from .frames import Frame, Source
from .sample import Generated

DEFAULT_FPS = 25.0
"""Frames a second that are assumed where nothing else says, as for images without times."""

TIMESTAMPS = "timestamps.csv"
"""File with the times of a folder's images, beside them: lines `name,timestamp_s`."""

STILL_SECONDS = 3.0
"""Length in seconds of the source that a single image makes."""


class VideoFile(Source):
    """A video file. Frames have the times of the container, so a variable frame rate is kept.

    Raises:
        SourceError: there is no such file, or it is no video with a readable frame.
    """

    def __init__(self, path: Path) -> None:
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
        """The next image, BGR, and its time in the container in seconds; None at the end."""
        good, image = self._capture.read()
        if not good or image is None:
            return None
        return image, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3

    def __iter__(self) -> Iterator[Frame]:
        entry, self._first = self._first, None
        start_s: float | None = None
        previous_s = -math.inf
        index = 0
        while entry is not None:
            image, time_s = entry
            start_s = time_s if start_s is None else start_s
            timestamp_s = time_s - start_s
            if timestamp_s <= previous_s:  # some containers carry no times, or repeat one
                timestamp_s = previous_s + 1 / (self.fps or DEFAULT_FPS)
                self._warn("Some frames have no time of their own; the frame rate spaces them.")
            previous_s = timestamp_s
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), timestamp_s, index)
            index += 1
            entry = self._read()
        if self.frames is not None and index < 0.98 * self.frames - 2:
            self._warn(f"The video ended after {index} of {self.frames} frames: it is damaged.")

    def close(self) -> None:
        self._capture.release()


class ImageFolder(Source):
    """A folder of images, one a frame.

    Times come from `timestamps.csv` in the folder (lines `name,timestamp_s`). Without it, or where
    `fps` is given, images follow in the natural order of their names, `fps` (25) a second.

    Raises:
        SourceError: the folder has no images, or a bad `timestamps.csv`.
    """

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self._times = folder_times(path, fps)
        super().__init__(str(path), len(self._times), fps)
        self._path = path

    def __iter__(self) -> Iterator[Frame]:
        for index, (name, timestamp_s) in enumerate(self._times.items()):
            yield Frame(read_image(self._path / name), timestamp_s, index)


class StillImage(Generated):
    """One image, shown for 3 seconds; SourceError if it is not readable."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        image = read_image(path)
        super().__init__(str(path), lambda time_s: image, STILL_SECONDS, fps or DEFAULT_FPS)


def read_image(path: Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, a grey one with three equal channels; SourceError
    if it is not readable."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SourceError(f"'{path}' is not a readable image.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def folder_times(path: Path, fps: float | None = None) -> dict[str, float]:
    """Names of a folder's images and their times in seconds, in order; see `ImageFolder`."""
    names = [p.name for p in path.iterdir() if is_image(p)]
    if not names:
        raise SourceError(f"Folder '{path}' holds no images ({', '.join(IMAGE_SUFFIXES)}).")
    names.sort(key=_natural)
    table = path / TIMESTAMPS
    if table.is_file() and fps is None:
        return _read_timestamps(table, names)
    return {name: i / (fps or DEFAULT_FPS) for i, name in enumerate(names)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts frame 10 after frame 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_timestamps(table: Path, names: list[str]) -> dict[str, float]:
    """Time in seconds by name, in order of time, of all images of the folder; the first is 0."""
    times: dict[str, float] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            try:
                name, value = row[0].strip(), float(row[1])
            except (IndexError, ValueError) as error:
                if number == 1:  # it is a header
                    continue
                raise SourceError(
                    f"'{table}', line {number}: expected 'name,timestamp_s', got {row}."
                ) from error
            times[name] = value
    missing = [name for name in names if name not in times]
    unknown = [name for name in times if name not in set(names)]
    if missing or unknown:
        raise SourceError(
            f"'{table}' does not match the folder: it has no time for {missing[:3]}, no file for "
            f"{unknown[:3]}."
        )
    ordered = dict(sorted(times.items(), key=lambda item: item[1]))
    values = list(ordered.values())
    if not all(math.isfinite(v) for v in values) or len(set(values)) != len(values):
        raise SourceError(f"'{table}': times must be finite and all different.")
    return {name: value - values[0] for name, value in ordered.items()}
