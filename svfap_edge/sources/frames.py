"""What every source is and yields: frames with the time of their capture, gaps, and counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, TypeVar

import numpy as np

DEFAULT_FPS = 25.0
"""Frames a second that are assumed where nothing else says, as for images without times."""

_AnySource = TypeVar("_AnySource", bound="Source")


@dataclass(frozen=True)
class Frame:
    """A captured frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        timestamp_s: Capture time in seconds since the source's first frame, increasing.
        index: Number of the frame in the source, from 0. Frames that a live source dropped are
            counted too, so that numbers may be left out.
        gap: True for the first frame after a time without frames, or after a reconnection: what
            came before may show something else. See `Perceiver.reset`.
    """

    image: np.ndarray = field(repr=False, compare=False)
    timestamp_s: float
    index: int
    gap: bool = False


@dataclass(frozen=True)
class Gap:
    """A live source gives no frames just now.

    Attributes:
        timestamp_s: Time until which no frame came, in seconds since the source's first frame.
        reason: "lost" (not connected), "silent" (connected, but no frame), "frozen" (the same
            picture again and again) or "black".
        first: True for the first report of a gap; it is reported again and again while it lasts.
    """

    timestamp_s: float
    reason: str
    first: bool


@dataclass(frozen=True)
class SourceCounts:
    """What became of a live source's frames.

    After its end captured = processed + dropped, exactly; before, one more frame may be waiting.

    Attributes:
        captured: Frames taken from the camera since the iteration began, or pushed.
        processed: Captured frames that were handed to whoever iterates.
        dropped: Captured frames that were not handed over: replaced by a newer one, withheld, or
            left at the end.
        duplicate: Dropped frames that were withheld because they repeated the one before exactly.
        black: Dropped frames that were withheld because they showed nothing.
        refused: Frames pushed with a wrong shape, dtype or time; they do not count as captured.
        failed: Reads and connections that failed or took too long.
        reconnected: How often frames came again after the connection was lost.
        abandoned: Failed reads and connections that hung, so that their thread was left behind.
        resized: How often the frame size changed.
        gaps: How often no frame came for longer than `LiveSettings.missing_s`.
    """

    captured: int = 0
    processed: int = 0
    dropped: int = 0
    duplicate: int = 0
    black: int = 0
    refused: int = 0
    failed: int = 0
    reconnected: int = 0
    abandoned: int = 0
    resized: int = 0
    gaps: int = 0


class Source:
    """Frames in order of time. A source is read once; a subclass says how, in `__iter__`.

    Attributes:
        name: Name for messages and results, without passwords.
        frames: Number of frames to expect, or None where unknown.
        fps: Nominal frames a second, or None where unknown.
        start_s: Time of the first frame in seconds from the beginning of a recording, which is that
            of its sound where the picture starts later. `Frame.timestamp_s` counts from there.
        live: True where frames come in their own time (cameras), False where each waits until it
            is read (files).
        warnings: What went wrong without ending the source, each kind once.
    """

    def __init__(self, name: str, frames: int | None, fps: float | None) -> None:
        self.name = name
        self.frames = frames
        self.fps = fps
        self.start_s = 0.0
        self.live = False
        self.warnings: list[str] = []

    @property
    def counts(self) -> SourceCounts | None:
        """What became of a live source's frames so far; None where the source is not live."""
        return None

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def items(self) -> Iterator[Frame | Gap]:
        """The frames; and a `Gap`, again and again, while a live source gives none."""
        return iter(self)

    def stop(self) -> None:
        """Ask the iteration to end. Any thread or signal handler may; only live sources obey."""

    def close(self) -> None:
        """Free the source. It may be called again."""

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def __enter__(self: _AnySource) -> _AnySource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class StartTime:
    """When a live source began: the moment from which `Frame.timestamp_s` counts.

    Attributes:
        source: Name of the source.
        origin_s: That moment in seconds of the capture clock: `time.monotonic` for a camera, the
            application's own clock for pushed frames.
        wall_time: The same moment by the system's clock, ISO 8601 in UTC. For pushed frames, whose
            clock is not known here, it is reckoned from when the first one was taken.
    """

    source: str
    origin_s: float
    wall_time: str

    @property
    def times(self) -> dict[str, Any]:
        """Both times, as a summary holds them."""
        return {"origin_s": round(self.origin_s, 6), "wall_time": self.wall_time}

    def to_json(self) -> dict[str, Any]:
        """The line that comes with a live source's first frame."""
        return {"type": "source", "source": self.source, **self.times}


def start_time_of(source: Source, frame: Frame) -> StartTime | None:
    """When a live source began, of which `frame` was just taken; None for other sources."""
    origin_s = getattr(source, "origin_s", None)
    if not source.live or origin_s is None:
        return None
    on_our_clock = getattr(source, "monotonic", False)
    age_s = time.monotonic() - origin_s if on_our_clock else frame.timestamp_s
    moment = datetime.fromtimestamp(time.time() - age_s, timezone.utc)
    return StartTime(source.name, origin_s, moment.isoformat(timespec="milliseconds"))
