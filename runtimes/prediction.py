"""A prediction: how it is made of a model's outputs, and its average over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svfap_edge.tasks import Task


@dataclass(frozen=True)
class Prediction:
    """What one clip of one stream expresses.

    Predictions compare equal if all but `logits` and `features` is equal. They can be members of
    sets and keys of dictionaries; the hash is that of the stream's name and the clip's times.

    Attributes:
        stream: Name of the stream.
        start_s: Time of the clip's first slot, in the camera's seconds.
        end_s: Time of the frame in the clip's last slot, in the camera's seconds.
        coverage: Share of the clip's slots that hold a captured frame, 0..1.
        latency_ms: Milliseconds from handing over the newest frame of the clip to having this
            prediction.
        label: Class of the highest probability; None for values and traits.
        score: Probability of `label`, 0..1; None for values and traits.
        scores: Probability of every class, 0..1, or every value or trait, by name.
        logits: (L,) float32, as the model returned them.
        features: (F,) float32, or None where the artifact returns none.
        smoothed: `scores` as an average over the last seconds (`smoothing_s` of the stream); None
            where no smoothing was asked for. Everything else is as the model returned it.
    """

    stream: str
    start_s: float
    end_s: float
    coverage: float
    latency_ms: float
    label: str | None
    score: float | None
    scores: dict[str, float]
    logits: np.ndarray = field(repr=False, compare=False)
    features: np.ndarray | None = field(default=None, repr=False, compare=False)
    smoothed: dict[str, float] | None = None

    def __hash__(self) -> int:
        return hash((self.stream, self.start_s, self.end_s))

    @property
    def smoothed_label(self) -> str | None:
        """Class of the highest smoothed probability; `label` where there is no smoothing; None for
        values and traits."""
        if self.label is None or not self.smoothed:
            return self.label
        return max(self.smoothed, key=self.smoothed.__getitem__)

    def to_json(self) -> dict[str, Any]:
        """The prediction without `logits` and `features`, as a JSON object: one line of a
        JSON-lines file. Times in seconds and scores have six decimal places."""
        content = {
            "type": "prediction",
            "stream": self.stream,
            "start_s": round(self.start_s, 6),
            "end_s": round(self.end_s, 6),
            "coverage": round(self.coverage, 4),
            "latency_ms": round(self.latency_ms, 2),
            "label": self.label,
            "score": None if self.score is None else round(self.score, 6),
            "scores": {name: round(value, 6) for name, value in self.scores.items()},
        }
        if self.smoothed is not None:
            content["smoothed"] = {name: round(value, 6) for name, value in self.smoothed.items()}
        return content


class Average:
    """A first-order low-pass of a value over time.

    Each new value moves the average towards it by the share 1 - exp(-elapsed / time_s), so that a
    step is followed to 63 % in `time_s`, in seconds, however often values come. `value` is the
    average, and None before the first value.
    """

    def __init__(self, time_s: float) -> None:
        self.time_s = time_s
        self.value: float | None = None
        self._last_s = 0.0

    def add(self, value: float, timestamp_s: float) -> float:
        """Take a value of a time in seconds; return the average. It starts at the first value."""
        if self.value is None:
            self.value = value
        else:
            share = -math.expm1(-max(0.0, timestamp_s - self._last_s) / self.time_s)
            self.value += share * (value - self.value)
        self._last_s = timestamp_s
        return self.value


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (..., L) float64 of logits (..., L)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def interpret(logits: np.ndarray, task: Task) -> tuple[str | None, float | None, dict[str, float]]:
    """What the outputs (L,) of a model mean: label, score and scores of a `Prediction`."""
    values: list[float] = logits.tolist()
    if task.kind != "classes":
        return None, None, dict(zip(task.labels, values, strict=True))
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]  # few: numpy would take longer
    total = math.fsum(powers)
    scores = {label: power / total for label, power in zip(task.labels, powers, strict=True)}
    best = task.labels[values.index(highest)]
    return best, scores[best], scores
