"""A stream: the state of one face over time. All of it lives here, none in the engine."""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from svfap_edge.clip import ClipSpec, FrameBuffer, SampledClip, SlotGrid, check_advance, check_frame
from svfap_edge.ending import native
from svfap_edge.errors import ConfigError, require_number
from svfap_edge.schedule import LEAST_HOP_S, ClipSchedule, TimeUnitCheck

from .prediction import Average, Prediction

State = Literal["warming", "valid", "stale", "ended"]


def check_options(
    *, hop_s: float = 1.0, min_coverage: float = 1.0, smoothing_s: float = 0.0
) -> None:
    """Raise ConfigError, naming the option, unless all are what a stream can work with."""
    hops = f"a positive number of seconds, at least {LEAST_HOP_S:g}"
    require_number(lambda x: LEAST_HOP_S <= x < math.inf, "hop_s", hops, hop_s)
    require_number(lambda x: 0 < x <= 1, "min_coverage", "above 0 and at most 1", min_coverage)
    require_number(lambda x: 0 <= x < math.inf, "smoothing_s", "0 or more seconds", smoothing_s)


class Stream:
    """Takes the frames of one face and gives a prediction every hop.

    `Engine.open_stream` makes streams:

        with Engine.load() as engine:
            driver = engine.open_stream("driver", hop_s=0.5)
            for timestamp_s, face in camera:          # face: (H, W, 3) uint8 RGB
                for prediction in driver.push(face, timestamp_s):
                    print(prediction.label, prediction.score)

    A clip has a slot every `spacing_s` of the model. Slots lie on one grid for all streams of an
    engine, and do not drift; each is filled by the first frame at or after its time, and frames in
    between are not looked at (`wants`). The first prediction comes as soon as enough of a clip is
    there. The others come at hops, which are whole numbers of tubelets on the same grid, so that
    streams fed from one camera become ready together and share a batch.

    When several frames in a row come more than two clip spans apart, the stream warns once
    (`UserWarning`) and asks whether the times are milliseconds.

    Attributes:
        name: Name of the stream, which every prediction carries.
        missed: Number of clips that were due and not predicted, because `Engine.step` came too
            late and a newer clip took their place.
    """

    def __init__(
        self,
        name: str,
        clip: ClipSpec,
        grid: SlotGrid,
        *,
        hop_s: float,
        min_coverage: float,
        smoothing_s: float,
        step: Callable[[list[Stream]], list[Prediction]],
        forget: Callable[[Stream], None],
    ) -> None:
        """`Engine.open_stream` describes the options. `step` runs the model on the clips of streams
        that are ready; `forget` is called when the stream is closed."""
        check_options(hop_s=hop_s, min_coverage=min_coverage, smoothing_s=smoothing_s)
        self.name = name
        self.missed = 0
        self._step, self._forget = step, forget
        self._buffer = FrameBuffer(clip, grid)
        self._schedule = ClipSchedule(clip, hop_s, min_coverage)
        self._units = TimeUnitCheck(clip)
        self._averages: dict[str, Average] | None = None
        if smoothing_s:
            self._averages = defaultdict(partial(Average, smoothing_s))
        self._due: int | None = None  # last slot of the clip that waits for `Engine.step`
        self._added_at = 0.0  # clock time of handing over that clip's newest frame
        self._ended = False
        self._lock = threading.Lock()

    @property
    def state(self) -> State:
        """ "warming" until enough of the first clip is there, then "valid"; "stale" while too much
        of the clip is missing; "ended" after `close`."""
        return "ended" if self._ended else self._schedule.phase

    @property
    def hop_s(self) -> float:
        """Seconds between predictions: the whole number of tubelets nearest to what was asked."""
        return self._schedule.hop_s

    @property
    def ready(self) -> bool:
        """Whether a clip waits for `Engine.step`."""
        return self._due is not None

    def wants(self, timestamp_s: float) -> bool:
        """Whether a frame of this time (in seconds) would fill a slot. One that would not need not
        be decoded, cropped or added."""
        with self._lock:
            return not self._ended and self._buffer.wants(timestamp_s)

    @native
    def add(self, face: np.ndarray, timestamp_s: float) -> bool:
        """Add one frame without running the model; `Engine.step` runs it.

        Args:
            face: (H, W, 3) uint8 RGB crop; it is resized to the model's square here.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Returns:
            True if a clip is ready for `Engine.step`.

        Raises:
            FrameError: wrong dtype or shape. The stream is unchanged.
            TimestampError: time did not advance. The stream is unchanged.
            ConfigError: the stream has ended.
        """
        started = time.perf_counter()
        check_frame(face)
        with self._lock:
            if self._ended:
                raise ConfigError(
                    f"Stream '{self.name}' has ended and takes no frames; open a new stream with "
                    "Engine.open_stream."
                )
            check_advance(timestamp_s, self._buffer.last_s, "open a new stream")
            timestamp_s = float(timestamp_s)
            if self._buffer.add(face, timestamp_s, self._due):
                due = self._schedule.due(self._buffer)
                if due is not None:
                    self.missed += self._due is not None
                    self._due, self._added_at = due, started
                elif self._schedule.phase != "valid":
                    self._due = None
            ready = self._due is not None
            message = self._units.add(timestamp_s)
        if message is not None:
            warnings.warn(f"Stream '{self.name}': {message}", stacklevel=2)
        return ready

    def push(self, face: np.ndarray, timestamp_s: float) -> list[Prediction]:
        """Add one frame; return predictions that became ready (usually none).

        Args:
            face: (H, W, 3) uint8 RGB crop; it is resized to the model's square here.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Raises:
            FrameError: wrong dtype or shape. The stream is unchanged.
            TimestampError: time did not advance. The stream is unchanged.
            ConfigError: the stream has ended.
            InferenceError: the engine failed; the clip is dropped, the stream goes on.
        """
        return self._step([self]) if self.add(face, timestamp_s) else []

    def set_hop(self, hop_s: float) -> None:
        """Change the seconds between predictions, from the next hop on.

        Raises:
            ConfigError: `hop_s` is not a number of `LEAST_HOP_S` (0.001) or more.
        """
        check_options(hop_s=hop_s)
        with self._lock:
            self._schedule.set_hop(hop_s)

    def smooth(self, scores: dict[str, float], end_s: float) -> dict[str, float] | None:
        """A first-order low-pass of the scores over time; see `Average`. It starts at the first
        scores, and again after `reset`. `end_s` is the end of their clip in seconds. Returns
        smoothed scores by name; None without smoothing."""
        averages = self._averages
        if averages is None:
            return None
        with self._lock:
            return {name: averages[name].add(value, end_s) for name, value in scores.items()}

    def mark_stale(self) -> None:
        """Say that the face is lost: nothing is predicted until enough frames came again."""
        with self._lock:
            self._due = None
            self._schedule.lose()

    def reset(self) -> None:
        """Forget all frames, as after a gap in the source. Time still has to advance."""
        with self._lock:
            self._buffer.clear()
            self._schedule.restart()
            self._due = None
            if self._averages is not None:
                self._averages.clear()

    def close(self) -> None:
        """End the stream, whose name is free again. More calls do nothing."""
        with self._lock:
            self._ended = True
            self._due = None
            self._buffer.release()
        self._forget(self)

    def take_clip(self, out: np.ndarray) -> tuple[SampledClip, float] | None:
        """Take the clip that waits, with its frames in `out`, (T, size, size, 3) uint8.

        Returns the clip, and the clock time in seconds at which its newest frame came. None if no
        clip waits, or if so much time has passed that too many of its frames are gone.
        """
        with self._lock:
            if self._due is None:
                return None
            end, self._due = self._due, None
            clip = self._buffer.sample(end, out)
            if not self._schedule.covers(clip.coverage):
                self.missed += 1
                return None
            return clip, self._added_at

    def __repr__(self) -> str:
        return f"<Stream '{self.name}': {self.state}, a prediction every {self.hop_s:g} s>"
