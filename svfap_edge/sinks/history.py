"""What a timeline remembers of a run: bounded, however long that lasts."""

from __future__ import annotations

from dataclasses import dataclass, field

from svfap_edge.perception.results import StateChange
from svfap_edge.runtimes import Prediction

MAX_POINTS = 20_000
"""Predictions kept of everyone together; when full, every other one is dropped."""

MAX_INTERVALS = 2_000
"""Intervals without a valid state kept of everyone together; when full, the shorter half goes."""

MAX_KEPT = 1_000
"""People kept; when there are more, those who left with the fewest predictions go."""


@dataclass
class PersonHistory:
    """What is kept of one person: of `count` predictions every `History.every`-th, and the
    intervals in which the stream was not valid. `ended` says that the person left."""

    count: int = 0
    predictions: list[Prediction] = field(default_factory=list)
    unsure: list[tuple[float, float]] = field(default_factory=list)  # (since, until) in seconds
    since_s: float | None = 0.0  # since when the stream is not valid; None while it is
    ended: bool = False


class History:
    """Predictions and states of everyone, thinned as they grow.

    Attributes:
        people: By name.
        every: One of this many predictions of a person is kept.
        forgotten: People with predictions who are not kept any more.
        span_s: Length of the clip that a prediction is of, in seconds; 0 before the first.
    """

    def __init__(self) -> None:
        self.people: dict[str, PersonHistory] = {}
        self.every = 1
        self.forgotten = 0
        self.span_s = 0.0
        self._points = self._intervals = 0

    def predict(self, prediction: Prediction) -> None:
        person = self._person(prediction.stream)
        self.span_s = prediction.end_s - prediction.start_s
        if person.count % self.every == 0:
            person.predictions.append(prediction)
            self._points += 1
        person.count += 1
        if self._points > MAX_POINTS:
            self._thin()

    def change(self, change: StateChange) -> None:
        person = self._person(change.stream)
        person.ended = change.state == "ended"
        if change.state != "valid":
            person.since_s = change.time_s if person.since_s is None else person.since_s
        elif person.since_s is not None:
            person.unsure.append((person.since_s, change.time_s))
            person.since_s = None
            self._intervals += 1
        if self._intervals > MAX_INTERVALS:
            self._drop_short()
        if len(self.people) > MAX_KEPT:
            self._forget()

    def unsure(self, name: str, end_s: float) -> list[tuple[float, float]]:
        """Intervals in which a stream was not valid, until the end of the run."""
        person = self.people.get(name, PersonHistory())
        open_one = [] if person.since_s is None else [(person.since_s, end_s)]
        return person.unsure + open_one

    def _person(self, name: str) -> PersonHistory:
        return self.people.setdefault(name, PersonHistory())

    def _thin(self) -> None:
        self.every *= 2
        for person in self.people.values():
            person.predictions = person.predictions[::2]
        self._count()
        if self._points > MAX_POINTS // 2:  # many people with a single one
            self._forget()

    def _drop_short(self) -> None:
        lengths = sorted(b - a for person in self.people.values() for a, b in person.unsure)
        limit_s = lengths[len(lengths) // 2]
        for person in self.people.values():
            person.unsure = [(a, b) for a, b in person.unsure if b - a > limit_s]
        self._count()

    def _forget(self) -> None:
        gone = [name for name, person in self.people.items() if person.ended]
        gone.sort(key=lambda name: self.people[name].count)
        for name in gone[: max(0, len(self.people) - MAX_KEPT // 2)]:
            self.forgotten += self.people.pop(name).count > 0
        self._count()

    def _count(self) -> None:
        self._points = sum(len(person.predictions) for person in self.people.values())
        self._intervals = sum(len(person.unsure) for person in self.people.values())
