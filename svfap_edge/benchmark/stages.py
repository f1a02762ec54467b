"""Where the time of the whole application goes: decode, detect, crop, model, rest.

One process reads a video as `svfap-edge run` does, without writing anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from .timing import WARM_UP, Timed

if TYPE_CHECKING:
    from svfap_edge.perception.detectors import Detector
    from svfap_edge.runtimes import Engine

STAGES = ("decode", "detect", "crop", "model", "rest")
"""All stages, in the order in which a frame passes through them."""

PER_PREDICTION = ("model",)
"""Stages that count only in frames that brought predictions; the others count in every frame."""

MIN_ANSWERS = 3
"""Frames with predictions to wait for when the time is over: a stream warms up first."""

PATIENCE = 10
"""How many times the time may pass before a measurement ends without `MIN_ANSWERS`."""


@dataclass
class StageTimes:
    """What one process did.

    Attributes:
        detector: Name of the face detector.
        predictions: Number of predictions in each counted frame.
        ms: Milliseconds that each stage took in each counted frame.
        peak_mb: Most memory, in MB, that the process held.
    """

    detector: str
    predictions: list[int]
    ms: dict[str, list[float]]
    peak_mb: float = 0.0


def time_stages(
    timed: Timed,
    source: str,
    seconds: float,
    detector: str = "auto",
    face_model: Path | None = None,
    threads: int | None = None,
) -> StageTimes:
    """Run the application in this process, which should be a fresh one, for at least `seconds`.

    A short source is repeated. The other arguments are as in `BenchmarkOptions`.
    """
    import numpy as np

    from svfap_edge.machine import peak_memory_mb
    from svfap_edge.perception.detectors import open_detector

    finder = open_detector(detector, face_model)
    times = StageTimes(finder.name, [], {stage: [] for stage in STAGES})
    wall_s, answers = 0.0, 0
    with timed.load(threads) as loaded:
        for _ in range(WARM_UP):
            loaded.infer(np.zeros((1, *loaded.spec.clip.shape), np.uint8))
        while wall_s < seconds:
            before = len(times.predictions)
            for stages, predictions in _frames(loaded, finder, source):
                for stage, spent_s in stages.items():
                    times.ms[stage].append(spent_s * 1e3)
                times.predictions.append(predictions)
                answers += predictions > 0
                wall_s += sum(stages.values())
                if wall_s >= seconds * (1 if answers >= MIN_ANSWERS else PATIENCE):
                    break
            if len(times.predictions) == before:  # no more than the frames that do not count
                break
    times.peak_mb = peak_memory_mb()
    return times


def _frames(
    engine: Engine, detector: Detector, source: str
) -> Iterator[tuple[dict[str, float], int]]:
    """The seconds of each stage, and the number of predictions, of the frames of a source.

    The first frames, on which libraries set up, are left out.
    """
    from svfap_edge.perception.perceiver import Perceiver
    from svfap_edge.sources.opening import open_source

    with Perceiver(engine, detector=detector) as perceiver, open_source(source) as opened:
        frames = iter(opened)
        for index in count():
            start = time.perf_counter()
            frame = next(frames, None)
            decoded = time.perf_counter()
            if frame is None:
                break
            spent = dict(perceiver.seconds)
            perception = perceiver.process(frame.image, frame.timestamp_s)
            whole = time.perf_counter() - start
            stages = {"decode": decoded - start}
            stages |= {name: perceiver.seconds[name] - spent[name] for name in spent}
            stages["rest"] = max(0.0, whole - sum(stages.values()))
            if index >= WARM_UP:
                yield stages, len(perception.predictions)
