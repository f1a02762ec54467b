"""`svfap-edge serve`, as it is started and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.cli.test_commands import refused
from tests.sinks.test_lines_schema import problems

from .conftest import asked, heard

TOKEN = "a-token-of-ones-own"


@contextmanager
def serving(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command in a process of its own, and what it printed first."""
    process = subprocess.Popen(
        [sys.executable, "-m", "svfap_edge", "serve", *map(str, arguments), "--port", "0",
         "--engine", "onnxruntime", "--threads", "1", "--detector", "haar", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "SVFAP_EDGE_SERVE_TOKEN": TOKEN},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_a_recording_plays_when_somebody_watches(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    with serving("sample", "--jsonl", file) as (process, said):
        assert said["token"] is None and said["url"].startswith("http://127.0.0.1:")
        with connect(said["url"].replace("http", "ws", 1) + "socket") as connection:
            assert heard(connection)["cameras"] == [""]
            asked(connection, {"type": "watch"})
            lines = [heard(connection)]
            while lines[-1]["type"] != "summary":
                lines.append(heard(connection))
        assert all(problems(line) == [] for line in lines)
        assert lines[-1]["labels"].keys() >= {"happiness"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert [json.loads(text) for text in file.read_text().splitlines()] == lines


def test_it_repeats_and_ends_in_the_middle(tmp_path: Path) -> None:
    with (
        serving("door=sample", "desk=sample", "--repeat", "--host", "0.0.0.0") as (process, said),
        connect(f"{_local(said['url'])}socket?token={TOKEN}") as connection,
    ):
        assert said["token"] == TOKEN
        assert heard(connection)["cameras"] == ["door", "desk"]
        asked(connection, {"type": "watch"})
        whole = 0
        while whole < 2:
            line = heard(connection)
            whole += line["type"] == "summary" and "camera" not in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _local(url: str) -> str:
    port = url.partition("#")[0].rstrip("/").rpartition(":")[2]
    return f"ws://127.0.0.1:{port}/"


def test_a_source_that_is_not_there_ends_it_at_once() -> None:
    assert "nothing.mp4" in refused(2, "serve", "nothing.mp4", "--port", 0)
    assert "--certificate" in refused(2, "serve", "--key", "key.pem")
    assert "hop" in refused(2, "serve", "--hop", 0)


def test_without_websockets_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("svfap_edge.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    assert "svfap-edge[serve]" in refused(3, "serve")
