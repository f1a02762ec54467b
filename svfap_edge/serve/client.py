"""One connection to the socket: what it asks for, and what it is sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from svfap_edge import __version__
from svfap_edge.errors import ConfigError, FrameError, SvfapError
from svfap_edge.perception.detectors import DETECT_SIZE
from svfap_edge.schedule import HOP_S
from svfap_edge.sinks.lines import SCHEMA_VERSION
from svfap_edge.sinks.palette import PALETTE

from .hub import Hub, Outbox
from .models import Models
from .visitor import Visitor

POLICY = 1008
"""Close code of the protocol for a client that breaks the rules."""


@dataclass(frozen=True)
class ServeSettings:
    """What a visitor may use of this machine.

    Attributes:
        max_clients: Connections at a time.
        max_message: Bytes of a message; a longer one ends the connection.
        max_rate: Messages a second; more are refused, and counted.
        max_refused: Refused messages in a row that end the connection.
        send_s: Seconds after which a client that takes nothing is dropped.
        hop_s: Seconds between the predictions of a person, for visitors.
        detector: Face detector for visitors.
        face_model: YuNet's file.
        detect_size: Pixels of the longer side that frames are shrunk to before the search.
    """

    max_clients: int = 12
    max_message: int = 2**21
    max_rate: float = 60.0
    max_refused: int = 100
    send_s: float = 10.0
    hop_s: float = HOP_S
    detector: str = "auto"
    face_model: str | None = None
    detect_size: int | str = DETECT_SIZE

    @property
    def detection(self) -> dict[str, Any]:
        return {
            "choice": self.detector,
            "face_model": self.face_model,
            "detect_size": self.detect_size,
        }


@dataclass
class Shared:
    """What all connections share.

    Attributes:
        models: The engines.
        hub: Everyone who watches.
        settings: Limits and options.
        pool: Threads in which frames are looked at, and nothing else.
        cameras: Names of the sources; "" for one without a name.
    """

    models: Models
    hub: Hub
    settings: ServeSettings
    pool: Executor
    cameras: list[str] = field(default_factory=list)

    def welcome(self) -> dict[str, Any]:
        """What every client is told first."""
        task = self.models.bundle.manifest.task
        choices = [{"artifact": name, "engine": by} for name, by in self.models.choices]
        first = self.models.first.spec
        return {
            "type": "welcome",
            "schema": SCHEMA_VERSION,
            "version": __version__,
            "task": {
                "name": task.name, "kind": task.kind, "labels": list(task.labels),
                "low": task.low, "high": task.high,
            },
            "colors": [PALETTE[i % len(PALETTE)] for i in range(len(task.labels))],
            "model": {
                "artifact": first.artifact, "engine": first.engine, "precision": first.precision
            },
            "cameras": self.cameras,
            "choices": choices,
            "hop_s": self.settings.hop_s,
            "limits": {
                "message_bytes": self.settings.max_message, "rate": self.settings.max_rate,
            },
        }  # fmt: skip


class Rate:
    """A token bucket: so many a second, and as many at once."""

    def __init__(self, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._left, self._last_s = most, clock()

    def allows(self) -> bool:
        """Whether one more is allowed now; if so it counts."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._last_s) * self._most)
        self._last_s = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Client:
    """One connection. Messages are answered in their order, one at a time, so that a client that
    sends faster than it is served waits, and nothing piles up here."""

    def __init__(self, connection: ServerConnection, shared: Shared, number: int) -> None:
        self._connection, self._shared, self._settings = connection, shared, shared.settings
        self._prefix = f"visitor-{number}"
        self._rate = Rate(shared.settings.max_rate)
        self._visitor: Visitor | None = None
        self._outbox: Outbox | None = None
        self._sending: asyncio.Task[None] | None = None
        self._refused = 0

    async def serve(self) -> None:
        """Until the connection ends."""
        try:
            await self._send(self._shared.welcome())
            async for message in self._connection:
                await self._take(message)
        except ConnectionClosed:
            return
        finally:
            await self._leave()

    async def _take(self, message: str | bytes) -> None:
        try:
            if not self._rate.allows():
                raise ConfigError(
                    f"More than {self._settings.max_rate:g} messages a second. Send the next frame "
                    "when the one before was answered."
                )
            if isinstance(message, bytes):
                answer = await self._look(message)
            else:
                answer = await self._command(message)
        except SvfapError as error:
            await self._refuse(error)
            return
        self._refused = 0
        await self._send(answer)

    async def _refuse(self, error: SvfapError) -> None:
        self._refused += 1
        kind = type(error).__name__
        await self._send({"type": "refused", "error": kind, "message": str(error)})
        if self._refused >= self._settings.max_refused:
            await self._connection.close(POLICY, "Too many messages in a row had to be refused.")

    async def _look(self, message: bytes) -> dict[str, Any]:
        if self._visitor is None:
            raise ConfigError('Choose an engine before the first frame: {"type": "choose", ...}.')
        answer: dict[str, Any] = await self._in_pool(self._visitor.look, message)
        return answer

    async def _command(self, text: str) -> dict[str, Any]:
        try:
            content = json.loads(text)
            kind = content["type"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise FrameError('A command is a JSON object with a "type".') from error
        if kind == "watch":
            return self._watch(bool(content.get("pictures", False)))
        if kind == "choose":
            return await self._choose(content.get("engines"))
        raise ConfigError(f"No command '{kind!s:.40}'. There are: watch, choose.")

    def _watch(self, pictures: bool) -> dict[str, Any]:
        """Send the lines of the sources from now on; again to change whether pictures come."""
        if self._outbox is None:
            self._outbox = Outbox(pictures)
            self._shared.hub.add(self._outbox)
            self._sending = asyncio.create_task(self._forward(self._outbox))
        self._outbox.pictures = pictures
        return {"type": "watching", "pictures": pictures, "cameras": self._shared.cameras}

    async def _choose(self, wanted: Any) -> dict[str, Any]:
        """Take frames from now on, for these engines, and as if none had come before."""
        try:
            pairs = [(str(each["artifact"]), str(each["engine"])) for each in wanted]
        except (TypeError, KeyError) as error:
            raise FrameError(
                'Expected {"type": "choose", "engines": [{"artifact": NAME, "engine": NAME}]} with '
                "one or two engines."
            ) from error
        if not 1 <= len(pairs) <= 2 or len(set(pairs)) < len(pairs):
            raise ConfigError(f"Choose one engine, or two different ones; got {len(pairs)}.")
        # Loading takes seconds and has the default threads, so that frames of others do not wait.
        engines = [await asyncio.to_thread(self._shared.models.get, *pair) for pair in pairs]
        await self._end_visit()
        detection, hop_s = self._settings.detection, self._settings.hop_s
        visitor = await self._in_pool(Visitor, engines, self._prefix, detection, hop_s)
        self._visitor = visitor
        return {"type": "chosen", "engines": visitor.names, "detector": visitor.detector}

    async def _forward(self, outbox: Outbox) -> None:
        """Send what the sources bring."""
        with suppress(ConnectionClosed):
            while True:
                for message in await outbox.take():
                    await self._deliver(message)

    async def _send(self, content: dict[str, Any]) -> None:
        await self._deliver(json.dumps(content, ensure_ascii=False, allow_nan=False))

    async def _deliver(self, message: str | bytes) -> None:
        """Send; a client that takes nothing for too long is dropped."""
        try:
            await asyncio.wait_for(self._connection.send(message), self._settings.send_s)
        except (TimeoutError, asyncio.TimeoutError):
            self._connection.transport.abort()

    async def _in_pool(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._shared.pool, function, *arguments)

    async def _end_visit(self) -> None:
        visitor, self._visitor = self._visitor, None
        if visitor is not None:
            await self._in_pool(visitor.close)

    async def _leave(self) -> None:
        if self._outbox is not None:
            self._shared.hub.remove(self._outbox)
        if self._sending is not None:
            self._sending.cancel()
        await self._end_visit()
