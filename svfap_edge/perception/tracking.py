"""Following faces: which box of this frame is which person."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .assignment import assign
from .detectors import Box

SIZE_JITTER = 0.2
"""Standard deviation of the logarithm of a detected side: a fifth."""

MAX_COST = 16.0
"""A detection that fits a track worse is another face: four standard deviations where one that is
seen in every frame is expected."""

REACH = 1.5
"""A face continues no track that is expected more than this many box sides away."""

AMBIGUITY = 2.0
"""Two tracks that claim one detection with costs closer than this may be either's: one is
less than e times as likely as the other."""

MAX_PEOPLE = 32
"""Default of the most people followed at a time."""


@dataclass
class Track:
    """One person.

    Attributes:
        number: Identity, from 1 up; never used again. 0 before it is confirmed.
        box: Smoothed box; where the face was last seen, while it is not.
        seen_s: Time of the last detection.
        hits: Detections so far.
        visible: Whether the newest frame shows the face: it was detected there, and is no one
            else's, or it was in the frame detected on last, not long ago.
    """

    number: int
    box: Box
    seen_s: float
    hits: int = 1
    visible: bool = True
    motion: Motion = field(init=False, repr=False)
    found: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        self.motion = Motion(*self.box.center, self.box.side, self.seen_s)

    def expected(self, timestamp_s: float) -> Box:
        """The box in which the face should be at a time."""
        return _centered(self.box, *self.motion.at(timestamp_s))

    def cost(self, box: Box, timestamp_s: float) -> float:
        """How badly a detection fits: twice the negative logarithm of its likelihood, less what it
        is for a face seen all the time; infinite where the two cannot be one face."""
        expected, side = self.expected(timestamp_s), self.box.side
        (ax, ay), (bx, by) = expected.center, box.center
        apart = math.hypot(ax - bx, ay - by)
        ratio = math.log(box.side / side)
        if apart > REACH * max(side, box.side) or abs(ratio) > math.log(2):
            return math.inf
        variance = self.motion.variance(timestamp_s, side)
        doubt = math.log(variance / (2 * (JITTER * side) ** 2))
        fit = apart**2 / variance + (ratio / SIZE_JITTER) ** 2
        return fit + max(0.0, 2 * doubt) if fit <= MAX_COST else math.inf


class Tracker:
    """Gives each face an identity that lasts while it is seen, and `forget_s` longer.

    All detections of a frame are given to all tracks at once, so that the sum of the costs is the
    least: two people who cross keep their own as long as their motion or size differs.
    Where one hides the other and the detection may be either's, it is nobody's for cropping:
    `visible` is False for both until it is clear.

    A track counts as a person from its `min_hits`-th detection on, so that a single false detection
    is not one.

    Attributes:
        ignored: Detections left alone because `max_people` were followed already.
    """

    def __init__(
        self, *, forget_s: float = 2.0, min_hits: int = 3, max_people: int = MAX_PEOPLE
    ) -> None:
        self.forget_s = forget_s
        self.min_hits = min_hits
        self.max_people = max_people
        self.ignored = 0
        self._tracks: list[Track] = []
        self._next_number = 1

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Everyone who is followed, confirmed or not."""
        return tuple(self._tracks)

    @property
    def unsure(self) -> bool:
        """Whether a face was found that is not confirmed yet."""
        return any(track.number == 0 for track in self._tracks)

    def update(self, boxes: list[Box], timestamp_s: float) -> tuple[list[Track], list[Track]]:
        """Take the detections of one frame. Returns (people, gone): confirmed tracks, visible or
        not, and those forgotten just now. Boxes that are no area are left out."""
        boxes = [box for box in boxes if box.usable]
        gone = self._forget(timestamp_s)
        costs = np.array([[t.cost(box, timestamp_s) for box in boxes] for t in self._tracks])
        costs = costs.reshape(len(self._tracks), len(boxes))
        # Leaving a track out costs more than any pair, so that nothing possible is left undone.
        worst = costs[np.isfinite(costs)].max(initial=0.0)
        pairs = assign(costs, unmatched=float(worst) + 1.0)
        for track in self._tracks:
            track.visible = track.found = False
        claimed = _claimed_twice(costs, pairs, self._tracks)
        for row, column in pairs:
            self._see(self._tracks[row], boxes[column], timestamp_s)
        for row in claimed:
            self._tracks[row].visible = False
        # A face not seen again before it was confirmed was none.
        self._tracks = [t for t in self._tracks if t.found or t.hits >= self.min_hits]
        taken = {column for _, column in pairs}
        for column, box in enumerate(boxes):
            if column not in taken and len(self._tracks) < self.max_people:
                self._tracks.append(Track(0, box, timestamp_s))
            elif column not in taken:
                self.ignored += 1
        for track in self._tracks:
            if track.number == 0 and track.hits >= self.min_hits:
                track.number = self._next_number
                self._next_number += 1
        return self._people(), gone

    def predict(self, timestamp_s: float, longest_s: float) -> tuple[list[Track], list[Track]]:
        """Do as `update` for a frame that was not searched: the boxes move on by themselves. A face
        not detected for longer than `longest_s` is not visible."""
        gone = self._forget(timestamp_s)
        for track in self._tracks:
            track.visible = track.visible and timestamp_s - track.seen_s <= longest_s + 1e-6
            if track.visible:
                track.box = track.expected(timestamp_s)
        return self._people(), gone

    def rescale(self, factor: float) -> None:
        """Go on in frames that show the same view `factor` times as large."""
        for track in self._tracks:
            track.box = track.box.scaled(factor)
            track.motion.rescale(factor)

    def drop(self) -> None:
        """Forget everyone at once; their numbers are not given again."""
        self._tracks = []

    def _people(self) -> list[Track]:
        return [track for track in self._tracks if track.number]

    def _forget(self, timestamp_s: float) -> list[Track]:
        gone = [t for t in self._tracks if timestamp_s - t.seen_s > self.forget_s]
        self._tracks = [t for t in self._tracks if t not in gone]
        return [track for track in gone if track.number]

    @staticmethod
    def _see(track: Track, box: Box, timestamp_s: float) -> None:
        elapsed = timestamp_s - track.seen_s
        motion = track.motion
        motion.measure(*box.center, box.side, timestamp_s)
        # The filter smooths a few per cent of jitter; a start or stop it would lag behind.
        size = box if elapsed > 0.5 else track.box.blended(box, 0.5)
        smooth = _centered(size, motion.x, motion.y)
        if smooth.iou(box) < 0.6:
            motion.x, motion.y = box.center  # the velocity stays
            smooth = box
        track.box = smooth
        track.seen_s = timestamp_s
        track.hits += 1
        track.visible = track.found = True


def _centered(box: Box, x: float, y: float) -> Box:
    return box.moved(x - box.center[0], y - box.center[1])


def _claimed_twice(
    costs: np.ndarray, pairs: list[tuple[int, int]], tracks: list[Track]
) -> list[int]:
    """Rows of tracks whose detection fits about as well to a person who got none."""
    matched = {row for row, _ in pairs}
    others = [r for r, t in enumerate(tracks) if r not in matched and t.number]
    return [
        row
        for row, column in pairs
        if any(costs[other, column] < costs[row, column] + AMBIGUITY for other in others)
    ]


JITTER = 0.07
"""Standard deviation of a detected center, in box sides: detectors jitter by a few per cent."""


AGILITY = 20.0
"""Spectral density of a face's acceleration, in sides^2/s^3: in 0.2 s its speed changes by 2 sides
per second, as when someone starts to walk (a face is 0.16 m wide)."""


START_SPEED = 5.0
"""Standard deviation of the speed of a face seen once, in sides per second (0.8 m/s)."""


COAST_S = 0.5
"""Seconds for which a face that is not seen goes on at its speed; then it has stopped."""


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

    def rescale(self, factor: float) -> None:
        """Go on in pixels of which there are `factor` times as many along each axis."""
        self.x, self.y = self.x * factor, self.y * factor
        self.vx, self.vy = self.vx * factor, self.vy * factor
        self._place, self._both = self._place * factor**2, self._both * factor**2
        self._speed *= factor**2

    def at(self, time_s: float) -> tuple[float, float]:
        """Expected center."""
        ahead = min(time_s - self.time_s, COAST_S)
        return self.x + self.vx * ahead, self.y + self.vy * ahead

    def variance(self, time_s: float, side: float) -> float:
        """Variance of a detection around the expected center, in pixels^2 on each axis."""
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

    def _forward(self, elapsed: float, side: float) -> tuple[float, float, float]:
        """The covariance after `elapsed` seconds without a detection."""
        noise = AGILITY * side**2
        place = self._place + 2 * elapsed * self._both + elapsed**2 * self._speed
        return (
            place + noise * elapsed**3 / 3,
            self._both + elapsed * self._speed + noise * elapsed**2 / 2,
            self._speed + noise * elapsed,
        )
