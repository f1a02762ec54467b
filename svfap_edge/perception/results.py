"""What a perceiver tells: people, their states and predictions, and how hard it finds its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from svfap_edge.runtimes import Prediction
from svfap_edge.runtimes.stream import State

from .detectors import Box


@dataclass(frozen=True)
class StateChange:
    """A person's stream entered a state: warming, valid, stale or ended."""

    stream: str
    state: State
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """One line of a JSON-lines file."""
        return {
            "type": "state",
            "stream": self.stream,
            "state": self.state,
            "time_s": round(self.time_s, 6),
        }


@dataclass(frozen=True)
class Person:
    """A person as the newest frame shows them.

    Attributes:
        name: "person-1", "person-2", ...; the stream's name, never used again.
        box: Where the face is; where it was last seen if not `visible`.
        visible: Whether the newest frame shows the face.
        state: Of the person's stream.
        prediction: The newest one while the state is valid, else None.
    """

    name: str
    box: Box
    visible: bool
    state: State
    prediction: Prediction | None


@dataclass(frozen=True)
class Perception:
    """What one frame brought.

    Attributes:
        timestamp_s: Time of the frame.
        people: Everyone present.
        predictions: Those that became ready with this frame.
        changes: States entered with this frame.
    """

    timestamp_s: float
    people: tuple[Person, ...]
    predictions: tuple[Prediction, ...]
    changes: tuple[StateChange, ...]


@dataclass(frozen=True)
class PerceiverStatistics:
    """What a perceiver did, and how hard it finds it.

    Attributes:
        frames: Taken.
        searched: Of these, those that the detector looked at.
        people: Identities given.
        predictions: Told.
        missed: Clips that were due and replaced by newer ones before the model was free.
        ignored: Detected faces left alone because `max_people` were followed already.
        level: Index of `budget.LEVELS`; 0 without a budget, or as long as it is kept.
        detect_every, hop_s: In force now.
        slowed_s: Time, by the frames' clock, spent at another level than 0.
        holds: Whether the budget should be kept at this level.
    """

    frames: int = 0
    searched: int = 0
    people: int = 0
    predictions: int = 0
    missed: int = 0
    ignored: int = 0
    level: int = 0
    detect_every: int = 1
    hop_s: float = 0.0
    slowed_s: float = 0.0
    holds: bool = True
