"""Several sources through one engine: cameras at their own pace, files in order of time."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from .camera_account import Account, CamerasSummary
from .camera_feeds import Feeds
from .cameras import Cameras
from .errors import SourceError, SvfapError
from .frames import Frame, Source
from .live import LiveSettings
from .runner import closing
from .runtimes import Engine
from .sinks import CameraLines
from .sources import open_source

TOGETHER_S = 0.02
"""Frames of files that lie this close are taken together, so that their clips share a batch."""


def open_sources(
    addresses: Mapping[str, str],
    *,
    fps: float | None = None,
    live: LiveSettings | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Source], dict[str, str]]:
    """Open sources by name, all at once, so that one which is not there does not hold up others.
    One that cannot be opened does not keep the others from running.

    Args:
        fps, live: As `open_source` takes them.
        warn: Takes why a source cannot be opened.

    Returns:
        The opened ones, and of each other one why it is not.

    Raises:
        SvfapError: none can be opened, a package is missing, or files and cameras are mixed.
    """
    opening = _Opening(addresses, partial(open_source, fps=fps, live=live))
    try:
        opened, failed = opening.wait()
        if not opened:
            raise next(iter(failed.values()))
        are_live(opened)
    except BaseException:
        opening.abandon()
        raise
    reasons = {name: str(error) for name, error in failed.items()}
    for name, reason in reasons.items():
        warn(f"{name}: {reason}")
    return opened, reasons


class _Opening:
    """Opens each source in a thread of its own."""

    def __init__(self, addresses: Mapping[str, str], opening: Callable[[str], Source]) -> None:
        self._names = list(addresses)
        self._lock = threading.Lock()
        self._abandoned = False
        self._opened: dict[str, Source] = {}
        self._results: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
        for name, address in addresses.items():
            arguments = (name, partial(opening, address))
            threading.Thread(
                target=self._open, args=arguments, name=f"svfap-open-{name}", daemon=True
            ).start()

    def wait(self) -> tuple[dict[str, Source], dict[str, SourceError]]:
        """What was opened, and what was not, in the order of the names. Raises what is no error of
        a source as soon as it comes."""
        failed: dict[str, SourceError] = {}
        for _ in self._names:
            name, error = self._results.get()
            if isinstance(error, SourceError):
                failed[name] = error
            elif error is not None:
                raise error
        opened = {name: self._opened[name] for name in self._names if name in self._opened}
        return opened, {name: failed[name] for name in self._names if name in failed}

    def abandon(self) -> None:
        """Close everything, also what is still being opened, once it is."""
        with self._lock:
            self._abandoned = True
            sources, self._opened = list(self._opened.values()), {}
        for source in sources:
            source.close()

    def _open(self, name: str, opening: Callable[[], Source]) -> None:
        """Runs in a thread."""
        try:
            source = opening()
        except BaseException as error:
            self._results.put((name, error))
            return
        with self._lock:
            wanted = not self._abandoned
            if wanted:
                self._opened[name] = source
        if not wanted:
            source.close()
        self._results.put((name, None))


def are_live(sources: Mapping[str, Source]) -> bool:
    """Whether all sources are live.

    Raises:
        SvfapError: some are, and some are not.
    """
    live = [name for name, source in sources.items() if source.live]
    files = [name for name, source in sources.items() if not source.live]
    if live and files:
        raise SvfapError(
            "Cameras run in their own time, files as fast as they are read: not both at once. "
            f"Run them apart: {', '.join(live)}; and {', '.join(files)}."
        )
    return bool(live)


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
