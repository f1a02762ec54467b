"""When a clip of a stream is due: the hop rule, which the runtime and training share."""

from __future__ import annotations

import math
import threading
from typing import Literal

from .clip import ClipSpec, FrameBuffer

HOP_S = 0.5
"""Seconds between the predictions of a stream, by default."""

LEAST_HOP_S = 0.001
"""Least seconds between predictions. No camera gives frames that fast, so less means nothing."""

MIN_COVERAGE = 0.5
"""Share of a clip's slots that must hold a captured frame for a prediction, by default."""

HOP_TOLERANCE_S = 0.005
"""A frame this many seconds before a hop counts as on it, because container times are rounded to
milliseconds."""

LONG_SPACING = 2.0
"""Clip spans from one frame to the next that no sensible camera exceeds; see `TimeUnitCheck`."""

LONG_SPACINGS = 3
"""Long spacings in a row after which `TimeUnitCheck` warns."""

Phase = Literal["warming", "valid", "stale"]
"""Whether a stream gives predictions; see `ClipSchedule`."""


class HopGrid:
    """The times at which clips are due, for all streams that share the grid.

    Hops are counted from the grid's origin, which is the first timestamp that any of its streams
    saw. So they do not drift, and streams fed from one camera become due together and share a
    batch. A grid may be used from several threads.
    """

    def __init__(self) -> None:
        self._origin_s: float | None = None
        self._lock = threading.Lock()

    def number(self, timestamp_s: float, hop_s: float) -> int:
        """Number of the newest hop at a time, for a stream with a hop every `hop_s` seconds."""
        with self._lock:
            if self._origin_s is None:
                self._origin_s = timestamp_s
        tolerance = min(HOP_TOLERANCE_S, 0.1 * hop_s)
        return math.floor((timestamp_s - self._origin_s + tolerance) / hop_s)


class ClipSchedule:
    """Which frames of one stream end a clip that is to be predicted.

    The first clip is due as soon as enough of it is there, the others on the first frame of each
    hop of the grid; the hop after a first clip is more than half a hop away. After a loss the
    stream starts again in the same way.

    Attributes:
        hop_s: Seconds between clips.
        min_coverage: Share of a clip's slots, 0..1, that must hold a captured frame.
        phase: "warming" until enough of the first clip is there, then "valid"; "stale" while too
            much of the clip is missing.
    """

    def __init__(
        self, grid: HopGrid, hop_s: float = HOP_S, min_coverage: float = MIN_COVERAGE
    ) -> None:
        self.hop_s = hop_s
        self.min_coverage = min_coverage
        self.phase: Phase = "warming"
        self._grid = grid
        self._hop: int | None = None  # number of the last hop answered, or skipped
        self._last_s = 0.0

    def covers(self, coverage: float) -> bool:
        """Whether a clip of this coverage is predicted."""
        return coverage >= self.min_coverage - 1e-9

    def is_due(self, timestamp_s: float, buffer: FrameBuffer) -> bool:
        """Whether the clip that ends with the newest frame is to be predicted. This is called once
        for every frame, with its time in seconds and once it is in `buffer`; it sets `phase`."""
        self._last_s = timestamp_s
        hop = self._grid.number(timestamp_s, self.hop_s)
        starting = self.phase != "valid"
        if self._hop is None:
            self._hop = hop
        if hop <= self._hop and not starting:
            return False
        if self.covers(buffer.coverage(timestamp_s)):
            ahead_s = 0.5 * self.hop_s if starting else 0.0
            self._hop = self._grid.number(timestamp_s + ahead_s, self.hop_s)
            self.phase = "valid"
            return True
        if hop > self._hop:
            self._hop = hop
            self.lose()
        return False

    def set_hop(self, hop_s: float) -> None:
        """Change the seconds between clips, from the next hop on."""
        if hop_s != self.hop_s:
            self.hop_s = hop_s
            if self._hop is not None:
                self._hop = self._grid.number(self._last_s, hop_s)

    def lose(self) -> None:
        """Stop until enough frames came again."""
        if self.phase == "valid":
            self.phase = "stale"

    def restart(self) -> None:
        """Begin anew, as after a gap in the source."""
        self.phase = "warming"


class TimeUnitCheck:
    """Notices frame times that look like milliseconds where seconds are expected.

    Times in milliseconds raise no error by themselves: every frame is too far from the one before
    it, no clip is ever filled, and nothing is predicted.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self._span_s = spec.span_s
        self._last_s: float | None = None
        self._long = 0  # long spacings in a row; more than LONG_SPACINGS after the warning

    def add(self, timestamp_s: float) -> str | None:
        """Look at the capture time of the next frame. Returns a warning, once, when `LONG_SPACINGS`
        (3) frames in a row came more than `LONG_SPACING` (2) clip spans after the one before."""
        last_s, self._last_s = self._last_s, timestamp_s
        if last_s is None or self._long > LONG_SPACINGS:
            return None
        spacing_s = timestamp_s - last_s
        self._long = self._long + 1 if spacing_s > LONG_SPACING * self._span_s else 0
        if self._long < LONG_SPACINGS:
            return None
        self._long += 1
        return (
            f"The last frames are {spacing_s:g} s apart, but a clip of this model spans "
            f"{self._span_s:g} s, so no clip can be filled and nothing is predicted. Are the times "
            "in milliseconds? Pass capture times in seconds."
        )
