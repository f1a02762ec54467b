"""Where a face will be: a Kalman filter of constant velocity, in sides of its box."""

from __future__ import annotations

import math

JITTER = 0.07
"""Standard deviation of a detected center, in box sides: detectors jitter by a few per cent."""

AGILITY = 20.0
"""Spectral density of a face's acceleration, in sides^2/s^3: in 0.2 s its speed changes by 2 sides
per second, as when someone starts to walk (a face is 0.16 m wide)."""

START_SPEED = 5.0
"""Standard deviation of the speed of a face seen once, in sides per second (0.8 m/s)."""

COAST_S = 0.5
"""A face not seen goes on at its speed for so long, and then is thought to have stopped."""


class Motion:
    """Position and velocity of a box center.

    The model is a velocity driven by white noise (Bar-Shalom et al. 2001, 6.2.2). Both axes have
    the same noise and are measured together, so one covariance serves both.

    Attributes:
        x, y: Pixels, at `time_s`.
        vx, vy: Pixels per second.
    """

    def __init__(self, x: float, y: float, side: float, time_s: float) -> None:
        self.x, self.y, self.time_s = x, y, time_s
        self.vx = self.vy = 0.0
        self._place = (JITTER * side) ** 2  # variance of the position
        self._both = 0.0  # covariance of position and velocity
        self._speed = (START_SPEED * side) ** 2  # variance of the velocity

    def at(self, time_s: float) -> tuple[float, float]:
        """Expected center."""
        ahead = min(time_s - self.time_s, COAST_S)
        return self.x + self.vx * ahead, self.y + self.vy * ahead

    def variance(self, time_s: float, side: float) -> float:
        """Of a detection at that time around the expected center, in pixels^2, each axis."""
        return self._forward(time_s - self.time_s, side)[0] + (JITTER * side) ** 2

    def measure(self, x: float, y: float, side: float, time_s: float) -> None:
        """Take a detected center; `time_s` must not be earlier than the last."""
        elapsed = time_s - self.time_s
        place, both, speed = self._forward(elapsed, side)
        whole = place + (JITTER * side) ** 2
        here, gain = place / whole, both / whole
        expected = self.at(time_s)
        dx, dy = x - expected[0], y - expected[1]
        self.x, self.y = expected[0] + here * dx, expected[1] + here * dy
        self.vx, self.vy = self.vx + gain * dx, self.vy + gain * dy
        self._place, self._both = (1 - here) * place, (1 - here) * both
        self._speed = speed - gain * both
        self.time_s = time_s

    def jump(self, x: float, y: float) -> None:
        """Put the center where it was measured; the velocity stays."""
        self.x, self.y = x, y

    def speed(self) -> float:
        """Pixels per second."""
        return math.hypot(self.vx, self.vy)

    def _forward(self, elapsed: float, side: float) -> tuple[float, float, float]:
        """The covariance after so many seconds without a detection."""
        noise = AGILITY * side**2
        place = self._place + 2 * elapsed * self._both + elapsed**2 * self._speed
        return (
            place + noise * elapsed**3 / 3,
            self._both + elapsed * self._speed + noise * elapsed**2 / 2,
            self._speed + noise * elapsed,
        )
