"""A visitor's own camera: frames in, and what one or two engines make of the same frames."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svfap_edge.errors import FrameError, require
from svfap_edge.perception.detectors import Box, Detector, open_detector
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.perception.results import Perception
from svfap_edge.runtimes import Engine

from .jpeg import decode_jpeg

_TIME = struct.Struct(">d")


class SharedDetector:
    """A detector that looks at a frame once, however many perceivers ask for its faces."""

    def __init__(self, detector: Detector) -> None:
        self.name = detector.name
        self._detector = detector
        self._image: np.ndarray | None = None
        self._boxes: list[Box] = []

    def detect(self, frame: np.ndarray) -> list[Box]:
        if frame is not self._image:
            self._boxes = self._detector.detect(frame)
            self._image = frame
        return list(self._boxes)


@dataclass
class Agreement:
    """How far two engines agree on the same clips.

    Attributes:
        pairs: Clips that both predicted.
        same: Pairs with the same label; 0 for values and traits, which have none.
        difference: Sum of the mean absolute differences of the scores.
    """

    pairs: int = 0
    same: int = 0
    difference: float = 0.0

    def add(self, first: Perception, second: Perception) -> None:
        """Compare the predictions that a frame brought."""
        others = {(p.stream, p.end_s): p for p in second.predictions}
        for one in first.predictions:
            other = others.get((one.stream, one.end_s))
            if other is None:
                continue
            gaps = [abs(value - other.scores[name]) for name, value in one.scores.items()]
            self.pairs += 1
            self.same += one.label is not None and one.label == other.label
            self.difference += math.fsum(gaps) / len(gaps)

    def to_json(self) -> dict[str, Any]:
        mean = self.difference / self.pairs if self.pairs else None
        return {
            "pairs": self.pairs,
            "same": self.same,
            "mean_difference": None if mean is None else round(mean, 6),
        }


class Visitor:
    """One visitor's frames through one engine, or through two side by side.

    People are called after the visitor, whose prefix no other has on these engines. Nothing of a
    frame is kept beyond its clips. One thread at a time may call.
    """

    def __init__(
        self, engines: Sequence[Engine], prefix: str, detection: Mapping[str, Any], hop_s: float
    ) -> None:
        """
        Args:
            engines: One engine, or two different ones. Closed by the caller.
            prefix: First part of the people's names.
            detection: Arguments of `open_detector`.
            hop_s: Seconds between the predictions of a person.
        """
        different = 1 <= len({id(engine) for engine in engines}) == len(engines) <= 2
        require(different, "engines", "one choice, or two different ones", list(engines))
        found = open_detector(**detection)
        detector: Detector = found if len(engines) == 1 else SharedDetector(found)
        self._engines = list(engines)
        self._perceivers = [
            Perceiver(engine, detector=detector, hop_s=hop_s, prefix=prefix) for engine in engines
        ]
        self._agreement = Agreement()
        self._model_ms: list[float | None] = [None for _ in engines]

    def look(self, message: bytes) -> dict[str, Any]:
        """Take a frame: its time in seconds as a big-endian double of eight bytes, then a JPEG.

        Raises:
            FrameError, TimestampError: the frame cannot be taken. Nothing was changed.
            InferenceError: an engine failed.
        """
        started = time.perf_counter()
        if len(message) <= _TIME.size:
            raise FrameError("A frame is its time (eight bytes) and then a JPEG; this is shorter.")
        (timestamp_s,) = _TIME.unpack_from(message)
        image = decode_jpeg(message[_TIME.size :])
        found = [self._process(i, image, timestamp_s) for i in range(len(self._perceivers))]
        if len(found) == 2:
            self._agreement.add(*found)
        return {
            "type": "answer",
            "time_s": round(timestamp_s, 6),
            "width": image.shape[1],
            "height": image.shape[0],
            "views": [
                {**self.names[i], "model_ms": self._model_ms[i], "perception": each.to_json()}
                for i, each in enumerate(found)
            ],
            "agreement": self._agreement.to_json() if len(found) == 2 else None,
            "server_ms": round((time.perf_counter() - started) * 1e3, 2),
        }

    def _process(self, index: int, image: np.ndarray, timestamp_s: float) -> Perception:
        perceiver = self._perceivers[index]
        before_s = perceiver.seconds["model"]
        perception = perceiver.process(image, timestamp_s)
        if perception.predictions:
            spent_ms = (perceiver.seconds["model"] - before_s) * 1e3
            self._model_ms[index] = round(spent_ms / len(perception.predictions), 2)
        return perception

    @property
    def names(self) -> list[dict[str, Any]]:
        """Artifact, engine and precision in force of each engine."""
        specs = [engine.spec for engine in self._engines]
        return [
            {"artifact": spec.artifact, "engine": spec.engine, "precision": spec.precision}
            for spec in specs
        ]

    @property
    def detector(self) -> str:
        """Name of the face detector."""
        return self._perceivers[0].detector.name

    def close(self) -> None:
        """End all streams."""
        for perceiver in self._perceivers:
            perceiver.close()
