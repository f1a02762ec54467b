"""Cameras for tests: one in memory that fails on demand, and one that serves MJPEG on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from svfap_edge.sources.frames import SourceCounts

FRAME_S = 0.01
"""Seconds from one frame of a `FakeCamera` to the next."""


def noise(index: int, size: tuple[int, int] = (48, 64), level: int = 100) -> np.ndarray:
    """An image, (H, W, 3) uint8, that differs for each index; its mean brightness is `level`."""
    random = np.random.default_rng(index)
    return random.integers(level - 10, level + 10, (*size, 3), dtype=np.uint8)


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that must happen within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def check_account(counts: SourceCounts | None) -> None:
    """Every frame that was captured was processed or dropped."""
    assert counts is not None
    assert counts.captured == counts.processed + counts.dropped


class FakeCamera:
    """A `Capture` of 100 frames a second. Call it to open it.

    Attributes:
        fps: Nominal frames a second.
        draw: Makes the image of a frame number; None is a damaged frame.
        broken: Raised by opening and reading while it is set.
        hanging: While set, reads hang until `going_on` is set.
        going_on: Lets reads that hang go on.
        opened: How often it was opened.
        closed: How often it was closed.
        given: Number of frames that it gave.
    """

    def __init__(self, draw: Callable[[int], Any] = noise) -> None:
        self.fps: float | None = 1 / FRAME_S
        self.draw = draw
        self.broken: Exception | None = None
        self.hanging = threading.Event()
        self.going_on = threading.Event()
        self.opened = self.closed = self.given = 0

    def __call__(self) -> FakeCamera:
        self.opened += 1
        if self.broken is not None:
            raise self.broken
        return self

    def read(self) -> tuple[np.ndarray, float] | None:
        time.sleep(FRAME_S)
        if self.hanging.is_set():
            self.going_on.wait(20)
        if self.broken is not None:
            raise self.broken
        image = self.draw(self.given)
        self.given += 1
        return None if image is None else (image, time.monotonic())

    def close(self) -> None:
        self.closed += 1


class MjpegServer:
    """Multipart JPEG over HTTP, 50 frames a second, as network cameras serve it.

    Attributes:
        body: Makes the bytes that are sent as one JPEG, from the frame number.
        stalled: While set, clients stay connected and get nothing.
    """

    def __init__(self, body: Callable[[int], bytes] | None = None) -> None:
        self.body = body or (lambda index: jpeg(noise(index)))
        self.stalled = threading.Event()
        self._sockets: list[socket.socket] = []
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    def start(self) -> None:
        """Serve, on the same port as before."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner._serve(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def kill(self) -> None:
        """Stop serving and cut all connections."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for client in self._sockets:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        self._sockets.append(handler.connection)
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        index = 0
        try:
            while self._server is not None:
                if not self.stalled.is_set():
                    body = self.body(index)
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}"
                    handler.wfile.write(head.encode() + b"\r\n\r\n" + body + b"\r\n")
                    index += 1
                time.sleep(0.02)
        except OSError:  # the client has gone, or `kill` cut it
            pass


def jpeg(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())
