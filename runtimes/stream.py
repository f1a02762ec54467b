"""A stream: the state of one face over time. All of it lives here, none in the engine."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Literal

import numpy as np

from svfap_edge.clip import FrameBuffer, SampledClip, check_frame

if TYPE_CHECKING:
    from .engine import Engine
    from .prediction import Prediction

State = Literal["warming", "valid", "stale", "ended"]

HOP_TOLERANCE_S = 0.005
"""A frame this little before a hop counts as on it: container times are rounded to milliseconds."""


class Stream:
    """Frames of one face in, a prediction every hop out. Made by `Engine.open_stream`.

        with Engine.load() as engine:
            driver = engine.open_stream("driver", hop_s=0.5)
            for timestamp_s, face in camera:          # face: (H, W, 3) uint8 RGB
                for prediction in driver.push(face, timestamp_s):
                    print(prediction.label, prediction.score)

    The first prediction comes as soon as enough of a clip is there. The others come at hops, which
    lie on one grid for all streams of an engine, so that streams fed from the same camera become
    ready together and share a batch. Hops are counted from the grid's origin and do not drift.
    `state` is "warming" until enough of the first clip is there, then "valid"; "stale" while too
    much of the clip is missing; "ended" after `close`.

    Attributes:
        missed: Clips that were due and not predicted: `Engine.step` came too late, and a newer clip
            took their place.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        hop_s: float,
        min_coverage: float,
        smoothing_s: float = 0.0,
    ) -> None:
        self.name = name
        self.hop_s = hop_s
        self.min_coverage = min_coverage
        self.smoothing_s = smoothing_s
        self.state: State = "warming"
        self.missed = 0
        self._engine = engine
        self._buffer = FrameBuffer(engine.spec.clip)
        self._hop: int | None = None  # number of the last hop answered, or skipped
        self._due_s: float | None = None  # end of the clip that waits for `Engine.step`
        self._added_at = 0.0  # clock time of handing over that clip's newest frame
        self._smoothed: tuple[float, np.ndarray] | None = None  # time and scores
        self._lock = threading.Lock()

    def add(self, face: np.ndarray, timestamp_s: float) -> bool:
        """Add one frame without running the model; see `Engine.step`.

        Args:
            face: (H, W, 3) uint8 RGB crop; resized to the model's size here.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Returns:
            True if a clip is ready for `Engine.step`.

        Raises:
            FrameError: wrong dtype or shape. The stream is unchanged.
            TimestampError: time did not advance. The stream is unchanged.
            ValueError: the stream has ended.
        """
        started = time.perf_counter()
        check_frame(face)
        timestamp_s = float(timestamp_s)
        with self._lock:
            if self.state == "ended":
                raise ValueError(f"Stream '{self.name}' has ended; open a new one.")
            self._buffer.check_time(timestamp_s)
            place = self._buffer.place(timestamp_s, self._due_s)
            if place is not None:
                resize_face(face, place)
            self._decide(timestamp_s, started)
            return self._due_s is not None

    def push(self, face: np.ndarray, timestamp_s: float) -> list[Prediction]:
        """Add one frame; return predictions that became ready (usually none).

        Args:
            face: (H, W, 3) uint8 RGB crop; resized to the model's size here.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Raises:
            FrameError: wrong dtype or shape. The stream is unchanged.
            TimestampError: time did not advance. The stream is unchanged.
            InferenceError: the engine failed; the clip is dropped, the stream goes on.
        """
        return self._engine.step([self]) if self.add(face, timestamp_s) else []

    @property
    def ready(self) -> bool:
        """Whether a clip waits for `Engine.step`."""
        return self._due_s is not None

    def set_hop(self, hop_s: float) -> None:
        """Change the seconds between predictions, from the next hop on."""
        with self._lock:
            if hop_s != self.hop_s:
                self.hop_s = hop_s
                if self._buffer.last_s is not None and self._hop is not None:
                    self._hop = self._hop_number(self._buffer.last_s)

    def smooth(self, scores: dict[str, float], end_s: float) -> dict[str, float] | None:
        """A first-order low-pass of the scores: each approaches the newest value by the share
        1 - exp(-elapsed / smoothing_s), so that a step is followed to 63 % in `smoothing_s`,
        however often predictions come. Starts at the first scores, and again after `reset`.

        Returns:
            By name; None without smoothing.
        """
        if not self.smoothing_s:
            return None
        with self._lock:
            values = np.fromiter(scores.values(), float, len(scores))
            if self._smoothed is not None:
                time_s, before = self._smoothed
                share = -math.expm1(-max(0.0, end_s - time_s) / self.smoothing_s)
                values = before + share * (values - before)
            self._smoothed = end_s, values
        return dict(zip(scores, map(float, values), strict=True))

    def mark_stale(self) -> None:
        """Say that the face is lost: nothing is predicted until enough frames came again."""
        with self._lock:
            self._due_s = None
            if self.state == "valid":
                self.state = "stale"

    def reset(self) -> None:
        """Forget all frames, as after a gap in the source. Time still has to advance."""
        with self._lock:
            self._buffer.clear()
            self._due_s = None
            self._smoothed = None
            if self.state != "ended":
                self.state = "warming"

    def close(self) -> None:
        """End the stream. Idempotent."""
        with self._lock:
            self.state = "ended"
            self._due_s = None
            self._buffer.release()
        self._engine.forget(self)

    def take_clip(self, out: np.ndarray) -> tuple[SampledClip, float] | None:
        """The clip that waits, written to `out`, and the clock time at which its newest frame
        came; once. None, too, if so much time has passed that too many of its frames are gone."""
        with self._lock:
            if self._due_s is None:
                return None
            end_s, self._due_s = self._due_s, None
            clip = self._buffer.sample(end_s, out)
            if not self._covers(clip.coverage):
                self.missed += 1
                return None
            return clip, self._added_at

    def _covers(self, coverage: float) -> bool:
        return coverage >= self.min_coverage - 1e-9

    def _decide(self, timestamp_s: float, started: float) -> None:
        """Whether the clip that ends now is due, and the state that follows."""
        hop = self._hop_number(timestamp_s)
        starting = self.state != "valid"
        if self._hop is None:
            self._hop = hop
        if hop <= self._hop and not starting:
            return
        if self._covers(self._buffer.coverage(timestamp_s)):
            self.missed += self._due_s is not None
            self._due_s, self._added_at = timestamp_s, started
            # A first prediction does not wait for its hop; the next hop is at least half one away.
            self._hop = self._hop_number(timestamp_s + 0.5 * self.hop_s) if starting else hop
            self.state = "valid"
        elif hop > self._hop:
            self._hop = hop
            self._due_s = None
            self.state = "warming" if self.state == "warming" else "stale"

    def _hop_number(self, timestamp_s: float) -> int:
        tolerance = min(HOP_TOLERANCE_S, 0.1 * self.hop_s)
        origin_s = self._engine.hop_origin(timestamp_s)
        return math.floor((timestamp_s - origin_s + tolerance) / self.hop_s)


def resize_face(face: np.ndarray, place: np.ndarray) -> None:
    """Write (H, W, 3) to (size, size, 3), all of one memory block; averaging when it shrinks."""
    size = place.shape[0]
    if face.shape == place.shape:
        place[:] = face
        return
    import cv2  # a caller whose crops fit never pays for it

    shrinks = min(face.shape[:2]) > size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(face, (size, size), dst=place, interpolation=how)
