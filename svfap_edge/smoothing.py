"""A running average over time."""

from __future__ import annotations

import math


class Average:
    """First-order low-pass: approaches a step to 63 % in `time_s`, however often values come.

    Attributes:
        value: None before the first.
    """

    def __init__(self, time_s: float) -> None:
        self.time_s = time_s
        self.value: float | None = None
        self._last_s = 0.0

    def add(self, value: float, timestamp_s: float) -> None:
        """Take a value; the first one is the average."""
        if self.value is None:
            self.value = value
        else:
            share = -math.expm1(-max(0.0, timestamp_s - self._last_s) / self.time_s)
            self.value += share * (value - self.value)
        self._last_s = timestamp_s
