"""Bad behaviour is refused or bounded, and others are not disturbed."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from svfap_edge.serve.client import Rate, ServeSettings
from svfap_edge.serve.models import Models
from svfap_edge.serve.server import PageServer

from .conftest import QUICK, address, asked, choose, heard, joined, jpeg

Frames = list[tuple[float, bytes]]

NOISE = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()


@contextmanager
def undisturbed(server: PageServer, frames: Frames) -> Iterator[None]:
    """Somebody else's frames are all answered, before, while and after."""
    with joined(server) as good:
        choose(good)
        half = len(frames) // 2
        for t, data in frames[:half]:
            assert asked(good, struct.pack(">d", t) + data)["type"] == "answer"
        yield
        for t, data in frames[half:]:
            assert asked(good, struct.pack(">d", t) + data)["type"] == "answer"


def test_garbage_is_refused_and_the_connection_goes_on(server: PageServer, frames: Frames) -> None:
    time_s = struct.pack(">d", 1.0)
    whole = frames[0][1]
    garbage: list[Any] = [
        b"", b"1", time_s, time_s + NOISE, time_s + whole[:100], time_s + b"\xff\xd8" + NOISE,
        "", "{", "[]", "null", "1", '{"type": 1}', '{"type": "shutdown"}', "[" * 50_000,
        '{"type": "choose", "engines": 5}', '{"type": "choose", "engines": [[]]}',
    ]  # fmt: skip
    with undisturbed(server, frames), joined(server) as bad:
        early = asked(bad, time_s + whole)
        assert early["type"] == "refused" and "Choose an engine" in early["message"]
        choose(bad)
        for message in garbage:
            assert asked(bad, message)["type"] == "refused", message
        for moment in (float("nan"), float("inf"), -float("inf"), 1e300):
            answer = asked(bad, struct.pack(">d", moment) + whole)
            assert answer["error"] == "TimestampError"
        assert asked(bad, time_s + whole)["type"] == "answer"


def test_who_sends_nothing_but_garbage_is_shown_the_door(models: Models) -> None:
    settings = ServeSettings(detector="haar", max_refused=10)
    with PageServer(models, port=0, settings=settings) as server, joined(server) as bad:
        choose(bad)
        assert [asked(bad, NOISE)["type"] for _ in range(10)] == ["refused"] * 10
        with pytest.raises(ConnectionClosed) as end:
            asked(bad, NOISE)
        assert end.value.rcvd is not None and end.value.rcvd.code == 1008


def test_a_picture_of_too_many_pixels_is_refused(server: PageServer, frames: Frames) -> None:
    bomb = jpeg(np.zeros((5000, 5000, 3), np.uint8))
    assert len(bomb) < QUICK.max_message
    with undisturbed(server, frames), joined(server) as bad:
        choose(bad)
        answer = asked(bad, struct.pack(">d", 1.0) + bomb)
        assert answer["type"] == "refused" and "5000x5000" in answer["message"]


def test_a_frame_of_50_mb_ends_its_connection_alone(server: PageServer, frames: Frames) -> None:
    with undisturbed(server, frames), joined(server) as bad:
        choose(bad)
        with pytest.raises(ConnectionClosed) as end:
            asked(bad, bytes(50 * 2**20))
        assert end.value.rcvd is None or end.value.rcvd.code == 1009


def test_clients_are_bounded(models: Models) -> None:
    settings = ServeSettings(detector="haar", max_clients=5)
    with PageServer(models, port=0, settings=settings) as server, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(joined(server))
        for _ in range(15):
            with pytest.raises(InvalidStatus) as refusal, connect(address(server)):
                pass
            assert refusal.value.response.status_code == 503
        stack.close()
        end = time.monotonic() + 20
        while time.monotonic() < end:  # the server hears of the leaving a moment later
            with suppress(InvalidStatus), joined(server) as later:
                assert choose(later)["type"] == "chosen"
                return
        pytest.fail("nobody may come in after all have left")


def test_twenty_clients_at_once_are_all_answered(server: PageServer, frames: Frames) -> None:
    answers: list[str] = []

    def visit() -> None:
        with joined(server) as connection:
            choose(connection)
            for t, data in frames[:8]:
                answers.append(asked(connection, struct.pack(">d", t) + data)["type"])

    threads = [threading.Thread(target=visit) for _ in range(QUICK.max_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["answer"] * 8 * QUICK.max_clients


def test_the_rate_is_bounded(models: Models, frames: Frames) -> None:
    settings = ServeSettings(detector="none", max_rate=5, max_refused=1000)
    with PageServer(models, port=0, settings=settings) as server, joined(server) as fast:
        choose(fast)
        for number in range(60):
            fast.send(struct.pack(">d", number * 0.001) + frames[0][1])
        answers = [heard(fast) for _ in range(60)]
        refused = [answer for answer in answers if answer["type"] == "refused"]
        assert refused and all("5 messages a second" in answer["message"] for answer in refused)


def test_a_rate_by_its_clock() -> None:
    now = [0.0]
    rate = Rate(4, lambda: now[0])
    assert [rate.allows() for _ in range(6)] == [True] * 4 + [False] * 2
    now[0] = 0.5
    assert [rate.allows() for _ in range(3)] == [True, True, False]
    now[0] = 100.0
    assert sum(rate.allows() for _ in range(50)) == 4


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_client_that_never_reads_is_dropped_and_memory_stays(
    server: PageServer, frames: Frames
) -> None:
    """It watches pictures by a bare socket that nobody reads from."""
    host, _, port = address(server).removeprefix("ws://").partition("/")[0].rpartition(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(
            f"GET /socket HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        text = b'{"type": "watch", "pictures": true}'
        mask = b"\0\0\0\0"
        deaf.sendall(bytes([0x81, 0x80 | len(text)]) + mask + text)
        end = time.monotonic() + 20
        while not server.hub.wants_pictures:
            assert time.monotonic() < end
            time.sleep(0.02)
        with undisturbed(server, frames):
            before = resident_mb()
            for _ in range(400):  # 400 MB of pictures, if they were kept
                server.hub.picture("door", bytes(2**20))
                server.hub.line(json.dumps({"type": "gap", "text": "x" * 1000}))
            assert resident_mb() - before < 60
        while server.hub.wants_pictures:
            assert time.monotonic() < end + 40
            time.sleep(0.05)


def test_a_wrong_token_and_a_foreign_page_are_refused(models: Models) -> None:
    with PageServer(models, host="0.0.0.0", port=0, settings=QUICK) as server:
        port = server.url.partition("#")[0].rstrip("/").rpartition(":")[2]
        base, token = f"ws://127.0.0.1:{port}/socket", server.access.token
        assert server.url.endswith(f"#token={token}")
        for url, origin, status in (
            (base, None, 401),
            (f"{base}?token=wrong", None, 401),
            (f"{base}?token={token}", "http://evil.example", 403),
        ):
            with pytest.raises(InvalidStatus) as refusal, connect(url, origin=origin):  # type: ignore[arg-type]
                pass
            assert refusal.value.response.status_code == status
        with connect(f"{base}?token={token}") as good:
            assert heard(good)["type"] == "welcome"


def test_a_foreign_page_is_refused_on_loopback_too(server: PageServer) -> None:
    for options in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"additional_headers": {"Host": "evil.example"}},  # a second one beside the right one
    ):
        with pytest.raises(InvalidStatus) as refusal, connect(address(server), **options):  # type: ignore[arg-type]
            pass
        assert refusal.value.response.status_code in (400, 403)


def test_who_leaves_in_the_middle_leaves_nothing(server: PageServer, frames: Frames) -> None:
    models = server._shared.models
    before = len(models.first.streams)
    for _ in range(5):
        with suppress(ConnectionClosed), joined(server) as bad:
            choose(bad)
            for t, data in frames[:10]:
                bad.send(struct.pack(">d", t) + data)
            bad.socket.shutdown(socket.SHUT_RDWR)
    end = time.monotonic() + 30
    while server._clients or len(models.first.streams) > before:
        assert time.monotonic() < end
        time.sleep(0.05)
