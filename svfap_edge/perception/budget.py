"""Keeping the time a frame takes within a bound, by looking less often."""

from __future__ import annotations

import math

from svfap_edge.runtimes.prediction import Average

LEVELS = ((1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (4, 8))
"""What the detection interval and the hop are multiplied with, the least loss first. Hops stay
multiples of each other, so that streams of all levels fall due together."""

AVERAGE_S = 1.0
"""Time constant of the measured costs."""

RECOVERY = 0.8
"""A level is left for a better one only if that one should take less than this share of the
budget, so that it is not taken back at once."""

MOST_CLIPS = 1 << 20
"""More clips at once than any budget has to bound."""

SETTLE_S = 1.0
"""A level is kept at least so long."""


class Budget:
    """Chooses the level at which frames take `budget_s` on average.

    The time of a search and of a clip are measured; from them follows what each level takes, and
    the first that fits is chosen. So it also comes back when people leave or the machine is free.
    A frame whose parts alone take longer than the budget keeps it only on average.

    Attributes:
        level: Index of `LEVELS`; 0 is what was asked for.
        holds: Whether the level should keep the budget. False at the last level under overload.
    """

    def __init__(self, budget_s: float | None, detect_every: int, predict_s: float) -> None:
        """`budget_s` is None for any time, which keeps level 0. `detect_every` counts the frames
        that fill a slot between searches at level 0, whose interval is not made longer than
        `predict_s` seconds."""
        self.budget_s = math.inf if budget_s is None else budget_s
        self.level = 0
        self.holds = True
        self._every = detect_every
        self._predict_s = predict_s
        self._detect, self._crop = Average(AVERAGE_S), Average(AVERAGE_S)
        self._clip, self._spacing = Average(AVERAGE_S), Average(AVERAGE_S)
        self._slot = Average(AVERAGE_S)  # seconds between frames that fill a slot
        self._filled_s: float | None = None
        self._rate = 0.0
        self._last_s: float | None = None
        self._since_s: float | None = None

    @property
    def detect_every(self) -> int:
        """Frames that fill a slot from search to search, at this level."""
        return self._interval(self.level)

    @property
    def hop_factor(self) -> int:
        """What the hop is multiplied with at this level."""
        return LEVELS[self.level][1]

    def clips_at_once(self) -> int | None:
        """Clips to run with one frame, so that this one keeps the budget too if it can; None for
        any number, without a bound and before the first was measured."""
        if not self._clip.value or self.budget_s == math.inf:
            return None
        left = self.budget_s - (self._detect.value or 0.0) - (self._crop.value or 0.0)
        return max(1, int(min(left / self._clip.value, MOST_CLIPS)))

    def take(
        self,
        timestamp_s: float,
        *,
        detect_s: float | None,
        crop_s: float,
        model_s: float,
        clips: int,
        rate: float,
        fills: bool = True,
    ) -> bool:
        """Count a frame, and return whether the level changed.

        The times are what searching for faces (None if it was not done), cropping, and the model
        with its `clips` took. `rate` is the number of clips a second that are wanted at level 0;
        `fills` says whether the frame fills a slot.
        """
        if self._last_s is not None:
            self._spacing.add(timestamp_s - self._last_s, timestamp_s)
        self._last_s = timestamp_s
        if fills:
            if self._filled_s is not None:
                self._slot.add(timestamp_s - self._filled_s, timestamp_s)
            self._filled_s = timestamp_s
        self._since_s = timestamp_s if self._since_s is None else self._since_s
        self._crop.add(crop_s, timestamp_s)
        if detect_s is not None:
            self._detect.add(detect_s, timestamp_s)
        if clips:
            self._clip.add(model_s / clips, timestamp_s)
        self._rate = rate
        before, (level, self.holds) = self.level, self._fitting()
        if level == before or timestamp_s - self._since_s < SETTLE_S:
            return False
        self.level, self._since_s = level, timestamp_s
        return True

    def expected(self, level: int) -> float:
        """Seconds that a frame should take on average at a level."""
        spacing = self._spacing.value or 0.0
        clips = self._rate * spacing / LEVELS[level][1]
        share = spacing / self._slot.value if self._slot.value else 1.0
        detect = (self._detect.value or 0.0) * share / self._interval(level)
        return detect + (self._crop.value or 0.0) + (self._clip.value or 0.0) * clips

    def _fitting(self) -> tuple[int, bool]:
        for level in range(len(LEVELS)):
            share = RECOVERY if level < self.level else 1.0
            if self.expected(level) <= share * self.budget_s:
                return level, True
        return len(LEVELS) - 1, False

    def _interval(self, level: int) -> int:
        wanted = self._every * LEVELS[level][0]
        spacing = self._slot.value
        longest = self._predict_s / spacing + 1e-6 if spacing else math.inf
        return max(self._every, int(min(wanted, longest)))
