"""A running server for the tests of this folder, on a free port."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("websockets", reason="the extra `serve` is not installed")

from websockets.sync.client import ClientConnection, connect

from svfap_edge.bundle import Bundle
from svfap_edge.serve.client import ServeSettings
from svfap_edge.serve.models import Models
from svfap_edge.serve.server import PageServer
from svfap_edge.sources.opening import open_source

QUICK = ServeSettings(detector="haar", max_clients=20, max_rate=1000, send_s=2.0)


@pytest.fixture(scope="session")
def models() -> Iterator[Models]:
    """The model in the package, on one engine at first."""
    with Models(Bundle.open(), "int8.onnx", "onnxruntime", 1) as models:
        yield models


@pytest.fixture
def server(models: Models) -> Iterator[PageServer]:
    with PageServer(models, port=0, settings=QUICK, cameras=["door"]) as server:
        yield server


@pytest.fixture(scope="session")
def frames() -> list[tuple[float, bytes]]:
    """Three seconds of the built-in video: times, and JPEGs."""
    found = []
    for frame in open_source("sample"):
        if frame.timestamp_s > 3:
            break
        found.append((frame.timestamp_s, jpeg(frame.image)))
    return found


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def address(server: PageServer) -> str:
    return server.url.partition("#")[0].replace("http", "ws", 1) + "socket"


@contextmanager
def joined(server: PageServer) -> Iterator[ClientConnection]:
    """A connection that has been welcomed."""
    with connect(address(server), max_size=2**26) as connection:
        assert heard(connection)["type"] == "welcome"
        yield connection


def heard(connection: ClientConnection) -> dict[str, Any]:
    """The next text message."""
    while True:
        message = connection.recv(timeout=60)
        if isinstance(message, str):
            return dict(json.loads(message))


def asked(connection: ClientConnection, content: Any) -> dict[str, Any]:
    """Send a command, or bytes, and return the answer to it."""
    connection.send(content if isinstance(content, (bytes, str)) else json.dumps(content))
    return heard(connection)


def choose(connection: ClientConnection, *artifacts: str) -> dict[str, Any]:
    engines = [{"artifact": name, "engine": "onnxruntime"} for name in artifacts or ("int8.onnx",)]
    return asked(connection, {"type": "choose", "engines": engines})
