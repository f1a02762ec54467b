"""Sources whose frames are drawn as they are read, and the built-in demonstration, "sample"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from .frames import Frame, Source


class Generated(Source):
    """Frames that a function draws: an image, (H, W, 3) uint8 RGB, of a time in seconds from 0."""

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


def read_portrait() -> np.ndarray:
    """The astronaut Eileen Collins in front of a model of the shuttle, (512, 512, 3) uint8 RGB.

    NASA's photograph, in the public domain: https://flic.kr/p/r9qvLn, cut to a square.
    """
    encoded = np.frombuffer(Path(__file__).with_name("portrait.jpg").read_bytes(), np.uint8)
    found = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert found is not None, "the package is damaged"
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def sample_source() -> Generated:
    """The built-in demonstration: 6 s of a camera over a portrait of a smiling astronaut.

    For 3.5 s the camera sways over the face, then it swings away to the shuttle model beside it.
    640x360 pixels, 25 fps.
    """
    portrait = read_portrait()
    # What the camera sees at these times: (center x, center y, width) in the 512x512 portrait.
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
