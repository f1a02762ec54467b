"""Recorded frames: folders of images, single images."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.ending import native
from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.list_file import decoded
from svfap_edge.media import CONVERT, IMAGE_SUFFIXES, is_foreign, is_image

from .frames import DEFAULT_FPS, Frame, Source
from .sample import Generated

TIMESTAMPS = "timestamps.csv"
"""File with the times of a folder's images, beside them: lines `name,timestamp_s`."""

STILL_SECONDS = 3.0
"""Length in seconds of the source that a single image makes."""

LONGEST_SIDE = 4096
"""Longer side in pixels to which larger pictures are shrunk: a face of 1/40 of it still has 100."""


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
        if not (path / TIMESTAMPS).is_file() or fps is not None:
            gaps = missing_numbers(list(self._times))
            self.warnings += [] if gaps is None else [gaps]

    def __iter__(self) -> Iterator[Frame]:
        for index, (name, timestamp_s) in enumerate(self._times.items()):
            yield Frame(read_image(self._path / name), timestamp_s, index)


class StillImage(Generated):
    """One image, shown for 3 seconds; SourceError if it is not readable."""

    def __init__(self, path: Path, fps: float | None = None) -> None:
        image = read_image(path)
        image.flags.writeable = False  # so that it is searched once; see `View.search`
        super().__init__(str(path), lambda time_s: image, STILL_SECONDS, fps or DEFAULT_FPS)


@native
def read_image(path: Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB, a grey one with three equal channels.

    It is turned as its EXIF data say. One of 16 bits is scaled by its real range, since cameras
    write 10 to 14 bits into them; one longer than `LONGEST_SIDE` is shrunk to that.

    Raises:
        UnreadableClip: it is not readable, cut off, animated, or of a kind that is not read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableClip(str(path), str(error.strerror)) from error
    if is_foreign(path) or data[4:8] == b"ftyp":  # HEIC and AVIF by any name: OpenCV turns none
        convert = CONVERT.format(path.name, f"{path.stem}.png")
        raise UnreadableClip(str(path), f"a kind of picture that is not read here. {convert}")
    if _is_animated(data):
        convert = CONVERT.format(path.name, f"{path.stem}.gif")
        raise UnreadableClip(str(path), f"it is animated; a GIF is read as a video. {convert}")
    depths = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    image = cv2.imdecode(np.frombuffer(data, np.uint8), depths) if data else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise UnreadableClip(str(path), "not a readable image")
    if _is_cut_off(data):
        raise UnreadableClip(str(path), "not a readable image: it is cut off")
    if image.dtype == np.uint16:
        bits = next(n for n in (8, 10, 12, 14, 16) if image.max() < 1 << n)
        image = cv2.convertScaleAbs(image, alpha=255 / ((1 << bits) - 1))
    shrink = LONGEST_SIDE / max(image.shape[:2])
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_animated(data: bytes) -> bool:
    """Whether a WebP or PNG holds several pictures, of which OpenCV would show the first."""
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        return bool(data[20] & 2)
    control = data.find(b"acTL", 0, max(0, data.find(b"IDAT"))) if data[1:4] == b"PNG" else -1
    return control >= 0 and int.from_bytes(data[control + 4 : control + 8], "big") > 1


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG ends inside its last scan (OpenCV fills the rest with grey). The bytes of a
    scan hold no markers, so the end of the image has to follow the last start of a scan."""
    return data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def folder_times(path: Path, fps: float | None = None) -> dict[str, float]:
    """Names of a folder's images and their times in seconds, in order; see `ImageFolder`."""
    names = [p.name for p in path.iterdir() if is_image(p)]
    if not names:
        foreign = next((p.name for p in path.iterdir() if is_foreign(p)), None)
        advice = f" {CONVERT.format(foreign, Path(foreign).stem + '.png')}." if foreign else ""
        raise SourceError(f"Folder '{path}' holds no images ({', '.join(IMAGE_SUFFIXES)}).{advice}")
    decimal = all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", Path(name).stem) for name in names)
    names.sort(key=(lambda name: float(Path(name).stem)) if decimal else _natural)
    table = path / TIMESTAMPS
    if table.is_file() and fps is None:
        return _read_timestamps(table, names)
    return {name: i / (fps or DEFAULT_FPS) for i, name in enumerate(names)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts frame 10 after frame 9."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]


def missing_numbers(names: Sequence[str]) -> str | None:
    """A sentence about gaps in the numbers of frames, `frame_7.png` after `frame_4.png`; None where
    there are none, or the names are not numbered."""
    matches = [re.fullmatch(r"(.*?)([0-9]+)\.[^.]*", name) for name in names]
    if not all(matches) or len({match[1] for match in matches if match}) > 1:
        return None
    numbers = [int(match[2]) for match in matches if match]
    gaps = [(a, b) for a, b in pairwise(numbers) if b > a + 1]
    steps = {b - a for a, b in pairwise(numbers)}
    if not gaps:
        return None
    if len(steps) == 1:
        step = steps.pop()
        return (
            f"The numbers of the images go up by {step}. If one of {step} frames of a recording "
            f"was kept, its rate has to be divided by {step}, too: give that as --fps, or the "
            "times in timestamps.csv."
        )
    missing = sum(b - a - 1 for a, b in gaps)
    return (
        f"The numbers of the images have gaps: {missing} are missing, first after {gaps[0][0]}. "
        "The images follow each other as if none were; give their times in timestamps.csv if "
        "frames were lost."
    )


def _read_timestamps(table: Path, names: list[str]) -> dict[str, float]:
    """Time in seconds by name, in order of time, of all images of the folder; the first is 0."""
    times: dict[str, float] = {}
    text = decoded(table, otherwise="latin-1")
    # Spreadsheets write semicolons where "," is the decimal sign.
    semicolons = ";" in text.partition("\n")[0]
    rows = csv.reader(text.splitlines(), delimiter=";" if semicolons else ",")
    for number, row in enumerate(rows, 1):
        if not "".join(row).strip():
            continue
        try:
            value = row[1].replace(",", ".") if semicolons else row[1]
            name, time_s = row[0].strip(), float(value)
        except (IndexError, ValueError) as error:
            if number == 1:  # it is a header
                continue
            raise SourceError(
                f"'{table}', line {number}: expected 'name,timestamp_s', got {row}."
            ) from error
        times[name] = time_s
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
