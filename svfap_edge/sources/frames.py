"""What every source yields, and what all sources share: frames with the time of their capture."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A captured frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        timestamp_s: Capture time in seconds since the source's first frame, increasing.
        index: Number of the frame in the source, from 0. Of a live source, dropped frames count.
        gap: The first frame after a time without frames, or after a reconnection: what came
            before may show something else. See `Perceiver.reset`.
    """

    image: np.ndarray
    timestamp_s: float
    index: int
    gap: bool = False


@dataclass(frozen=True)
class Gap:
    """A live source gives no frames just now.

    Attributes:
        timestamp_s: Time until which none came, in seconds since the source's first frame.
        reason: "lost" (not connected), "silent" (connected, no frame), "frozen" (the same picture
            again and again) or "black".
        first: Whether this gap was not told before; the same one is told again while it lasts.
    """

    timestamp_s: float
    reason: str
    first: bool


@dataclass(frozen=True)
class SourceCounts:
    """What became of a live source's frames. After its end captured = processed + dropped, exactly;
    before, one more frame may be waiting.

    Attributes:
        captured: Frames taken from the camera since the iteration began, or pushed.
        processed: Of these, handed to whoever iterates.
        dropped: Of these, not handed over: replaced by a newer one, withheld, or left at the end.
        duplicate: Of the dropped, withheld because they repeated the frame before them exactly.
        black: Of the dropped, withheld because they showed nothing.
        refused: Frames pushed with a wrong shape, dtype or time. Not captured.
        failed: Reads and connections that failed or took too long.
        reconnected: Times that frames came again after the connection was lost.
        abandoned: Of the failed, those that hung, so that their thread was left behind.
        resized: Changes of the frame size.
        gaps: Times that no frame came for longer than `LiveSettings.missing_s`.
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


class Source(Protocol):
    """Frames in order of time, once.

    Attributes:
        name: For messages and results.
        frames: Frames to expect, or None where unknown.
        fps: Nominal frame rate, or None where unknown.
        live: Whether frames come when they come, wanted or not.
        warnings: What went wrong without ending the source; each said once.
    """

    name: str
    frames: int | None
    fps: float | None
    live: bool
    warnings: list[str]

    @property
    def counts(self) -> SourceCounts | None:
        """So far, of a live source; None of others."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def items(self) -> Iterator[Frame | Gap]:
        """As iteration, and it says when a live source gives no frames."""
        ...

    def stop(self) -> None:
        """Ask the iteration to end. From any thread or signal handler; only live sources obey."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class BaseSource:
    """What all sources share."""

    def __init__(self, name: str, frames: int | None, fps: float | None) -> None:
        self.name = name
        self.frames = frames
        self.fps = fps
        self.live = False
        self.warnings: list[str] = []

    @property
    def counts(self) -> SourceCounts | None:
        return None

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def items(self) -> Iterator[Frame | Gap]:
        return iter(self)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        """Free the source. Idempotent."""

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def __enter__(self) -> BaseSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Origin:
    """Time 0 of a live source.

    Attributes:
        source: Its name.
        origin_s: On the capture clock: `time.monotonic` of a camera, the application's own of
            pushed frames.
        wall_time: ISO 8601, UTC; of pushed frames, when the first was taken less its time since.
    """

    source: str
    origin_s: float
    wall_time: str

    @property
    def times(self) -> dict[str, Any]:
        return {"origin_s": round(self.origin_s, 6), "wall_time": self.wall_time}

    def to_json(self) -> dict[str, Any]:
        return {"type": "source", "source": self.source, **self.times}


def origin_of(source: Source, frame: Frame) -> Origin | None:
    """Of a live source, asked when its first frame was just taken; None of others."""
    origin_s = getattr(source, "origin_s", None)
    if not source.live or origin_s is None:
        return None
    on_our_clock = getattr(source, "monotonic", False)
    age_s = time.monotonic() - origin_s if on_our_clock else frame.timestamp_s
    moment = datetime.fromtimestamp(time.time() - age_s, timezone.utc)
    return Origin(source.name, origin_s, moment.isoformat(timespec="milliseconds"))
