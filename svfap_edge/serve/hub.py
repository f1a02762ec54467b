"""From the thread that runs the sources to everyone who watches, each at their own pace."""

from __future__ import annotations

import asyncio
import threading
from collections import deque

MAX_LINES = 1000
"""Lines that wait for a slow watcher; beyond, the oldest are dropped and counted."""


class Outbox:
    """What waits for one watcher: lines in their order, and of each camera the newest picture.

    Attributes:
        pictures: Whether the watcher wants pictures.
        dropped_lines: Lines that were dropped because the watcher is slow.
        dropped_pictures: Pictures that were replaced by newer ones before they were sent.
    """

    def __init__(self, pictures: bool) -> None:
        self.pictures = pictures
        self.dropped_lines = self.dropped_pictures = 0
        self._lines: deque[str] = deque()
        self._newest: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def put_line(self, text: str) -> None:
        """Any thread may."""
        with self._lock:
            if len(self._lines) == MAX_LINES:
                self._lines.popleft()
                self.dropped_lines += 1
            self._lines.append(text)
        self._wake()

    def put_picture(self, camera: str, data: bytes) -> None:
        """Any thread may."""
        with self._lock:
            self.dropped_pictures += camera in self._newest
            self._newest[camera] = data
        self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop has ended, and the watcher with it
            return

    async def take(self) -> list[str | bytes]:
        """Wait for what is new, and take it."""
        await self._news.wait()
        with self._lock:
            self._news.clear()
            taken: list[str | bytes] = [*self._lines, *self._newest.values()]
            self._lines.clear()
            self._newest.clear()
        return taken


class Hub:
    """Everyone who watches the sources. Any thread may call anything.

    Attributes:
        watched: Set as soon as anybody watches.
    """

    def __init__(self) -> None:
        self.watched = threading.Event()
        self._outboxes: list[Outbox] = []
        self._standing: dict[str, str] = {}  # lines that whoever comes later gets too
        self._lock = threading.Lock()

    def add(self, outbox: Outbox) -> None:
        with self._lock:
            self._outboxes.append(outbox)
            for text in self._standing.values():
                outbox.put_line(text)
        self.watched.set()

    def remove(self, outbox: Outbox) -> None:
        with self._lock:
            self._outboxes = [each for each in self._outboxes if each is not outbox]

    @property
    def wants_pictures(self) -> bool:
        return any(outbox.pictures for outbox in self._outboxes)

    def line(self, text: str, standing: str | None = None) -> None:
        """Send a line to everyone who watches.

        Args:
            text: One JSON object.
            standing: What the line is about, if whoever comes later gets it too, in place of what
                was said of it before.
        """
        with self._lock:
            if standing is not None:
                self._standing[standing] = text
            for outbox in self._outboxes:
                outbox.put_line(text)

    def picture(self, camera: str, data: bytes) -> None:
        """Send a picture to everyone who wants pictures."""
        with self._lock:
            for outbox in self._outboxes:
                if outbox.pictures:
                    outbox.put_picture(camera, data)
