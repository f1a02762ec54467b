"""One source through one perceiver into sinks, with an account of the time it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from .errors import InferenceError
from .frames import Gap, Source
from .origin import Origin, origin_of
from .perceiver import Perceiver, Perception
from .runtimes import Engine
from .sinks import OriginSink, Sink

MAX_FAILURES, FAILING_S = 3, 5.0
"""The run ends when the engine fails so many times in a row and for so many seconds."""


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
        seconds: Wall time by stage: decode (of a live source wait), detect, crop, model, write,
            rest.
        counts: What became of a live source's frames; see `SourceCounts`. Empty for others.
        warnings: What went wrong without ending the run.
        origin: When a live source began; None of others, and before its first frame.
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
    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    origin: Origin | None = None

    @property
    def fps(self) -> float:
        """Frames per second of wall time."""
        return self.frames / self.wall_s if self.wall_s else 0.0

    @property
    def speed(self) -> float:
        """Seconds of video per second of wall time."""
        return self.duration_s / self.wall_s if self.wall_s else 0.0

    def count(self, perception: Perception) -> None:
        """Add the predictions of a frame."""
        self.predictions += len(perception.predictions)
        for prediction in perception.predictions:
            if prediction.label is not None:
                self.labels[prediction.label] = self.labels.get(prediction.label, 0) + 1

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        del content["origin"]
        if self.origin is not None:
            content |= self.origin.times
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
    *,
    seconds: float | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> RunSummary:
    """Read the source to its end. Where the engine fails, the predictions that were due are
    missing, and a warning tells of it.

    Args:
        source: Closed when it was read.
        engine: The one the perceiver uses.
        sinks: Closed here, whatever happens.
        progress: Called after every frame with (frames so far, frames expected or None).
        seconds: Stop when so much of the source's time has passed since its first frame.
        warn: Takes the warnings of a live source as they come.

    Raises:
        SvfapError: from the source or a sink; or from the engine, if it goes on failing (see
            `MAX_FAILURES`) or never worked. What the sinks got so far is complete.
        Exception: whatever else a sink raises; the other sinks are closed all the same.
    """
    spec = engine.spec
    summary = RunSummary(
        source.name, spec.artifact, spec.engine, spec.precision, perceiver.detector.name
    )
    failures = Failures(warn if source.live else None)
    before = perceiver.statistics.people
    decode = write = 0.0
    told = 0
    time_s = 0.0
    started = time.perf_counter()
    with closing(sinks):
        items = source.items()
        while seconds is None or time_s < seconds:
            mark = time.perf_counter()
            frame = next(items, None)
            decode += time.perf_counter() - mark
            if frame is None:
                break
            begun = summary.frames > 0
            if begun or not isinstance(frame, Gap):  # waiting for the first takes no time
                time_s = frame.timestamp_s
            if source.live:
                for text in source.warnings[told:]:
                    warn(text)
                    told += 1
            if isinstance(frame, Gap):
                changes = perceiver.missing(time_s) if begun else []
                for sink in sinks:
                    sink.missing(frame, changes)
                continue
            if frame.gap:
                perceiver.reset()
            if not begun:
                summary.origin = origin_of(source, frame)
                _begin(summary.origin, sinks)
            summary.frames += 1
            summary.duration_s = frame.timestamp_s
            try:
                perception = perceiver.process(frame.image, frame.timestamp_s)
            except InferenceError as error:
                failures.add(error, frame.timestamp_s)
                continue
            failures.forgive(len(perception.predictions))
            summary.count(perception)
            mark = time.perf_counter()
            for sink in sinks:
                sink.write(frame, perception)
            write += time.perf_counter() - mark
            progress(summary.frames, source.frames)
        failures.judge()
        source.close()
        if source.counts is not None:
            summary.counts = asdict(source.counts)
        changes = perceiver.finish()
        summary.people = perceiver.statistics.people - before
        summary.warnings = [*source.warnings, *warnings_of(perceiver), *failures.warnings]
        summary.wall_s = time.perf_counter() - started
        summary.seconds = {
            "wait" if source.live else "decode": decode,
            **perceiver.seconds,
            "write": write,
        }
        summary.seconds["rest"] = max(0.0, summary.wall_s - sum(summary.seconds.values()))
        for sink in sinks:
            sink.finish(changes, summary.to_json())
    return summary


def _begin(origin: Origin | None, sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        if origin is not None and isinstance(sink, OriginSink):
            sink.begin(origin)


def warnings_of(perceiver: Perceiver) -> list[str]:
    """What a user should know of it at the end, also whether its budget was kept."""
    if perceiver.statistics.holds:
        return list(perceiver.warnings)
    return [*perceiver.warnings, _NOT_KEPT]


_NOT_KEPT = (
    "The budget was not kept: at the end of the run frames took longer than it on average, however "
    "seldom faces were looked for. Give it more milliseconds, or the machine less to do."
)


class Failures:
    """Failures of the engine: forgiven, unless there are too many in a row, or nothing else."""

    def __init__(self, warn: Callable[[str], None] | None = None) -> None:
        """
        Args:
            warn: Told of the first one; None where the summary is soon enough.
        """
        self._warn = warn
        self._first: InferenceError | None = None
        self.count = self._row = self._predictions = 0
        self._since_s = 0.0  # the first failure of the row

    @property
    def warnings(self) -> list[str]:
        if self._first is None:
            return []
        times = "once" if self.count == 1 else f"{self.count} times"
        return [f"The engine failed {times}; those predictions are missing: {self._first}"]

    def add(self, error: InferenceError, time_s: float) -> None:
        """Raises the error if it is one too many."""
        self._first = self._first or error
        self.count += 1
        self._row += 1
        if self._row == 1:
            self._since_s = time_s
        if self._row >= MAX_FAILURES and time_s - self._since_s >= FAILING_S:
            raise error
        if self.count == 1 and self._warn is not None:
            self._warn(f"The engine failed; the run goes on. {error}")

    def forgive(self, predictions: int) -> None:
        self._predictions += predictions
        if predictions:
            self._row = 0

    def judge(self) -> None:
        """At the end. Raises the first error if the engine never worked."""
        if self._first is not None and not self._predictions:
            raise self._first


class Closable(Protocol):
    def close(self) -> None: ...


@contextmanager
def closing(sinks: Sequence[Closable]) -> Iterator[None]:
    """Close every sink at the end, whatever happened; the first error is the one that is raised."""
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    for sink in sinks:
        try:
            sink.close()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure
