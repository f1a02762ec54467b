"""Where the time of the whole application goes: decode, detect, crop, model, rest.

One process reads a video as `svfap-edge run` does, without writing anything.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .processes import answer_of, answering
from .timing import WARM_UP, Timed

PER_PREDICTION = ("model",)
"""Stages counted once for each frame that brought predictions; the others for every frame."""

MIN_ANSWERS = 3
"""Frames with predictions to wait for when the time is over: a stream warms up first."""

PATIENCE = 10
"""How many times the time may pass before a measurement ends without `MIN_ANSWERS`."""


@dataclass
class StageTimes:
    """What one process did.

    Attributes:
        detector: Name of the face detector.
        frames: Counted frames.
        predictions: Predictions in the counted frames.
        wall_s: Seconds that the counted frames took.
        peak_mb: Most memory, in MB, that the process held.
        ms: Milliseconds of each stage, one entry for each frame; see `PER_PREDICTION`.
        total_s: Seconds of each stage in all frames; their sum is `wall_s`.
    """

    detector: str
    frames: int = 0
    predictions: int = 0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    ms: dict[str, list[float]] = field(default_factory=dict)
    total_s: dict[str, float] = field(default_factory=dict)

    def enough(self, seconds: float) -> bool:
        """Whether the frames counted suffice for a measurement of so long."""
        answers = len(self.ms.get("model", ()))
        return self.wall_s >= seconds * (1 if answers >= MIN_ANSWERS else PATIENCE)

    def add(self, seconds: dict[str, float], predictions: int) -> None:
        """Count one frame."""
        self.frames += 1
        self.predictions += predictions
        self.wall_s += sum(seconds.values())
        for stage, value in seconds.items():
            self.total_s[stage] = self.total_s.get(stage, 0.0) + value
            values = self.ms.setdefault(stage, [])
            if predictions or stage not in PER_PREDICTION:
                values.append(value * 1e3)


def time_stages(
    timed: Timed,
    source: str,
    seconds: float,
    *,
    detector: str = "auto",
    face_model: Path | None = None,
    threads: int | None = None,
) -> StageTimes:
    """Run the application in a fresh process.

    Args:
        timed: An artifact.
        source: A video or "sample"; a short one is repeated.
        seconds: Shortest time to run.
        detector: As `svfap_edge.perception.detectors.open_detector` takes it.
        face_model: As `svfap_edge.perception.detectors.open_detector` takes it.
        threads: CPU threads of the engine; None for its own choice.

    Raises:
        SvfapError: the process failed; see `svfap_edge.benchmark.processes.answer_of`.
    """
    job: dict[str, Any] = {
        "folder": str(timed.bundle),
        "artifact": timed.artifact,
        "engine": timed.engine,
        "source": source,
        "seconds": seconds,
        "detector": detector,
        "face_model": None if face_model is None else str(face_model),
        "threads": threads,
    }
    return StageTimes(**answer_of(["-m", __name__, json.dumps(job)], f"Running {timed}"))


def measure(
    folder: str,
    artifact: str,
    engine: str,
    source: str,
    seconds: float,
    detector: str,
    face_model: str | None,
    threads: int | None,
) -> StageTimes:
    """`time_stages` in this process. The first frames, on which libraries set up, do not count."""
    import numpy as np

    from svfap_edge.machine import peak_memory_mb
    from svfap_edge.perception.detectors import open_detector
    from svfap_edge.runtimes import Engine

    finder = open_detector(detector, face_model)
    times = StageTimes(finder.name)
    with Engine.load(folder, artifact=artifact, engine=engine, threads=threads) as loaded:
        for _ in range(WARM_UP):
            loaded.infer(np.zeros((1, *loaded.spec.clip.shape), np.uint8))
        while times.wall_s < seconds:
            before = times.frames
            _one_pass(loaded, finder, source, seconds, times)
            if times.frames == before:  # no more than the frames that do not count
                break
    times.peak_mb = peak_memory_mb()
    return times


def _one_pass(loaded: Any, finder: Any, source: str, seconds: float, times: StageTimes) -> None:
    """Read the source once, or until the time is over."""
    from svfap_edge.perception.perceiver import Perceiver
    from svfap_edge.sources.opening import open_source

    perceiver = Perceiver(loaded, detector=finder)
    with open_source(source) as opened:
        frames = iter(opened)
        for index in range(sys.maxsize):
            start = time.perf_counter()
            frame = next(frames, None)
            decoded = time.perf_counter()
            if frame is None or times.enough(seconds):
                break
            spent = dict(perceiver.seconds)
            perception = perceiver.process(frame.image, frame.timestamp_s)
            whole = time.perf_counter() - start
            stages = {"decode": decoded - start}
            stages |= {name: perceiver.seconds[name] - spent[name] for name in spent}
            stages["rest"] = max(0.0, whole - sum(stages.values()))
            if index >= WARM_UP:
                times.add(stages, len(perception.predictions))
    perceiver.finish()


if __name__ == "__main__":
    with answering() as answer:
        answer(asdict(measure(**json.loads(sys.argv[1]))))
