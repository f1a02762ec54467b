"""Sampling a clip by time: which captured frame fills which slot."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np

from .errors import FrameError, TimestampError

FRAMES_PER_SPACING = 8
"""Captured frames kept per clip spacing; faster cameras are thinned to this. Bounds memory."""


@dataclass(frozen=True)
class ClipSpec:
    """Geometry of the clip a model reads.

    Attributes:
        frames: Slots T of a clip.
        span_s: Time the clip covers in seconds, `frames` times the spacing.
        size: Side of the square face in pixels.
    """

    frames: int
    span_s: float
    size: int

    @property
    def spacing_s(self) -> float:
        """Seconds between neighbouring slots."""
        return self.span_s / self.frames

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)"""
        return (self.frames, self.size, self.size, 3)

    def slot_times(self, end_s: float) -> list[float]:
        """Times of the T slots of a clip that ends at `end_s`, in seconds."""
        spacing = self.spacing_s
        return [end_s - spacing * back for back in range(self.frames - 1, -1, -1)]


def check_frame(frame: np.ndarray) -> None:
    """Raises FrameError unless `frame` is (H, W, 3) uint8 and not empty."""
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
    """Raises TimestampError unless `timestamp_s` is finite and later than `last_s`.

    `way_out` says what to do after a jump of the clock.
    """
    if not np.isfinite(timestamp_s):
        raise TimestampError(f"A timestamp must be a finite number; got {timestamp_s}.")
    if last_s is not None and timestamp_s <= last_s:
        raise TimestampError(
            f"Timestamps must increase: got {timestamp_s:.6f} s after {last_s:.6f} s. "
            f"Pass the capture time; after a jump of the clock, {way_out}."
        )


@dataclass(frozen=True)
class SampledClip:
    """A clip and how much of it is real.

    Attributes:
        frames: (T, size, size, 3) uint8 RGB. A slot without a captured frame repeats the
            captured frame nearest in time; `coverage` tells how many slots are not such repeats.
        start_s, end_s: Times of the first and last slot.
        coverage: Share of slots filled by a frame within half a spacing of the slot's time.
    """

    frames: np.ndarray
    start_s: float
    end_s: float
    coverage: float


class FrameBuffer:
    """The captured frames of one stream that a clip can still need.

    Holds at most `FRAMES_PER_SPACING * (frames + 1) + 1` frames: one is dropped if it follows the
    previous kept frame by less than 1/8 of a spacing. Their memory is reserved with the first frame
    and used again and again; the system counts only as much of it as the frame rate ever needed.
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
        """Time of the newest frame, kept or thinned; None before the first."""
        return self._last_s

    def check_time(self, timestamp_s: float) -> None:
        """Raises TimestampError unless `timestamp_s` is finite and later than the last."""
        check_advance(timestamp_s, self._last_s, "open a new stream")

    def add(self, frame: np.ndarray, timestamp_s: float) -> None:
        """Keep a copy of a frame of the model's size. `check_time` must have passed."""
        place = self.place(timestamp_s)
        if place is not None:
            place[:] = frame

    def place(self, timestamp_s: float, wanted_s: float | None = None) -> np.ndarray | None:
        """Where to write the frame of this time: (size, size, 3), valid until the next call. None
        if the frame is not kept. `check_time` must have passed.

        Args:
            wanted_s: End of an earlier clip that will be sampled yet; its frames are kept, too, as
                long as there is room.
        """
        spacing = self.spec.spacing_s
        previous = self._frames[-1][0] if self._frames else -np.inf
        self._last_s = timestamp_s
        # The tolerance keeps a camera at exactly the limit from losing every other frame.
        if timestamp_s - previous < spacing / FRAMES_PER_SPACING * (1 - 1e-6):
            return None
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
        return np.asarray(self._memory[index])

    def clear(self) -> None:
        """Forget the frames; time still has to advance."""
        self._free += [index for _, index in self._frames]
        self._frames.clear()

    def release(self) -> None:
        """Forget the frames and give their memory back."""
        self._frames.clear()
        self._free.clear()
        self._memory = self._memory[:0].copy()

    def coverage(self, end_s: float) -> float:
        """Share of the slots of a clip ending at `end_s` that have a frame."""
        return self._nearest(self.spec.slot_times(end_s))[1]

    def sample(self, end_s: float, out: np.ndarray | None = None) -> SampledClip:
        """The clip that ends at `end_s`, in `out` where given; later frames are not looked at. The
        buffer must hold at least one frame."""
        slots = self.spec.slot_times(end_s)
        places, coverage = self._nearest(slots)
        frames = self._memory.take(places, 0, out, "clip")  # "raise" would copy twice
        return SampledClip(frames, slots[0], end_s, coverage)

    def _nearest(self, slots: list[float]) -> tuple[list[int], float]:
        """Place of the frame nearest to each slot, and the share of slots whose frame is within
        half a spacing. In plain Python: after a model has run, nothing of numpy's many small
        functions is left in the processor's caches, and they take five times as long."""
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
