"""Standard output that is closed, full or has few characters, and names that the system refuses or
that are no text: one message and the documented exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.bundle import DEFAULT_BUNDLE
from svfap_edge.cli import console
from svfap_edge.media import in_utf8
from svfap_edge.perception.detectors import YuNetDetector
from svfap_edge.perception.results import Perception
from svfap_edge.sinks.overlay import OverlayVideo
from svfap_edge.sinks.timeline import Timeline
from svfap_edge.sources.opening import open_source
from svfap_edge.tasks import TASKS

LONG = "a" * 300
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


def command(*words: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `svfap-edge`, with a redirection."""
    script = f'exec "$0" -m svfap_edge.cli.app "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@FULL
@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["inspect", "B"], ["inspect", "B", "--json"]]
)
def test_a_full_output_is_said_once(words: list[str]) -> None:
    words = [str(DEFAULT_BUNDLE) if word == "B" else word for word in words]
    found = command(*words, shell="> /dev/full")
    assert found.returncode == 2
    assert found.stderr == (
        "SourceError: Standard output, or a file, cannot be written: No space left on device.\n"
    )


def test_a_closed_output_is_no_error_and_is_nobody_elses(tmp_path: Path) -> None:
    assert command("inspect", str(DEFAULT_BUNDLE), shell=">&-").returncode == 0
    found = command("run", "sample", "--seconds", "0.1", "--jsonl", "-", shell=">&-")
    assert found.returncode == 2
    assert "standard output: it is closed" in found.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "B"],
        ["inspect", "B", "--json"],
        ["--help"],
        ["--version"],
        ["run", "sample", "--seconds", "1", "--jsonl", "-"],
    ],
)
def test_a_reader_that_has_gone_is_no_error(words: list[str]) -> None:
    words = [str(DEFAULT_BUNDLE) if word == "B" else word for word in words]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = subprocess.run(
            [sys.executable, "-m", "svfap_edge.cli.app", *words],
            stdout=writer, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert found.returncode == 0, found.stderr
    assert "Error" not in found.stderr


@FULL
@pytest.mark.parametrize("shell", ["2> /dev/full", "2>&-"])
def test_without_standard_error_the_exit_code_stays(shell: str) -> None:
    assert command("run", "nothing.mp4", shell=shell).returncode == 2


def test_an_output_with_few_characters_gets_escapes(tmp_path: Path) -> None:
    name = str(tmp_path / "é人.mp4")
    found = command("run", name, PYTHONIOENCODING="ascii")
    assert found.returncode == 2
    assert r"\xe9\u4eba.mp4" in found.stderr
    found = command("run", name, "--json", PYTHONIOENCODING="ascii")
    assert name in json.loads(found.stdout)["error"]["message"]


def test_a_warning_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        console.warn("x")
        monkeypatch.undo()
        full.close = lambda: None  # type: ignore[method-assign]  # its buffer would fail again


@pytest.mark.parametrize(
    "words",
    [
        ["run", LONG],
        ["run", "sample", "--jsonl", LONG],
        ["run", "sample", "--video", f"{LONG}.mp4"],
        ["run", "sample", "--plot", f"{LONG}.png"],
        ["run", "sample", "--bundle", LONG],
        ["inspect", LONG],
        ["evaluate", str(DEFAULT_BUNDLE), "--data", LONG],
        ["export", LONG, "--task", "dfew", "-o", "x"],
        ["finetune", "data.task=dfew", f"data.train={LONG}", f"run.output={LONG}"],
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_a_name_that_is_too_long_is_an_error_of_input(words: list[str]) -> None:
    found = command(*words)
    assert found.returncode == 2, found.stderr[-1000:]
    assert "Traceback" not in found.stderr
    assert "SourceError" in found.stderr or "BundleError" in found.stderr


def test_names_that_are_no_text(tmp_path: Path, video: Path) -> None:
    """Python has a byte that is no UTF-8 as a lone surrogate."""
    folder = tmp_path / "f\udcff"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    recording = folder / "a\udcff.mp4"
    recording.write_bytes(video.read_bytes())
    with open_source(recording) as source:
        frames = list(source)
    overlay = OverlayVideo(folder / "o\udcff.mp4", TASKS["dfew"], 25)
    timeline = Timeline(folder / "t\udcff.png", TASKS["dfew"], "x\udcff")
    for sink in (overlay, timeline):
        for frame in frames[:10]:
            sink.write(None, Perception(frame.timestamp_s, (), (), (), frame.image))
        sink.finish({})
        sink.close()
    with open_source(folder / "o\udcff.mp4") as source:
        assert len(list(source)) == 10
    pictures = folder / "p\udcff"
    pictures.mkdir()
    (pictures / "1\udcff.png").write_bytes((folder / "t\udcff.png").read_bytes())
    for each in (pictures, pictures / "1\udcff.png"):
        with open_source(each) as source:
            assert next(iter(source)).image.shape[2] == 3
    lines = folder / "r\udcff.jsonl"
    found = command("run", str(recording), "--detector", "none", "--jsonl", str(lines), "--json")
    assert found.returncode == 0, found.stderr[-1000:]
    assert json.loads(found.stdout)["source"] == str(recording)
    assert json.loads(lines.read_text().splitlines()[-1])["source"] == str(recording)


def test_a_face_model_of_such_a_name(tmp_path: Path, yunet: Path) -> None:
    other = tmp_path / "y\udcff.onnx"
    other.write_bytes(yunet.read_bytes())
    assert YuNetDetector(other).detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_a_link_stands_for_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x\udcff.mp4"
    with in_utf8(path) as name:
        name.encode()
        Path(name).write_bytes(b"content")
    assert path.read_bytes() == b"content" and not os.path.lexists(name)
    with in_utf8("é.mp4") as name:
        assert name == os.path.abspath("é.mp4")
