"""Clips by time: which captured frame fills which slot. `schedule` says when a clip is due.

The runtime and training both read streams by these rules.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta

from .errors import FrameError, TimestampError

LATEST_S = 1e15
"""Times in seconds further from zero than this have no fractions that a camera needs."""

TUBELET = 2
"""Slots that the model's first layer takes together. Clips end with a whole one, counted from the
origin of the slots, so that two clips share whole tubelets."""

KEPT_CLIPS = 3
"""Clips' worth of slots that a stream keeps, so that a clip is still whole when the model comes to
it late."""

SLOT_TOLERANCE_S = 0.005
"""A frame this many seconds before a slot counts as at its time, because container times are
rounded to milliseconds."""


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

    @property
    def tubelet(self) -> int:
        """Slots of a tubelet: 2, or 1 where the number of slots is odd."""
        return TUBELET if self.frames % TUBELET == 0 else 1

    def hop_slots(self, hop_s: float) -> int:
        """The whole number of tubelets, one or more, that is nearest to a hop, in slots."""
        return max(1, round(hop_s / (self.tubelet * self.spacing_s))) * self.tubelet

    def whole_hop_s(self, hop_s: float) -> float:
        """The hop in seconds that a stream has where `hop_s` is asked for."""
        return self.hop_slots(hop_s) * self.spacing_s


class SlotGrid:
    """The times of slots, for all streams that share the grid.

    Slots are the spacing of the model apart, counted from the first time that any of the streams
    saw, and do not drift. A slot is filled by the first frame at or after its time, before the next
    slot's. A grid may be used from several threads.
    """

    def __init__(self, spacing_s: float) -> None:
        self.spacing_s = spacing_s
        self._tolerance_s = min(SLOT_TOLERANCE_S, 0.1 * spacing_s)
        self._origin_s: float | None = None
        self._lock = threading.Lock()

    def number(self, timestamp_s: float) -> int:
        """Number of the slot that a frame of this time can fill."""
        with self._lock:
            if self._origin_s is None:
                self._origin_s = timestamp_s
        return math.floor((timestamp_s - self._origin_s + self._tolerance_s) / self.spacing_s)

    def time_of(self, slot: int) -> float:
        """Time of a slot in seconds."""
        return (self._origin_s or 0.0) + slot * self.spacing_s


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
        start_s: Time of the first slot in seconds; `end_s` less the spacing of T - 1 slots.
        end_s: Time in seconds of the frame of the last slot; of the slot itself where it has none.
        coverage: Share of slots, 0..1, that a captured frame fills.
    """

    frames: np.ndarray
    start_s: float
    end_s: float
    coverage: float


class Kept(NamedTuple):
    """A frame in a buffer: the slot it fills, its time in seconds, its place in the memory."""

    slot: int
    time_s: float
    place: int


class FrameBuffer:
    """The captured frames of one stream that a clip can still need, one for each slot.

    The buffer holds at most `KEPT_CLIPS * frames` frames. Their memory is reserved with the first
    frame and used again; the system counts only what was ever needed at a time.
    """

    def __init__(self, spec: ClipSpec, grid: SlotGrid) -> None:
        self.spec = spec
        self._grid = grid
        self._frames: deque[Kept] = deque()
        self._last_s: float | None = None
        self._memory = np.empty((0, spec.size, spec.size, 3), np.uint8)
        self._free: list[int] = []  # the place freed last is used first

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def last_s(self) -> float | None:
        """Time in seconds of the newest frame, whether it filled a slot or not; None before the
        first."""
        return self._last_s

    @property
    def slot(self) -> int | None:
        """Number of the newest slot that is filled; None where none is."""
        return self._frames[-1].slot if self._frames else None

    def wants(self, timestamp_s: float) -> bool:
        """Whether a frame of this time would fill a slot."""
        return self._empty_slot(timestamp_s) is not None

    def _empty_slot(self, timestamp_s: float) -> int | None:
        """Number of the slot that a frame of this time would fill; None where it fills none."""
        number = self._grid.number(timestamp_s)
        return number if not self._frames or number > self._frames[-1].slot else None

    def add(self, face: np.ndarray, timestamp_s: float, wanted: int | None = None) -> bool:
        """Take a face, (H, W, 3) uint8, whose capture time in seconds is later than `last_s`.

        Args:
            wanted: The last slot of an earlier clip that is still to be sampled; its frames are
                kept, too, as long as there is room.

        Returns:
            Whether it fills a slot, and a copy of it, fitted to the model's square, was kept.
        """
        self._last_s = timestamp_s
        slot = self._empty_slot(timestamp_s)
        if slot is None:
            return False
        if not len(self._memory):
            count = KEPT_CLIPS * self.spec.frames
            self._memory = np.empty((count, *self._memory.shape[1:]), np.uint8)
            self._free = list(range(count))[::-1]
        newest = slot if wanted is None else min(slot, wanted)
        oldest = newest - self.spec.frames  # one more than a clip has: the nearest may be that
        while self._frames and (self._frames[0].slot < oldest or not self._free):
            self._free.append(self._frames.popleft().place)
        place = self._free.pop()
        self._frames.append(Kept(slot, timestamp_s, place))
        fit_face(face, self._memory[place])
        return True

    def clear(self) -> None:
        """Forget the frames. Time still has to advance."""
        self._free += [kept.place for kept in self._frames]
        self._frames.clear()

    def release(self) -> None:
        """Forget the frames and give their memory back."""
        self._frames.clear()
        self._free.clear()
        self._memory = self._memory[:0].copy()

    def coverage(self, end: int) -> float:
        """Share of the slots, 0..1, of a clip whose last slot is `end` that have a frame."""
        return self._filled(end)[1]

    def sample(self, end: int, out: np.ndarray | None = None) -> SampledClip:
        """The clip whose last slot is `end`; later frames are not looked at. The buffer must hold
        at least one frame. `out`, (T, size, size, 3) uint8, receives the frames if it is given."""
        filled, coverage = self._filled(end)
        places = [kept.place for kept in filled]
        frames = self._memory.take(places, 0, out, "clip")  # "raise" would copy twice
        end_s = filled[-1].time_s if filled[-1].slot == end else self._grid.time_of(end)
        start_s = end_s - self.spec.spacing_s * (self.spec.frames - 1)
        return SampledClip(frames, start_s, end_s, coverage)

    def _filled(self, end: int) -> tuple[list[Kept], float]:
        """The frame of each slot, or the nearest in time, and the share of slots that have one.
        This is plain Python because after a model has run, nothing of numpy's many small functions
        is left in the processor's caches, and they take five times as long."""
        frames = [kept for kept in self._frames if kept.slot <= end] or [self._frames[0]]
        found, covered, after = [], 0, 0
        for slot in range(end - self.spec.frames + 1, end + 1):
            while after < len(frames) and frames[after].slot < slot:
                after += 1  # the first frame at or after the slot
            if after < len(frames) and frames[after].slot == slot:
                found.append(frames[after])
                covered += 1
                continue
            time_s = self._grid.time_of(slot)
            around = frames[max(0, after - 1) : after + 1]
            found.append(min(around, key=lambda kept: abs(kept.time_s - time_s)))
        return found, covered / self.spec.frames
