"""When a clip of a stream is due: the hop rule, which the runtime and training share."""

from __future__ import annotations

from typing import Literal

from .clip import ClipSpec, FrameBuffer

HOP_S = 0.5
"""Seconds between the predictions of a stream, by default."""

LEAST_HOP_S = 0.001
"""Least seconds between predictions. No camera gives frames that fast, so less means nothing."""

MIN_COVERAGE = 0.5
"""Share of a clip's slots that must hold a captured frame for a prediction, by default."""

LONG_SPACING = 2.0
"""Clip spans from one frame to the next that no sensible camera exceeds; see `TimeUnitCheck`."""

LONG_SPACINGS = 3
"""Long spacings in a row after which `TimeUnitCheck` warns."""

Phase = Literal["warming", "valid", "stale"]
"""Whether a stream gives predictions; see `ClipSchedule`."""


class ClipSchedule:
    """Which clips of one stream are to be predicted.

    The first is due as soon as enough of it is there, the others at the end of each hop, which is a
    whole number of tubelets counted from the origin of the slots. The hop after a first clip is
    more than half a hop away. After a loss the stream starts again in the same way.

    Attributes:
        min_coverage: Share of a clip's slots, 0..1, that must hold a captured frame.
        phase: "warming" until enough of the first clip is there, then "valid"; "stale" while too
            much of the clip is missing.
    """

    def __init__(
        self, spec: ClipSpec, hop_s: float = HOP_S, min_coverage: float = MIN_COVERAGE
    ) -> None:
        """`hop_s` stands for the nearest whole number of tubelets."""
        self.min_coverage = min_coverage
        self.phase: Phase = "warming"
        self._spec = spec
        self._slots = spec.hop_slots(hop_s)
        self._hop: int | None = None  # number of the last hop answered, or skipped
        self._passed = 0

    @property
    def hop_s(self) -> float:
        """Seconds between clips."""
        return self._slots * self._spec.spacing_s

    def covers(self, coverage: float) -> bool:
        """Whether a clip of this coverage is predicted."""
        return coverage >= self.min_coverage - 1e-9

    def due(self, buffer: FrameBuffer) -> int | None:
        """The last slot of the clip that is to be predicted now; None for none. This is called once
        for every frame that filled a slot of the buffer; it sets `phase`."""
        assert buffer.slot is not None
        starting = self.phase != "valid"
        end = buffer.slot
        if not starting:
            end -= (end + 1) % self._spec.tubelet
        passed = self._passed = end + 1  # slots since the origin
        hop = passed // self._slots
        if self._hop is None:
            self._hop = hop
        if hop <= self._hop and not starting:
            return None
        if self.covers(buffer.coverage(end)):
            self._hop = (passed + self._slots // 2 if starting else passed) // self._slots
            self.phase = "valid"
            return end
        if hop > self._hop:
            self._hop = hop
            self.lose()
        return None

    def set_hop(self, hop_s: float) -> None:
        """Change the seconds between clips, from the next hop on."""
        slots = self._spec.hop_slots(hop_s)
        if slots != self._slots:
            self._slots = slots
            if self._hop is not None:
                self._hop = self._passed // slots

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
