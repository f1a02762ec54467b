"""Several sources through one engine: cameras at their own pace, files in order of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Protocol

from svfap_edge.errors import InferenceError, SvfapError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import CameraLines
from svfap_edge.sinks.sink import OriginSink, Sink
from svfap_edge.sources.frames import Frame, Gap, Source, StartTime, start_time_of
from svfap_edge.sources.opening import are_live

from .account import Account, CamerasSummary, Failures, RunSummary, warnings_of
from .feeds import Feeds

TOGETHER_S = 0.02
"""Frames of files that lie this close are taken together, so that their clips share a batch."""


def run(
    sources: Mapping[str, Source],
    engine: Engine,
    cameras: Cameras,
    lines: CameraLines | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    *,
    seconds: float | None = None,
    warn: Callable[[str], None] = lambda text: None,
    failed: Mapping[str, str] | None = None,
) -> CamerasSummary:
    """Read all sources to their ends. One that fails ends alone: `warn` and the summary tell it.

    Live sources have a thread each, in which faces are found; the model runs in the caller's. Files
    are read in the caller's thread, in order of their times, so that the same files give the same
    results (without a budget, which goes by the clock).

    Args:
        sources: By name of the camera: all live, or none. Closed as they end.
        engine: The one that `cameras` uses.
        cameras: Of the same names.
        lines: Closed here, whatever happens.
        progress: Called again and again with (frames so far, frames expected or None).
        seconds: Stop a source when so much of its time has passed.
        warn: Takes the failures, and warnings of live sources, as they come.
        failed: Sources that could not be opened, for the summary.

    Raises:
        SvfapError: files and cameras are mixed; from `lines`; or from the engine, if it goes on
            failing or never worked. What `lines` got so far is complete.
    """
    account = Account(sources, engine, cameras, lines, warn)
    with closing([] if lines is None else [lines]):
        play = _play_live if are_live(sources) else _play_files
        play(account, seconds, progress)
        account.failures.judge()
        summary = account.sum_up(dict(failed or {}))
        if lines is not None:
            lines.finish(summary.to_json())
    return summary


def _play_files(
    account: Account, seconds: float | None, progress: Callable[[int, int | None], None]
) -> None:
    """The earliest frame of all files comes next, and with it those that lie close to it."""
    items = {name: iter(source) for name, source in account.sources.items()}
    expected = [source.frames for source in account.sources.values()]
    total = None if None in expected else sum(number or 0 for number in expected)
    heads: dict[str, Frame] = {}  # the next frame of each file

    def advance(name: str) -> None:
        started = time.perf_counter()
        frame, failure = None, None
        try:
            frame = next(items[name], None)
        except SvfapError as error:
            failure = error
        account.waited(name, time.perf_counter() - started)
        if frame is not None:
            heads[name] = frame
        else:
            heads.pop(name, None)
            account.end(name, failure)

    for name in items:
        advance(name)
    while heads:
        first_s = min(frame.timestamp_s for frame in heads.values())
        taken = {n: f for n, f in heads.items() if f.timestamp_s <= first_s + TOGETHER_S}
        for name, frame in taken.items():
            account.took(name, frame)
        pictures = {name: (frame.image, frame.timestamp_s) for name, frame in taken.items()}
        account.tell(account.step(partial(account.cameras.process, pictures), first_s))
        for name, frame in taken.items():
            if seconds is not None and frame.timestamp_s >= seconds:
                del heads[name]
                account.end(name)
            else:
                advance(name)
        progress(account.frames, total)


def _play_live(
    account: Account, seconds: float | None, progress: Callable[[int, int | None], None]
) -> None:
    """Each source is read in a thread; what follows is told in this one."""
    feeds = Feeds(account, seconds)
    with feeds:
        left = list(account.sources)
        while left:
            # Before the step, which then has the last frames of these.
            over = [name for name in left if name in feeds.ended]
            feeds.step()
            account.warn_news()
            for name in over:
                left.remove(name)
                account.end(name, feeds.failure_of(name))
            progress(account.frames, None)


def run_one(
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
                summary.origin = start_time_of(source, frame)
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


def _begin(origin: StartTime | None, sinks: Sequence[Sink]) -> None:
    for sink in sinks:
        if origin is not None and isinstance(sink, OriginSink):
            sink.begin(origin)


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
