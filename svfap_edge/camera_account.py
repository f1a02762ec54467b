"""The account of a run of several sources: what is counted, written, and warned of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from .cameras import Cameras
from .errors import InferenceError, SvfapError
from .frames import Frame, Gap, Source
from .origin import origin_of
from .perceiver import Perception, StateChange
from .runner import Failures, RunSummary, warnings_of
from .runtimes import Engine
from .sinks import CameraLines

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
            summary.origin = origin_of(self.sources[name], frame)
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
