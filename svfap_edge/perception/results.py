"""What a perceiver returns: people, their states and predictions, and what it took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from svfap_edge.runtimes import Prediction
from svfap_edge.runtimes.stream import State

from .detectors import Box


@dataclass(frozen=True)
class StateChange:
    """A person's stream entered a state.

    Attributes:
        stream: The person's name.
        state: "warming", "valid", "stale" or "ended".
        time_s: Time of the frame, in the camera's seconds.
    """

    stream: str
    state: State
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """One line of a JSON-lines file."""
        return {"type": "state", **asdict(self), "time_s": round(self.time_s, 6)}


@dataclass(frozen=True)
class Person:
    """A person as the newest frame shows them.

    Attributes:
        name: "person-1", "person-2", ...; the name of the person's stream, never used again.
        box: The face in pixels of the frame; where it was last seen if it is not `visible`.
        visible: Whether the newest frame shows the face.
        state: State of the person's stream: "warming", "valid" or "stale".
        prediction: The newest prediction while the state is "valid", else None.
    """

    name: str
    box: Box
    visible: bool
    state: State
    prediction: Prediction | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; times in seconds, pixels to one place."""
        return {
            "name": self.name,
            "box": self.box.to_json(),
            "visible": self.visible,
            "state": self.state,
            "prediction": None if self.prediction is None else self.prediction.to_json(),
        }


@dataclass(frozen=True)
class Perception:
    """What one frame brought.

    Attributes:
        timestamp_s: Time of the frame, in the camera's seconds.
        people: Everyone present.
        predictions: Predictions that became ready with this frame.
        changes: States entered with this frame.
        image: The frame, (H, W, 3) uint8 RGB, as it was given; not copied.
    """

    timestamp_s: float
    people: tuple[Person, ...]
    predictions: tuple[Prediction, ...]
    changes: tuple[StateChange, ...]
    image: np.ndarray = field(repr=False, compare=False)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of a JSON-lines file: changes of state, then predictions with the box that the
        person's face has in this frame."""
        boxes = {person.name: person.box.to_json() for person in self.people}
        for change in self.changes:
            yield change.to_json()
        for prediction in self.predictions:
            yield {**prediction.to_json(), "box": boxes.get(prediction.stream)}

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the image."""
        lines = list(self.lines())
        return {
            "type": "perception",
            "time_s": round(self.timestamp_s, 6),
            "people": [person.to_json() for person in self.people],
            "predictions": [line for line in lines if line["type"] == "prediction"],
            "changes": [line for line in lines if line["type"] == "state"],
        }


@dataclass(frozen=True)
class PerceiverStatistics:
    """What a perceiver did, and whether it keeps up.

    Attributes:
        frames: Frames taken.
        searched: Frames in which faces were looked for.
        searched_whole: Those of them that were searched whole, and not around the faces alone.
        people: Names given.
        predictions: Predictions returned.
        missed: Clips that were due and replaced by newer ones before the model was free.
        ignored: Detected faces left alone because `max_people` were followed already.
        level: Index of `budget.LEVELS`; 0 without a budget, or as long as it is kept.
        detect_every: Frames from search to search, now.
        hop_s: Seconds between the predictions of a person, now.
        slowed_s: Seconds, by the frames' clock, spent at another level than 0.
        holds: Whether the budget should be kept at this level.
    """

    frames: int = 0
    searched: int = 0
    searched_whole: int = 0
    people: int = 0
    predictions: int = 0
    missed: int = 0
    ignored: int = 0
    level: int = 0
    detect_every: int = 1
    hop_s: float = 0.0
    slowed_s: float = 0.0
    holds: bool = True
