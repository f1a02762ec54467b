"""Live sources of a run: a thread each, in which faces are found as frames come."""

from __future__ import annotations

import threading
import time

from svfap_edge.perception.results import StateChange
from svfap_edge.sources.frames import Gap, Source

from .account import Account

_POLL_S = 0.1
_JOIN_S = 5.0


class Feeds:
    """A thread for each live source, which looks at its frames as they come.

    Attributes:
        ended: The error that ended it, or None, for each source whose thread is done.
    """

    def __init__(self, account: Account, seconds: float | None) -> None:
        self.ended: dict[str, BaseException | None] = {}
        self._account, self._cameras, self._seconds = account, account.cameras, seconds
        self._news = threading.Event()
        self._order = threading.Lock()  # gaps are written in their order with steps
        self._gaps: list[tuple[str, Gap, list[StateChange]]] = []
        self._threads = [
            threading.Thread(target=self._feed, args=(name,), name=f"svfap-{name}", daemon=True)
            for name in account.sources
        ]

    def step(self) -> None:
        """Wait for news, run what is ready, and write what it brought."""
        self._news.wait(_POLL_S)
        self._news.clear()
        with self._order:
            gaps, self._gaps = self._gaps, []
            found = self._account.step(self._cameras.step, self._account.wall_s)
        for gap in gaps:
            self._account.write_gap(*gap)
        self._account.write(found)

    def _feed(self, name: str) -> None:
        """Runs in the thread of the source."""
        source, failure = self._account.sources[name], None
        try:
            self._look(name, source)
        except BaseException as error:
            failure = error
        try:
            source.close()
        except BaseException as error:
            failure = failure or error
        self.ended[name] = failure
        self._news.set()

    def _look(self, name: str, source: Source) -> None:
        items = source.items()
        time_s = 0.0
        lit: float | None = None  # when the camera gave its first picture, black or not
        dark_s = 0.0  # how long after that nothing but black pictures came
        while self._seconds is None or dark_s + time_s < self._seconds:
            started = time.perf_counter()
            item = next(items, None)
            self._account.waited(name, time.perf_counter() - started)
            if item is None:
                return
            begun = self._account.summaries[name].frames > 0
            if not begun and source.counts is not None and source.counts.captured:
                lit = lit or time.perf_counter()
                dark_s = time.perf_counter() - lit
            if begun or not isinstance(item, Gap):  # waiting for the first picture takes no time
                time_s = item.timestamp_s
            if isinstance(item, Gap):
                with self._order:
                    changes = self._cameras.missing(name, time_s) if begun else []
                    self._gaps.append((name, item, changes))
            else:
                self._account.take(name, item)
                self._cameras.look(name, item.image, time_s)
            self._news.set()

    def __enter__(self) -> Feeds:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for source in self._account.sources.values():
            source.stop()
        for thread in self._threads:
            thread.join(_JOIN_S)
