"""The account of a run of several sources: what is counted, written, and warned of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from svfap_edge.errors import InferenceError, SvfapError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.perceiver import Perceiver, Perception, StateChange
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import CameraLines
from svfap_edge.sources.frames import Frame, Gap, Source, StartTime, start_time_of

Number = TypeVar("Number", int, float)


@dataclass
class CamerasSummary:
    """What a run of several sources did.

    Attributes:
        total: Sums over all cameras, but for `wall_s`. `seconds` of live sources has neither the
            wait nor the rest, since their threads overlap; of files it is the whole `wall_s`.
        cameras: By name, those that were opened. `wall_s` lasts until the camera's end.
        failed: By name, why a source could not be opened, or ended too early.
    """

    total: RunSummary
    cameras: dict[str, RunSummary]
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        cameras = {name: summary.to_json() for name, summary in self.cameras.items()}
        return {**self.total.to_json(), "cameras": cameras, "failed": self.failed}


class Account:
    """What the cameras did, and telling it. Used by one thread, but for the frames counted."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        engine: Engine,
        cameras: Cameras,
        lines: CameraLines | None,
        warn: Callable[[str], None],
    ) -> None:
        self.sources, self.cameras = sources, cameras
        self.failures = Failures(warn)
        self.failed: dict[str, str] = {}
        self._started = time.perf_counter()
        self._write_s = 0.0
        self._lines, self._warn = lines, warn
        self._begun: set[str] = set()
        self._warned = dict.fromkeys(sources, 0)
        self._empty = partial(
            RunSummary,
            artifact=engine.spec.artifact,
            engine=engine.spec.engine,
            precision=engine.spec.precision,
            detector=next(iter(cameras.perceivers.values())).detector.name,
        )
        self.summaries = {name: self._empty(source.name) for name, source in sources.items()}
        for name, source in sources.items():
            self.summaries[name].seconds["wait" if source.live else "decode"] = 0.0

    @property
    def frames(self) -> int:
        return sum(summary.frames for summary in self.summaries.values())

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._started

    def took(self, name: str, frame: Frame) -> None:
        """Count a frame."""
        summary = self.summaries[name]
        if summary.frames == 0:
            summary.origin = start_time_of(self.sources[name], frame)
        summary.frames += 1
        summary.duration_s = frame.timestamp_s

    def waited(self, name: str, seconds: float) -> None:
        """Count the time it took to get a frame, or none."""
        kind = "wait" if self.sources[name].live else "decode"
        self.summaries[name].seconds[kind] += seconds

    def step(
        self, stepping: Callable[[], dict[str, Perception]], time_s: float
    ) -> dict[str, Perception]:
        """What a step brings: nothing if the engine fails, unless that is once too often."""
        try:
            found = stepping()
        except InferenceError as error:
            self.failures.add(error, time_s)
            return {}
        self.failures.forgive(sum(len(each.predictions) for each in found.values()))
        return found

    def tell(self, found: Mapping[str, Perception]) -> None:
        """Count and write what a step brought."""
        self._tell_origins()
        for name, perception in found.items():
            self.summaries[name].count(perception)
            if self._lines is not None:
                self._timed(self._lines.write, name, perception)

    def _tell_origins(self) -> None:
        """Write when live sources began, once for each."""
        for name, summary in self.summaries.items():
            if self._lines is not None and summary.origin is not None and name not in self._begun:
                self._begun.add(name)
                self._timed(self._lines.begin, name, summary.origin)

    def tell_gap(self, name: str, gap: Gap, changes: list[StateChange]) -> None:
        if self._lines is not None:
            self._timed(self._lines.missing, name, gap, changes)

    def warn_news(self) -> None:
        """Tell what live sources warned of meanwhile."""
        for name, source in self.sources.items():
            if source.live:
                for text in source.warnings[self._warned[name] :]:
                    self._warn(f"{name}: {text}")
                    self._warned[name] += 1

    def end(self, name: str, error: SvfapError | None = None) -> None:
        """A source came to its end, or to a bad one."""
        self._tell_origins()
        source, summary = self.sources[name], self.summaries[name]
        source.close()
        self.warn_news()
        if error is not None:
            self.failed[name] = str(error)
            self._warn(f"{name}: {error}")
        changes = self.cameras.end(name)
        perceiver = self.cameras.perceivers[name]
        summary.people = perceiver.statistics.people
        summary.counts = asdict(source.counts) if source.counts is not None else {}
        summary.warnings = [*source.warnings, *warnings_of(perceiver)]
        summary.wall_s = self.wall_s
        summary.seconds |= perceiver.seconds
        if self._lines is not None:
            content = summary.to_json()
            if error is not None:
                content["failed"] = str(error)
            self._timed(self._lines.end, name, changes, content)

    def sum_up(self, unopened: dict[str, str]) -> CamerasSummary:
        every = self.summaries.values()
        total = self._empty(", ".join(self.summaries), wall_s=self.wall_s)
        for summary in every:
            total.frames += summary.frames
            total.duration_s += summary.duration_s
            total.people += summary.people
            total.predictions += summary.predictions
        total.labels = _added(summary.labels for summary in every)
        total.counts = _added(summary.counts for summary in every)
        total.seconds = _added(summary.seconds for summary in every)
        total.seconds["write"] = self._write_s
        if total.seconds.pop("wait", None) is None:
            total.seconds["rest"] = max(0.0, total.wall_s - sum(total.seconds.values()))
        total.warnings = [
            f"{name}: {text}" for name, each in self.summaries.items() for text in each.warnings
        ]
        total.warnings += self.failures.warnings
        return CamerasSummary(total, self.summaries, {**unopened, **self.failed})

    def _timed(self, write: Callable[..., None], *what: object) -> None:
        started = time.perf_counter()
        write(*what)
        self._write_s += time.perf_counter() - started


def _added(parts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """Numbers of the same name summed; names in the order in which they first come."""
    total: dict[str, Number] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


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
    origin: StartTime | None = None

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
