"""Clips by time: which captured frame fills which slot. `schedule` says when a clip is due.

The runtime and training both read streams by these rules.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from .errors import FrameError, TimestampError

LATEST_S = 1e15
"""Times in seconds further from zero than this have no fractions that a camera needs."""

FRAMES_PER_SPACING = 8
"""Captured frames kept per clip spacing. Faster cameras are thinned to this, to bound memory."""


@dataclass(frozen=True)
class ClipSpec:
    """Geometry of the clip a model reads. The bounds are checked where a manifest is read.

    Attributes:
        frames: Number of slots T of a clip.
        span_s: Time that the clip covers in seconds; `frames` times the spacing.
        size: Side of the square face in pixels.
    """

    frames: Annotated[int, Meta(ge=1, le=1024)]
    span_s: Annotated[float, Meta(ge=1e-3, le=3600)]
    size: Annotated[int, Meta(ge=8, le=4096)]

    @property
    def spacing_s(self) -> float:
        """Seconds between neighbouring slots."""
        return self.span_s / self.frames

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape (T, H, W, 3) of a clip; H and W are `size`."""
        return (self.frames, self.size, self.size, 3)

    def slot_times(self, end_s: float) -> list[float]:
        """Times in seconds of the T slots of a clip that ends at `end_s`, the oldest first."""
        spacing = self.spacing_s
        return [end_s - spacing * back for back in range(self.frames - 1, -1, -1)]


def check_frame(frame: np.ndarray) -> None:
    """Raise FrameError unless `frame` is (H, W, 3) uint8 and not empty."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(
            f"A frame must be a numpy array (H, W, 3) uint8 RGB; got {type(frame).__name__}."
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameError(
            f"A frame must be (H, W, 3) uint8 RGB; got {frame.shape} {frame.dtype}. "
            "Grey or RGBA images: convert with cv2.cvtColor first; float images: scale to 0..255."
        )


def check_advance(timestamp_s: float, last_s: float | None, way_out: str) -> None:
    """Raise TimestampError unless `timestamp_s` is a number within `LATEST_S`, and later than
    `last_s` if that is not None. `way_out` says what to do after a jump of the clock."""
    try:
        finite = math.isfinite(timestamp_s)
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        raise TimestampError(f"A timestamp must be a finite number; got {timestamp_s!r:.80}.")
    if abs(timestamp_s) > LATEST_S:
        raise TimestampError(
            f"A timestamp must lie within {LATEST_S:g} s; got {timestamp_s!r:.80}. Pass capture "
            "times in seconds, not in nanoseconds."
        )
    if last_s is not None and timestamp_s <= last_s:
        raise TimestampError(
            f"Timestamps must increase: got {timestamp_s:.6f} s after {last_s:.6f} s. "
            f"Pass the capture time; after a jump of the clock, {way_out}."
        )


def fit_face(face: np.ndarray, place: np.ndarray) -> None:
    """Write a face, (H, W, 3) uint8, to the model's square, (size, size, 3) uint8 in one block of
    memory. A face that is not square is stretched to it. Pixels are averaged where the face shrinks
    in both directions, and interpolated otherwise."""
    size = place.shape[0]
    if face.shape == place.shape:
        place[:] = face
        return
    import cv2  # a caller whose faces fit never pays for it

    shrinks = min(face.shape[:2]) > size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(face, (size, size), dst=place, interpolation=how)


@dataclass(frozen=True)
class SampledClip:
    """A clip and how much of it is real.

    Attributes:
        frames: (T, size, size, 3) uint8 RGB. A slot without a captured frame repeats the
            captured frame nearest in time.
        start_s: Time of the first slot in seconds.
        end_s: Time of the last slot in seconds.
        coverage: Share of slots, 0..1, filled by a frame within half a spacing of the slot's time.
    """

    frames: np.ndarray
    start_s: float
    end_s: float
    coverage: float


class FrameBuffer:
    """The captured frames of one stream that a clip can still need.

    The buffer holds at most `FRAMES_PER_SPACING * (frames + 1) + 1` frames: a frame is dropped if
    it follows the previous kept frame by less than 1/8 of a spacing. Their memory is reserved with
    the first frame and used again; the system counts only what the frame rate ever needed.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec
        self._frames: deque[tuple[float, int]] = deque()  # time and place in the memory
        self._last_s: float | None = None
        self._memory = np.empty((0, spec.size, spec.size, 3), np.uint8)
        self._free: list[int] = []  # the place freed last is used first

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def last_s(self) -> float | None:
        """Time in seconds of the newest frame, kept or thinned; None before the first."""
        return self._last_s

    def add(self, face: np.ndarray, timestamp_s: float, wanted_s: float | None = None) -> None:
        """Keep a copy of a face, (H, W, 3) uint8, fitted to the model's square. Its capture time in
        seconds is later than `last_s`. `wanted_s` is the end of an earlier clip that is still to be
        sampled; its frames are kept, too, as long as there is room."""
        spacing = self.spec.spacing_s
        previous = self._frames[-1][0] if self._frames else -np.inf
        self._last_s = timestamp_s
        # The tolerance keeps a camera at exactly the limit from losing every other frame.
        if timestamp_s - previous < spacing / FRAMES_PER_SPACING * (1 - 1e-6):
            return
        if not len(self._memory):
            count = FRAMES_PER_SPACING * (self.spec.frames + 1) + 1
            self._memory = np.empty((count, *self._memory.shape[1:]), np.uint8)
            self._free = list(range(count))[::-1]
        newest = timestamp_s if wanted_s is None else min(timestamp_s, wanted_s)
        oldest = newest - self.spec.span_s - spacing
        while self._frames and (self._frames[0][0] < oldest or not self._free):
            self._free.append(self._frames.popleft()[1])
        index = self._free.pop()
        self._frames.append((timestamp_s, index))
        fit_face(face, self._memory[index])

    def clear(self) -> None:
        """Forget the frames. Time still has to advance."""
        self._free += [index for _, index in self._frames]
        self._frames.clear()

    def release(self) -> None:
        """Forget the frames and give their memory back."""
        self._frames.clear()
        self._free.clear()
        self._memory = self._memory[:0].copy()

    def coverage(self, end_s: float) -> float:
        """Share of the slots, 0..1, of a clip ending at `end_s` that have a frame."""
        return self._nearest(self.spec.slot_times(end_s))[1]

    def sample(self, end_s: float, out: np.ndarray | None = None) -> SampledClip:
        """The clip that ends at `end_s`; later frames are not looked at. The buffer must hold at
        least one frame. `out`, (T, size, size, 3) uint8, receives the frames if it is given."""
        slots = self.spec.slot_times(end_s)
        places, coverage = self._nearest(slots)
        frames = self._memory.take(places, 0, out, "clip")  # "raise" would copy twice
        return SampledClip(frames, slots[0], end_s, coverage)

    def _nearest(self, slots: list[float]) -> tuple[list[int], float]:
        """Place of the frame nearest to each slot, and the share of slots whose frame is within
        half a spacing. This is plain Python because after a model has run, nothing of numpy's many
        small functions is left in the processor's caches, and they take five times as long."""
        times = [time_s for time_s, _ in self._frames]
        last = bisect_right(times, slots[-1]) - 1
        if last < 0:
            return [0] * self.spec.frames, 0.0
        reach = self.spec.spacing_s / 2 * (1 + 1e-6)
        places, filled = [], 0
        for slot in slots:
            right = min(bisect_left(times, slot), last)
            left = max(right - 1, 0)
            nearest = left if slot - times[left] <= times[right] - slot else right
            filled += abs(times[nearest] - slot) <= reach
            places.append(self._frames[nearest][1])
        return places, filled / self.spec.frames
