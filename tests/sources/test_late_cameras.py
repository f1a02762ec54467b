"""Cameras that are not there yet: they are waited for, and do not hold up the others."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.errors import ConfigError, DependencyMissing, SourceError
from svfap_edge.sources.capture import built_with
from svfap_edge.sources.live import Camera, LiveSettings
from svfap_edge.sources.opening import open_sources
from tests.cameras import FakeCamera, MjpegServer, until
from tests.cli.test_commands import call, refused
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx
from tests.runner.test_several_sources import CLIP, lines_of, quiet


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("w") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.kill()


@contextmanager
def switched_off() -> Iterator[str]:
    """The URL of a machine that does not answer: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(full.getsockname())
            waiting.append(client)
        yield f"http://127.0.0.1:{full.getsockname()[1]}/video.mjpg"
        for client in waiting:
            client.close()


def options(bundle: Bundle, path: Path) -> tuple[object, ...]:
    return (
        "--bundle", bundle.path, "--detector", "none", "--threads", 1, "--hop", 0.2,
        "--jsonl", path,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["", "door="])
def test_a_camera_that_comes_later(
    server: MjpegServer, bundle: Bundle, tmp_path: Path, name: str
) -> None:
    server.kill()
    assert "cannot be opened" in refused(
        2, "run", name + server.url, *options(bundle, tmp_path / "y")
    )
    threading.Timer(1.5, server.start).start()
    arguments = ("--wait", 30, "--read-timeout", 2, "--seconds", 0.8)
    result = call("run", name + server.url, *options(bundle, tmp_path / "x"), *arguments)
    assert result.exit_code == 0, result.output
    lines = lines_of(tmp_path / "x")
    types = [line["type"] for line in lines]
    assert types[0] == "gap" and types.index("gap") < types.index("source")
    assert "prediction" in types and types[-1] == "summary"
    assert lines[-1]["duration_s"] >= 0.8  # the wait is not part of --seconds


def test_waiting_ends(server: MjpegServer, bundle: Bundle, tmp_path: Path) -> None:
    server.kill()
    started = time.monotonic()
    said = refused(2, "run", server.url, *options(bundle, tmp_path / "x"), "--wait", 1)
    assert "gave no frame" in said and "and 1 s:" in said
    assert time.monotonic() - started < 8
    for bad in (("--wait", -1), ("--wait", "nan"), ("--read-timeout", 0)):
        assert bad[0] in refused(2, "run", server.url, *bad)


def test_waiting_ends_while_opening_hangs() -> None:
    """Also long before the connection would be given up."""
    going_on = threading.Event()

    def opening() -> FakeCamera:
        going_on.wait(20)
        raise OSError("not there")

    settings = LiveSettings(wait_for_first=True, first_s=0.4)
    started = time.monotonic()
    with (
        Camera("door", settings, opening=opening) as camera,
        pytest.raises(SourceError, match=r"'door' gave no frame in 0\.4 s"),
    ):
        list(camera)
    assert time.monotonic() - started < 3
    going_on.set()
    with pytest.raises(ConfigError, match="first_s"):
        LiveSettings(first_s=0)


def test_waiting_is_for_the_first_frame_only() -> None:
    camera = FakeCamera()
    settings = LiveSettings(
        wait_for_first=True, first_s=0.2, backoff_s=0.05, backoff_max_s=0.1, missing_s=0.1
    )
    with Camera("door", settings, opening=camera) as source:
        items = iter(source)
        next(items)
        camera.broken = OSError("unplugged")
        until(lambda: source.counts.failed > 6)
        camera.broken = None
        until(lambda: source.counts.reconnected == 1)
        assert next(items).timestamp_s > 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's queue of connections")
def test_cameras_that_are_switched_off_do_not_hold_up_others(server: MjpegServer) -> None:
    """OpenCV opens one URL at a time, so it must not be asked for these."""
    live = LiveSettings(connect_timeout_s=1.5, read_timeout_s=1)
    with switched_off() as url:
        addresses = {"a": url, "b": url, "door": server.url, "c": url}
        started = time.monotonic()
        warnings: list[str] = []
        opened, failed = open_sources(addresses, live=live, warn=warnings.append)
        took_s = time.monotonic() - started
        for source in opened.values():
            source.close()
    assert list(opened) == ["door"] and list(failed) == ["a", "b", "c"] and len(warnings) == 3
    assert "timed out" in failed["a"]
    assert took_s < 4  # one after the other, they would take 4.5 s and more
    until(quiet)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's queue of connections")
@pytest.mark.skipif(built_with("GStreamer"), reason="this OpenCV has GStreamer")
def test_a_missing_package_is_reported_at_once_and_all_are_closed(server: MjpegServer) -> None:
    live = LiveSettings(connect_timeout_s=1.5, read_timeout_s=1)
    with switched_off() as url:
        addresses = {"a": url, "door": server.url, "test": "videotestsrc ! appsink"}
        started = time.monotonic()
        with pytest.raises(DependencyMissing, match="GStreamer"):
            open_sources(addresses, live=live)
        assert time.monotonic() - started < 1.2
        until(quiet)


def test_the_command_line_names_all_that_are_not_there(
    server: MjpegServer, bundle: Bundle, tmp_path: Path
) -> None:
    gone = MjpegServer()
    gone.kill()
    sources = (f"a={gone.url}", f"door={server.url}", f"b={gone.url}")
    result = call("run", *sources, *options(bundle, tmp_path / "x"), "--seconds", 0.5)
    assert result.exit_code == 2
    last = json.loads((tmp_path / "x").read_text().splitlines()[-1])
    assert list(last["failed"]) == ["a", "b"] and list(last["cameras"]) == ["door"]
    assert last["cameras"]["door"]["predictions"] > 0
