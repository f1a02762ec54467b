"""The account of a run: what is counted, written, and warned of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import InferenceError, SvfapError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.perception.view import View
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.sink import Sink
from svfap_edge.sources.frames import Frame, Gap, Source, StartTime, start_time_of

UNNAMED = ""
"""Name of the camera where the run has one source without a name; see `Cameras`."""

MAX_FAILURES, FAILING_S = 3, 5.0
"""The run ends when the engine failed this many times in a row, over this many seconds."""


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        source: Name of the source; of several, their names.
        artifact: Name of the artifact that computed, for example "int8.onnx".
        engine: Name of its engine.
        precision: The effective precision.
        detector: Name of the face detector.
        frames: Frames read.
        start_s: Time of the first frame in the recording, see `Source.start_s`: what is added to
            other times to line them up with its sound.
        duration_s: Seconds from the first to the last frame, by the source's clock.
        wall_s: Seconds that the run took; of one of several sources, until its end.
        people: Names given.
        predictions: Predictions made.
        labels: How often each label came first (classes only).
        seconds: Wall seconds by stage: "decode" ("wait" for a live source), "detect", "crop",
            "model", "write", "rest". Several live sources have no "wait" and no "rest" in common,
            since their threads overlap.
        counts: What became of a live source's frames, see `SourceCounts`; empty for files.
        warnings: What went wrong without ending the run.
        start: When a live source began; None for files, and before the first frame.
        cameras: The summary of each source by its name, where sources have names.
        failed: Why a named source could not be opened, or ended too early.
    """

    source: str
    artifact: str
    engine: str
    precision: str
    detector: str
    frames: int = 0
    start_s: float = 0.0
    duration_s: float = 0.0
    wall_s: float = 0.0
    people: int = 0
    predictions: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    start: StartTime | None = None
    cameras: dict[str, RunSummary] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

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
        for name in ("start", "cameras", "failed"):
            del content[name]
        if self.start is not None:
            content |= self.start.times
        content["seconds"] = {name: round(value, 4) for name, value in self.seconds.items()}
        content["duration_s"] = round(self.duration_s, 4)
        content["wall_s"] = round(self.wall_s, 4)
        content |= {"fps": round(self.fps, 2), "speed": round(self.speed, 3)}
        if self.cameras:
            cameras = {name: each.to_json() for name, each in self.cameras.items()}
            content |= {"cameras": cameras, "failed": self.failed}
        return content


class Account:
    """What the sources brought: counted, written to the sinks, and warned of. Used by one thread,
    but for the frames that are counted."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        engine: Engine,
        cameras: Cameras,
        sinks: Sequence[Sink],
        warn: Callable[[str], None],
    ) -> None:
        self.sources, self.cameras = sources, cameras
        self.failures = Failures(warn)
        self._failed: dict[str, str] = {}
        self._started = time.perf_counter()
        self._write_s = 0.0
        self._sinks, self._warn, self._clip = sinks, warn, engine.spec.clip
        self._begun: set[str] = set()
        self._warned = dict.fromkeys(sources, 0)
        self._empty = partial(
            RunSummary,
            artifact=engine.spec.artifact,
            engine=engine.spec.engine,
            precision=engine.spec.precision,
            detector=next(iter(cameras.views.values())).detector.name,
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

    def take(self, name: str, frame: Frame) -> None:
        """Count a frame, before it is looked at."""
        summary = self.summaries[name]
        if frame.gap:
            self.cameras.reset(name)
        if summary.frames == 0:
            summary.start = start_time_of(self.sources[name], frame)
            summary.start_s = self.sources[name].start_s
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

    def write(self, found: Mapping[str, Perception]) -> None:
        """Count what a step brought, and give it to the sinks."""
        self._write_beginnings()
        for name, perception in found.items():
            summary = self.summaries[name]
            summary.predictions += len(perception.predictions)
            for prediction in perception.predictions:
                if prediction.label is not None:
                    summary.labels[prediction.label] = summary.labels.get(prediction.label, 0) + 1
            self._each("write", name, perception)

    def write_gap(self, name: str, gap: Gap, changes: list[StateChange]) -> None:
        self._each("missing", name, gap, changes)

    def warn_news(self) -> None:
        """Pass on what live sources warned of meanwhile."""
        for name, source in self.sources.items():
            if source.live:
                for text in source.warnings[self._warned[name] :]:
                    self._warn(_about(name, text))
                    self._warned[name] += 1

    def end(self, name: str, error: BaseException | None = None) -> None:
        """A source came to its end, or to a bad one. Raises what is no error of a source, and any
        error of a source without a name: with it the run ends."""
        self._write_beginnings()
        source, summary = self.sources[name], self.summaries[name]
        source.close()
        self.warn_news()
        if error is not None and (name == UNNAMED or not isinstance(error, SvfapError)):
            raise error
        changes = self.cameras.end(name)
        view = self.cameras.views[name]
        summary.people = view.statistics.people
        summary.counts = asdict(source.counts) if source.counts is not None else {}
        summary.warnings = [*source.warnings, *warnings_of(view)]
        if summary.people and not summary.predictions:
            summary.warnings += sparse(summary, self._clip, view.settings.min_coverage)
        summary.wall_s = self.wall_s
        summary.seconds |= view.seconds
        content = summary.to_json()
        if error is not None:
            content["failed"] = self._failed[name] = str(error)
            self._warn(_about(name, str(error)))
        self._each("end", name, changes, content)

    def finish(self, unopened: dict[str, str]) -> RunSummary:
        """The run ended well. Returns the summary of all."""
        names = list(self.summaries)
        if names == [UNNAMED]:
            total = self.summaries[names[0]]
            total.wall_s = self.wall_s
        else:
            total = self._empty(", ".join(names), wall_s=self.wall_s)
            total.cameras, total.failed = self.summaries, {**unopened, **self._failed}
            self._add_up(total)
        total.seconds["write"] = self._write_s
        if len(names) == 1 or total.seconds.pop("wait", None) is None:
            total.seconds["rest"] = max(0.0, total.wall_s - sum(total.seconds.values()))
        total.warnings += self.failures.warnings
        for sink in self._sinks:
            sink.finish(total.to_json())
        return total

    def _add_up(self, total: RunSummary) -> None:
        every = self.summaries.values()
        for summary in every:
            total.frames += summary.frames
            total.duration_s += summary.duration_s
            total.people += summary.people
            total.predictions += summary.predictions
        total.labels = _added([summary.labels for summary in every])
        total.counts = _added([summary.counts for summary in every])
        total.seconds = _added([summary.seconds for summary in every])
        total.warnings = [
            f"{name}: {text}" for name, each in self.summaries.items() for text in each.warnings
        ]

    def _write_beginnings(self) -> None:
        """Write when live sources began, once for each."""
        for name, summary in self.summaries.items():
            start = summary.start
            if start is not None and name not in self._begun:
                self._begun.add(name)
                self._each("begin", name, start)

    def _each(self, method: str, name: str, *arguments: object) -> None:
        """Call a method of every sink that takes the results of this source."""
        started = time.perf_counter()
        for sink in self._sinks:
            if name == UNNAMED or sink.camera in (None, name):
                getattr(sink, method)(name or None, *arguments)
        self._write_s += time.perf_counter() - started


def _about(name: str, text: str) -> str:
    """A message about a source."""
    return f"{name}: {text}" if name else text


def _added(parts: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Numbers of the same name summed; names in the order in which they first come."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}


def warnings_of(view: View) -> list[str]:
    """What a user should know of it at the end, also whether its budget was kept."""
    if view.statistics.holds:
        return list(view.warnings)
    return [*view.warnings, _NOT_KEPT]


def sparse(summary: RunSummary, clip: ClipSpec, min_coverage: float) -> list[str]:
    """What to do about a source whose frames are too few for any prediction; nothing where they are
    not, or where it is shorter than a clip."""
    rate = summary.frames / summary.duration_s if summary.duration_s > clip.span_s else math.inf
    share = rate * clip.spacing_s
    if share >= min_coverage:
        return []
    return [
        f"The source has {rate:.1f} frames a second, but a clip of this model takes one every "
        f"{clip.spacing_s:.2f} s and is predicted if {min_coverage:.0%} of it are there: only "
        f"{share:.0%} are. Use a source with more frames, a model with a wider spacing, or "
        f"--min-coverage {math.floor(95 * share) / 100:g} (in Python min_coverage), with less to "
        "go by."
    ]


_NOT_KEPT = (
    "The budget was not kept: at the end of the run frames took longer than it on average, however "
    "seldom faces were looked for. Give it more milliseconds, or the machine less to do."
)


class Failures:
    """Failures of the engine: forgiven, unless there are too many in a row, or nothing else."""

    def __init__(self, warn: Callable[[str], None]) -> None:
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
        if self.count == 1:
            self._warn(f"The engine failed; the run goes on. {error}")

    def forgive(self, predictions: int) -> None:
        self._predictions += predictions
        if predictions:
            self._row = 0

    def judge(self) -> None:
        """At the end. Raises the first error if the engine never worked."""
        if self._first is not None and not self._predictions:
            raise self._first
