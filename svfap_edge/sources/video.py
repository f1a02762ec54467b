"""Recorded videos, one frame after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svfap_edge.errors import SourceError

from .decoding import Decoder
from .frames import DEFAULT_FPS, Frame, Source
from .steady import WRONG_TIMES, steady

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class Picture:
    """A decoded picture, not yet converted.

    Attributes:
        timestamp_s: As in `Frame`.
        gap: As in `Frame`.
    """

    timestamp_s: float
    gap: bool
    _frame: VideoFrame
    _decoder: Decoder

    def image(self) -> np.ndarray:
        """The picture as a player shows it: (H, W, 3) uint8 RGB, in a size of its own."""
        return self._decoder.image(self._frame)


class VideoFile(Source):
    """A video file. Frames have the times of the container, so a variable frame rate is kept; see
    `steady` for times that are missing or wrong, and `decoding` for what a picture is.

    Attributes:
        damage: What is wrong with the file, or None. It is known when all frames were read.

    Raises:
        SourceError: there is no such file, or it is no video with a readable frame.
        DependencyMissing: PyAV is not installed.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        """`threads` decode; 0 takes as many as there are cores."""
        if not os.path.isfile(path):
            raise SourceError(f"No video at '{path}'.")
        self._decoder = Decoder(path, threads)
        decoded = self._decoder.pictures()
        first = next(decoded, None)
        if first is None:
            self._decoder.close()
            raise SourceError(
                f"'{path}' is damaged or not a video: no picture in it can be decoded. Check that "
                "it plays; convert it to H.264 in MP4 if it does."
            )
        time_s, rate = self._decoder.seconds(first[0]), self._decoder.rate(first[0] is not None)
        super().__init__(str(path), self._decoder.promised or None, rate)
        self.start_s = (
            0.0 if time_s is None else max(0.0, round(time_s - self._decoder.offset_s, 6))
        )
        self.damage: str | None = None
        self._first_s = time_s or 0.0
        self._decoded = ((self._decoder.seconds(t), f) for t, f in chain([first], decoded))

    def __iter__(self) -> Iterator[Frame]:
        for index, picture in enumerate(self.pictures()):
            yield Frame(picture.image(), picture.timestamp_s, index, picture.gap)

    def pictures(self) -> Iterator[Picture]:
        """All frames, converted only where that is asked for. At the end it warns of damage."""
        last_s, jumped = 0.0, False
        interval_s = 1 / (self.fps or DEFAULT_FPS)
        for time_s, gap, frame in steady(self._decoded, interval_s, self._warn):
            last_s, jumped = time_s, jumped or gap
            yield Picture(time_s, gap, frame, self._decoder)
        if not jumped and WRONG_TIMES not in self.warnings:
            self.damage = self._decoder.damage(self._first_s + last_s)
        if self.damage:
            self._warn(f"The video is damaged: {self.damage}.")
        elif self._decoder.undecoded:
            self._warn(f"Frames that cannot be decoded are left out: {self._decoder.undecoded}.")

    def close(self) -> None:
        self._decoder.close()
