"""`svfap-edge benchmark-cameras`: what it reports and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["benchmark-cameras", *(str(a) for a in args)])


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A second of noise."""
    path = tmp_path / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (160, 120))
    random = np.random.default_rng(0)
    for _ in range(30):
        writer.write(random.integers(90, 110, (120, 160, 3), dtype=np.uint8))
    writer.release()
    return path


def test_all_trials_are_reported(
    tiny: Bundle, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svfap_edge.benchmark.capacity.MOST_CAMERAS", 1)
    options = (video, tiny.path, "--detector", "none", "--seconds", 1, "--threads", 1)
    result = call(*options, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    (trial,) = content["trials"]
    assert trial["cameras"] == 1
    assert content["cameras"] == (trial["load"] <= 1)
    assert content["limit"] in trial["share"]
    assert (content["artifact"], content["mode"]) == ("fp32.onnx", "throughput")
    assert content["frame"] == [120, 160, 3]
    assert content["decode_ms"] > 0 and content["machine"]["cpu"]
    text = call(*options)
    assert "1 cameras: " in text.stdout
    assert "Held in real time: " in text.stdout


def test_bad_options_exit_2(tiny: Bundle, video: Path, tmp_path: Path) -> None:
    for wrong, message in (
        ((video, tiny.path, "--mode", "fast"), "mode must be"),
        ((video, tiny.path, "--hop", 0), "--hop must be"),
        ((video, tiny.path, "--seconds", "inf"), "--seconds must be"),
        ((tmp_path / "no.mp4", tiny.path), "No source"),
        ((video, tmp_path), "No bundle"),
    ):
        result = call(*wrong)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert "Traceback" not in result.output
