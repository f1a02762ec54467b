"""Finding faces, and cutting them out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from svfap_edge.cache import FACE_MODEL_NAME, cache_root, find_face_model
from svfap_edge.clip import fit_face
from svfap_edge.ending import native
from svfap_edge.errors import DependencyMissing, SourceError, SvfapError, require

DETECTORS = ("auto", "yunet", "haar", "none")
"""What `open_detector` takes."""

DETECT_SIZE = 320
"""Frames are shrunk to this many pixels on the longer side before faces are looked for."""

AUTO_SIZE = 1920
"""The detection size "auto": a face of 1/40 of the frame's longer side then has 48 pixels. Both
detectors found such faces, and some of 30 pixels."""


@dataclass(frozen=True)
class Box:
    """A face in pixels of the frame: left, top, width, height; `score` in 0..1."""

    x: float
    y: float
    width: float
    height: float
    score: float = 1.0

    def to_json(self) -> dict[str, float]:
        """Left, top, width and height in pixels, to one place."""
        sides = {"x": self.x, "y": self.y, "width": self.width, "height": self.height}
        return {name: round(float(value), 1) for name, value in sides.items()}

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def usable(self) -> bool:
        """Whether it has an area, and all its numbers are finite."""
        numbers = (self.x, self.y, self.width, self.height)
        return self.width > 0 and self.height > 0 and all(map(math.isfinite, numbers))

    @property
    def side(self) -> float:
        return max(self.width, self.height)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0..1."""
        w = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        h = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        if w <= 0 or h <= 0:
            return 0.0
        shared = w * h
        return shared / (self.width * self.height + other.width * other.height - shared)

    def moved(self, dx: float, dy: float) -> Box:
        return replace(self, x=self.x + dx, y=self.y + dy)

    def scaled(self, factor: float) -> Box:
        """The same place in a picture `factor` times as large."""
        return replace(
            self,
            x=self.x * factor,
            y=self.y * factor,
            width=self.width * factor,
            height=self.height * factor,
        )

    def blended(self, newer: Box, share: float) -> Box:
        """This box moved towards `newer` by `share` of the difference."""
        return Box(
            self.x + share * (newer.x - self.x),
            self.y + share * (newer.y - self.y),
            self.width + share * (newer.width - self.width),
            self.height + share * (newer.height - self.height),
            newer.score,
        )


MAX_PADDED_SIDE = 1024
"""Longest side in pixels of a crop that is filled up with repeated borders: its memory depends on
the detector, and not on the frame."""


def crop_face(frame: np.ndarray, box: Box, margin: float, size: int | None = None) -> np.ndarray:
    """Cut a square around a face from a frame, (H, W, 3) uint8, whose border pixels are repeated
    beyond it. `margin` is how much longer than the longer side of the box the square is, as a share
    of it. The square is resized to (size, size, 3), or keeps its pixels if `size` is None; one that
    reaches beyond the frame has at most `MAX_PADDED_SIDE` of them."""
    side = max(2, round(box.side * (1 + margin)))
    x = round(box.center[0] - side / 2)
    y = round(box.center[1] - side / 2)
    height, width = frame.shape[:2]
    # Keep at least one column and row of the frame, wherever a prediction put the box.
    x, y = min(max(x, 1 - side), width - 1), min(max(y, 1 - side), height - 1)
    inside = frame[max(0, y) : y + side, max(0, x) : x + side]
    pads = (max(0, -y), max(0, y + side - height), max(0, -x), max(0, x + side - width))
    if any(pads) and side > MAX_PADDED_SIDE:  # a box of a wild detector, or a frame one pixel wide
        shrink = MAX_PADDED_SIDE / side
        shape = [max(1, round(n * shrink)) for n in inside.shape[1::-1]]
        inside = cv2.resize(inside, shape, interpolation=cv2.INTER_AREA)
        top, left = (min(round(n * shrink), MAX_PADDED_SIDE - 1) for n in (pads[0], pads[2]))
        pads = (
            top, max(0, MAX_PADDED_SIDE - top - shape[1]),
            left, max(0, MAX_PADDED_SIDE - left - shape[0]),
        )  # fmt: skip
    if any(pads):
        inside = cv2.copyMakeBorder(inside, *pads, cv2.BORDER_REPLICATE)
    if size is None:
        return inside
    face = np.empty((size, size, 3), np.uint8)
    fit_face(inside, face)
    return face


class Detector(Protocol):
    """Finds faces in one frame."""

    name: str

    def detect(self, frame: np.ndarray) -> list[Box]:
        """(H, W, 3) uint8 RGB to boxes in its pixels, the largest first."""
        ...


@runtime_checkable
class NearDetector(Detector, Protocol):
    """A detector that also looks for one face where it is expected, with less work.

    Attributes:
        size: Pixels of the longer side that whole frames are shrunk to.
    """

    size: int

    def near(self, frame: np.ndarray, expected: Box) -> Box | None:
        """The face in a window of the frame around where it is expected; None if it is not
        there."""
        ...


WINDOW = 2.5
"""Side of a window in sides of the face."""

WINDOW_SIZE = 128
"""Windows are shrunk to this many pixels, so that the face has about 51; a multiple of the 32 of
YuNet's coarsest grid."""


@dataclass(frozen=True)
class Window:
    """A square of a frame in which one face is looked for.

    Attributes:
        x, y: Left and top in pixels of the frame.
        side: Pixels of the frame.
    """

    x: int
    y: int
    side: int

    @classmethod
    def around(cls, box: Box, frame: np.ndarray) -> Window:
        """The window of a box, moved into the frame, and no larger than that."""
        height, width = frame.shape[:2]
        side = max(1, min(round(WINDOW * box.side), height, width))
        x, y = (round(center - side / 2) for center in box.center)
        return cls(min(max(x, 0), width - side), min(max(y, 0), height - side), side)

    @property
    def side_searched(self) -> int:
        """Pixels of the side in which is searched."""
        return min(self.side, WINDOW_SIZE)

    def cut(self, frame: np.ndarray) -> tuple[np.ndarray, float]:
        """The pixels in which is searched, and their number for one of the frame along a side."""
        inside = frame[self.y : self.y + self.side, self.x : self.x + self.side]
        return _shrink(inside, WINDOW_SIZE)

    def best(self, found: list[Box], expected: Box) -> Box | None:
        """The one of the boxes in pixels of the window, moved into the frame, that fits best to
        where it is expected; None if none has anything in common with that."""
        moved = [box.moved(self.x, self.y) for box in found]
        fits = [box for box in moved if box.iou(expected) > 0]
        return max(fits, key=expected.iou, default=None)


class YuNetDetector:
    """YuNet (Wu et al. 2023), the network that OpenCV Zoo publishes."""

    name = "yunet"

    def __init__(self, model: Path, min_score: float = 0.7, size: int | str = DETECT_SIZE) -> None:
        """Load it; SourceError if the file is missing or is not YuNet."""
        if not os.path.isfile(model):
            raise SourceError(f"No face model at '{model}'. Expected {FACE_MODEL_NAME}.")
        self.size = check_detect_size(size)
        try:
            # By its bytes: a name that is no UTF-8 would end the process.
            content = np.fromfile(model, np.uint8)
            nothing = np.empty(0, np.uint8)
            self._net, self._near = (
                cv2.FaceDetectorYN.create("onnx", content, nothing, (64, 64), min_score, 0.3)
                for _ in range(2)  # each keeps its size, which takes time to change
            )
            self._net.detect(np.zeros((64, 64, 3), np.uint8))
        except (cv2.error, OSError) as error:
            raise SourceError(
                f"'{model}' is not a YuNet face model: {str(error).strip()[:200]}. "
                f"Expected OpenCV Zoo's {FACE_MODEL_NAME}."
            ) from error

    def detect(self, frame: np.ndarray) -> list[Box]:
        return self._run(self._net, *_shrink(frame, self.size))

    def near(self, frame: np.ndarray, expected: Box) -> Box | None:
        window = Window.around(expected, frame)
        return window.best(self._run(self._near, *window.cut(frame)), expected)

    @staticmethod
    def _run(net: cv2.FaceDetectorYN, small: np.ndarray, scale: float) -> list[Box]:
        net.setInputSize((small.shape[1], small.shape[0]))
        _, found = net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        rows = [] if found is None else found
        return _boxes([(row[:4], row[14]) for row in rows if row[2] > 0 and row[3] > 0], scale)


class HaarDetector:
    """The frontal-face cascade that OpenCV 4 ships (Viola and Jones 2001)."""

    name = "haar"

    def __init__(self, size: int | str = DETECT_SIZE) -> None:
        """Load it; DependencyMissing if this OpenCV has no cascades (5.0 dropped them)."""
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        path = Path(folder or "") / "haarcascade_frontalface_default.xml"
        if not hasattr(cv2, "CascadeClassifier") or not folder or not path.is_file():
            raise DependencyMissing(
                f"This OpenCV ({cv2.__version__}) has no Haar cascades. Give YuNet's file instead "
                f"(--face-model {FACE_MODEL_NAME}), or install opencv-python 4.x."
            )
        self.size = check_detect_size(size)
        self._cascade = cv2.CascadeClassifier(str(path))

    def detect(self, frame: np.ndarray) -> list[Box]:
        return self._run(*_shrink(frame, self.size))

    def near(self, frame: np.ndarray, expected: Box) -> Box | None:
        window = Window.around(expected, frame)
        return window.best(self._run(*window.cut(frame)), expected)

    def _run(self, small: np.ndarray, scale: float) -> list[Box]:
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        found, _, weights = self._cascade.detectMultiScale3(
            grey,
            scaleFactor=1.1,
            minNeighbors=5,
            minSize=(24, 24),
            outputRejectLevels=True,
        )
        scores = [1 / (1 + float(np.exp(-weight))) for weight in np.ravel(weights)]
        return _boxes(zip(found, scores, strict=True), scale)


class WholeFrame:
    """No detector: every frame is one face already."""

    name = "none"

    def detect(self, frame: np.ndarray) -> list[Box]:
        return [Box(0, 0, frame.shape[1], frame.shape[0])]


def check_detector(choice: str) -> None:
    """Raises SvfapError unless `choice` is one of `DETECTORS`."""
    if choice not in DETECTORS:
        raise SvfapError(f"No detector '{choice}'. Choose one of: {', '.join(DETECTORS)}.")


def check_detect_size(size: int | str) -> int:
    """The detection size in pixels; ConfigError if it is neither "auto" nor 64 or more."""
    pixels = AUTO_SIZE if size == "auto" else int(size) if str(size).isdecimal() else 0
    require(pixels >= 64, "detect_size", "auto, or 64 pixels or more", size)
    return pixels


@native
def open_detector(
    choice: str | Detector = "auto",
    face_model: str | os.PathLike[str] | None = None,
    detect_size: int | str = DETECT_SIZE,
) -> Detector:
    """A face detector.

    Args:
        choice: "yunet", "haar", "none" (the frame is the face), or "auto": YuNet where its file
            is given, named by `SVFAP_EDGE_FACE_MODEL` or cached, Haar otherwise. A detector is
            returned as it is.
        face_model: YuNet's file.
        detect_size: Pixels of the longer side that frames are shrunk to before faces are looked
            for (320). "auto", 1920, is as many as it takes to find a face of 1/40 of that side; a
            frame of 3840 pixels then takes 10 to 15 times as long.

    Raises:
        SourceError: the YuNet file is missing or wrong.
        DependencyMissing: Haar was asked for and this OpenCV has none.
        ConfigError: a detection size that is too small or no number.
        SvfapError: an unknown choice.
    """
    if not isinstance(choice, str):
        named = hasattr(choice, "detect")
        require(named, "detector", f"one of {', '.join(DETECTORS)}, or a Detector", choice)
        return choice
    check_detector(choice)
    if choice == "none":
        return WholeFrame()
    if choice == "haar":
        return HaarDetector(detect_size)
    model = Path(face_model) if face_model else find_face_model()
    if model is not None:
        return YuNetDetector(model, size=detect_size)
    if choice == "yunet":
        raise SourceError(
            f"YuNet needs its file {FACE_MODEL_NAME}, from OpenCV Zoo: pass --face-model FILE, "
            f"set SVFAP_EDGE_FACE_MODEL, or copy it to {cache_root() or 'the cache folder'}."
        )
    return HaarDetector(detect_size)


def shrunk_size(frame: np.ndarray, size: int) -> tuple[int, int]:
    """Width and height of a frame whose longer side is shrunk to `size` pixels, if it is longer."""
    scale = min(1.0, size / max(frame.shape[:2]))
    width, height = (max(1, round(n * scale)) for n in frame.shape[1::-1])
    return width, height


def _shrink(frame: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    longer = max(frame.shape[:2])
    if longer <= size:
        return frame, 1.0
    small = cv2.resize(frame, shrunk_size(frame, size), interpolation=cv2.INTER_AREA)
    return small, size / longer


def _boxes(found: Iterable[tuple[Iterable[Any], float]], scale: float) -> list[Box]:
    """Boxes in pixels of the frame, the largest first, from sides in the shrunk one and scores."""
    boxes = []
    for sides, score in found:
        x, y, width, height = (float(side) / scale for side in sides)
        boxes.append(Box(x, y, width, height, float(score)))
    return sorted(boxes, key=lambda box: -box.side)
