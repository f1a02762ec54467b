"""Sources through one engine into sinks: cameras at their own pace, files in order of time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from svfap_edge.errors import SvfapError, require, require_number
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.tracking import MAX_PEOPLE
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.engine import MAX_BATCH
from svfap_edge.sinks.sink import Sink, closing
from svfap_edge.sources.frames import Frame
from svfap_edge.sources.opening import Openable, are_live, open_source, open_sources

from .account import UNNAMED, Account, RunSummary
from .feeds import Feeds

TOGETHER_S = 0.02
"""Frames of files that lie this close are taken together, so that their clips share a batch."""


def run(
    sources: Openable | Mapping[str, Openable],
    engine: Engine,
    sinks: Sequence[Sink] = (),
    *,
    seconds: float | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda text: None,
    failed: Mapping[str, str] | None = None,
    **options: Any,
) -> RunSummary:
    """Read sources to their ends, and give sinks what the faces in them express.

        with Engine.load() as engine:
            run({"door": 0, "desk": 1}, engine, [JsonLines("faces.jsonl")], hop_s=0.25)

    Of several sources, one that fails ends alone: `warn` and the summary say why. Live sources have
    a thread each, in which faces are found; the model runs in the caller's. Files are read in the
    caller's thread, in order of their times, so that the same files give the same results (without
    a budget, which goes by the clock). Where the engine fails, the predictions that were due are
    missing, and a warning says so.

    Args:
        sources: A source (a path, camera, URL, or what else `open_source` takes), or several by
            name: all live, or none. People of a named source are called after it, those of a source
            without a name "person-1" and so on. Sources are closed as they end.
        engine: The loaded model. Closed by the caller.
        sinks: Where results go. Closed here, whatever happens.
        seconds: Stop a source when this many seconds of its time have passed since its first frame.
        progress: Called again and again with (frames so far, frames expected or None).
        warn: Takes failures, and warnings of live sources, as they come.
        failed: Why further sources could not be opened, by name; for the summary.
        options: Options of `Cameras`, such as detector, hop_s, smoothing_s, budget_s.

    Raises:
        SvfapError: a source without a name failed, or no source could be opened; files and cameras
            are mixed; a sink failed; or the engine goes on failing (see `account.MAX_FAILURES`) or
            never worked. What the sinks got so far is complete.
        Exception: whatever else a sink raises; the other sinks are closed all the same.
    """
    with closing(sinks):
        if seconds is not None:
            require_number(lambda x: x > 0, "seconds", "a positive number", seconds)
        if isinstance(sources, Mapping):
            named = bool(sources) and all(isinstance(name, str) and name for name in sources)
            require(named, "sources", "a source, or sources by their names", sources)
            opened, unopened = open_sources(sources, warn=warn)
        else:
            opened, unopened = {UNNAMED: open_source(sources)}, {}
        live = are_live(opened)
        if not live:  # nothing is late: all clips can wait their turn
            people = len(opened) * options.get("max_people", MAX_PEOPLE)
            options.setdefault("most", max(people, MAX_BATCH))
        with Cameras(engine, opened, **options) as cameras:
            account = Account(opened, engine, cameras, sinks, warn)
            play = _play_live if live else _play_files
            play(account, seconds, progress)
            account.failures.judge()
            return account.finish({**(failed or {}), **unopened})


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
            account.take(name, frame)
        pictures = {name: (frame.image, frame.timestamp_s) for name, frame in taken.items()}
        account.write(account.step(partial(account.cameras.process, pictures), first_s))
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
    """Each source is read in a thread; what follows from its frames is written in this one."""
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
                account.end(name, feeds.ended[name])
            progress(account.frames, None)
