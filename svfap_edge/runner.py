"""One source through one perceiver into sinks, with an account of the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .perceiver import Perceiver
from .runtimes import Engine
from .sinks import Sink
from .sources import Source


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        source: Its name.
        artifact, engine, precision: What computed; the precision is the effective one.
        detector: Name of the face detector.
        frames: Frames read.
        duration_s: Time from the first to the last frame, in the source's seconds.
        wall_s: Time the run took.
        people: Identities seen.
        predictions: Predictions made.
        labels: How often each label came first (classes only).
        seconds: Wall time by stage: decode, detect, crop, model, write, rest.
        warnings: What went wrong without ending the run.
    """

    source: str
    artifact: str
    engine: str
    precision: str
    detector: str
    frames: int = 0
    duration_s: float = 0.0
    wall_s: float = 0.0
    people: int = 0
    predictions: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames per second of wall time."""
        return self.frames / self.wall_s if self.wall_s else 0.0

    @property
    def speed(self) -> float:
        """Seconds of video per second of wall time."""
        return self.duration_s / self.wall_s if self.wall_s else 0.0

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content["seconds"] = {name: round(value, 4) for name, value in self.seconds.items()}
        content["duration_s"] = round(self.duration_s, 4)
        content["wall_s"] = round(self.wall_s, 4)
        return {**content, "fps": round(self.fps, 2), "speed": round(self.speed, 3)}


def run(
    source: Source,
    engine: Engine,
    perceiver: Perceiver,
    sinks: Sequence[Sink] = (),
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> RunSummary:
    """Read the source to its end.

    Args:
        source: Closed by the caller.
        engine: The one the perceiver uses.
        sinks: Closed here, whatever happens.
        progress: Called after every frame with (frames so far, frames expected or None).

    Raises:
        SvfapError: from the source or the engine. What the sinks got so far is complete.
    """
    spec = engine.spec
    summary = RunSummary(
        source.name, spec.artifact, spec.engine, spec.precision, perceiver.detector.name
    )
    names: set[str] = set()
    decode = write = 0.0
    started = time.perf_counter()
    try:
        frames = iter(source)
        while True:
            mark = time.perf_counter()
            frame = next(frames, None)
            decode += time.perf_counter() - mark
            if frame is None:
                break
            perception = perceiver.process(frame.image, frame.timestamp_s)
            summary.frames += 1
            summary.duration_s = frame.timestamp_s
            summary.predictions += len(perception.predictions)
            names.update(change.stream for change in perception.changes)
            for prediction in perception.predictions:
                if prediction.label is not None:
                    count = summary.labels.get(prediction.label, 0)
                    summary.labels[prediction.label] = count + 1
            mark = time.perf_counter()
            for sink in sinks:
                sink.write(frame, perception)
            write += time.perf_counter() - mark
            progress(summary.frames, source.frames)
        changes = perceiver.finish()
        summary.people = len(names)
        summary.warnings = [*source.warnings, *perceiver.warnings]
        summary.wall_s = time.perf_counter() - started
        summary.seconds = {"decode": decode, **perceiver.seconds, "write": write}
        summary.seconds["rest"] = max(0.0, summary.wall_s - sum(summary.seconds.values()))
        for sink in sinks:
            sink.finish(changes, summary.to_json())
    finally:
        for sink in sinks:
            sink.close()
    return summary
