"""A prediction, and how it is made of a model's outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svfap_edge.tasks import Task


@dataclass(frozen=True)
class Prediction:
    """What one clip of one stream expresses.

    Attributes:
        stream: Name of the stream.
        start_s, end_s: Times of the clip's first and last slot, in the camera's seconds.
        coverage: Share of the clip's slots that hold a captured frame, 0..1.
        latency_ms: From handing over the newest frame of the clip to having this prediction.
        label: Class of the highest probability; None for values and traits.
        score: Its probability; None for values and traits.
        scores: Probability of every class, or every value or trait by name.
        logits: (L,) float32, as the model returned them.
        features: (F,) float32, or None where the artifact returns none.
        smoothed: `scores` low-passed over time, see `Stream.smooth`; None where no smoothing was
            asked for. Everything else here is as the model returned it.
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

    @property
    def smoothed_label(self) -> str | None:
        """Class of the highest smoothed probability, or of the highest one without smoothing; None
        for values and traits."""
        if self.label is None or not self.smoothed:
            return self.label
        return max(self.smoothed, key=self.smoothed.__getitem__)

    def to_json(self) -> dict[str, Any]:
        """One line of a JSON-lines file; times in seconds, scores to six places."""
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


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def interpret(logits: np.ndarray, task: Task) -> tuple[str | None, float | None, dict[str, float]]:
    """(L,) outputs to (label, score, scores by name)."""
    values: list[float] = logits.tolist()
    if task.kind != "classes":
        return None, None, dict(zip(task.labels, values, strict=True))
    highest = max(values)
    powers = [math.exp(value - highest) for value in values]  # few: numpy would take longer
    total = math.fsum(powers)
    scores = {label: power / total for label, power in zip(task.labels, powers, strict=True)}
    best = task.labels[values.index(highest)]
    return best, scores[best], scores
