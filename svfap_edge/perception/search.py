"""Where to look for faces in a frame: around those that are followed, or everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .detectors import Box, Detector, NearDetector, Window, shrunk_size
from .tracking import Track

WHOLE_S = 0.5
"""Seconds after which the whole picture is searched again, whatever happens."""

WORTH = 0.7
"""Windows are searched where they have less than this share of the pixels of the whole picture."""

CELLS = 24
"""Cells along the longer side of a picture, in which changes are looked for."""

SAMPLES = 4
"""Pixels along each side of a cell that are looked at."""

CHANGED = 12.0
"""Mean difference of a cell, in levels of 255, from which on somebody may have come in there."""

SAME = 0.5
"""Intersection over union from which on two boxes are of one face."""


class Search:
    """Finds the faces of one camera's frames with as little work as they need.

    Where all faces are confirmed and were found in the last frame that was searched, only a window
    around each is. The whole picture is searched where one of them is not found, where a face is
    not confirmed yet, where something outside of the windows has changed since, and every `WHOLE_S`
    (0.5) seconds; with a detector that offers no windows, always.

    Attributes:
        whole: Number of searches of whole pictures.
    """

    def __init__(self, detector: Detector) -> None:
        self.whole = 0
        self._detector = detector
        self._near = detector if isinstance(detector, NearDetector) else None
        # Of the last picture that was searched whole.
        self._whole_s: float | None = None
        self._shape: tuple[int, ...] = ()
        self._looks: np.ndarray | None = None

    def find(self, image: np.ndarray, timestamp_s: float, tracks: Sequence[Track]) -> list[Box]:
        """The faces of a frame, (H, W, 3) uint8 RGB, given everyone who is followed, confirmed or
        not."""
        if self._near is not None:
            looks = _looks_of(image)
            expected = [track.expected(timestamp_s) for track in tracks]
            found = []
            settled = image.shape == self._shape and self._settled(timestamp_s, tracks)
            if settled and self._unchanged(image, looks, expected):
                found = [self._near.near(image, box) for box in expected]
            boxes = [box for box in found if box is not None]
            if boxes and len(boxes) == len(found) and not _one_twice(boxes):
                return boxes
            self._looks = looks
        self._whole_s, self._shape = timestamp_s, image.shape
        self.whole += 1
        return self._detector.detect(image)

    def restart(self) -> None:
        """The next picture is of another time, or another place."""
        self._whole_s = self._looks = None

    def _settled(self, timestamp_s: float, tracks: Sequence[Track]) -> bool:
        recent = self._whole_s is not None and timestamp_s - self._whole_s < WHOLE_S - 1e-6
        return recent and all(track.number and track.found for track in tracks)

    def _unchanged(self, image: np.ndarray, looks: np.ndarray, expected: list[Box]) -> bool:
        """Whether windows are worth it, and nothing changed outside of them."""
        assert self._near is not None
        wide, high = shrunk_size(image, self._near.size)
        windows = [Window.around(box, image) for box in expected]
        pixels = sum(window.side_searched**2 for window in windows)
        if not windows or pixels > WORTH * wide * high:
            return False
        if self._looks is None:
            return False
        changed = np.abs(looks - self._looks) > CHANGED
        cell = SAMPLES * _step(image)
        for window in windows:
            rows = slice(window.y // cell, -(-(window.y + window.side) // cell))
            columns = slice(window.x // cell, -(-(window.x + window.side) // cell))
            changed[rows, columns] = False
        return not changed.any()


def _one_twice(boxes: list[Box]) -> bool:
    return any(a.iou(b) > SAME for a, b in combinations(boxes, 2))


def _step(image: np.ndarray) -> int:
    return max(1, int(max(image.shape[:2])) // (CELLS * SAMPLES))


def _looks_of(image: np.ndarray) -> np.ndarray:
    """Brightness of the picture in about `CELLS` cells along its longer side, in levels of 255."""
    step = _step(image)
    green = image[::step, ::step, 1]
    high, wide = (n // SAMPLES for n in green.shape)
    cells = green[: high * SAMPLES, : wide * SAMPLES].reshape(high, SAMPLES, wide, SAMPLES)
    looks: np.ndarray = cells.mean(axis=(1, 3), dtype=np.float32)
    return looks
