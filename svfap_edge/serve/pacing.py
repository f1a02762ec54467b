"""Recordings at the pace at which they were recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from svfap_edge.sources.frames import Frame, Source


class Paced(Source):
    """A recording whose frames come at their own times, from the moment when `begin` is set. A run
    that is too slow falls behind; no frame is left out."""

    def __init__(self, source: Source, begin: threading.Event) -> None:
        super().__init__(source.name, source.frames, source.fps)
        self.start_s, self.warnings = source.start_s, source.warnings
        self._source, self._begin = source, begin
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        while not self._begin.wait(0.1):
            if self._stopped.is_set():
                return
        started = time.monotonic()
        for frame in self._source:
            if self._stopped.wait(max(0.0, started + frame.timestamp_s - time.monotonic())):
                return
            yield frame

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._source.close()
