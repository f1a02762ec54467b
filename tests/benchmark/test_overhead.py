"""What `Engine.step` adds to the engine's own call: measured of the same thing, and told."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from svfap_edge.benchmark import overhead
from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.choice import installed


@pytest.mark.parametrize(
    ("name", "call"),
    [("onnxruntime", "InferenceSession.run"), ("openvino", "InferRequest.infer")],
)
def test_the_raw_call_is_the_librarys_own(tiny: Bundle, name: str, call: str) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    clip = np.random.default_rng(0).integers(0, 256, (1, *tiny.manifest.clip.shape), np.uint8)
    with Engine.load(tiny, engine=name, threads=1) as engine:
        what, raw = overhead.raw_call(engine, clip)
        assert what == call
        np.testing.assert_allclose(raw(), engine.infer(clip).logits, atol=1e-5)


def test_overhead_is_told_for_every_engine(tiny: Bundle) -> None:
    options = ["--overhead", "--seconds", "0.1", "--threads", "1"]
    result = CliRunner().invoke(app, ["benchmark", str(tiny.path), *options, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["overhead"]
    assert len(rows) >= 1
    for row in rows:
        assert row["turns"] >= overhead.MIN_TURNS
        assert row["low_ms"] <= row["added_ms"] <= row["high_ms"]
        assert row["share"] == pytest.approx(row["added_ms"] / row["raw_ms"], rel=0.01, abs=1e-3)
        assert row["step_ms"] > 0 and row["add_ms"] > 0


def test_overhead_as_text(tiny: Bundle) -> None:
    options = ["--overhead", "--seconds", "0.1", "--artifact", "fp32.onnx"]
    engine = ["--engine", "onnxruntime"]
    result = CliRunner().invoke(app, ["benchmark", str(tiny.path), *options, *engine])
    assert result.exit_code == 0, result.output
    assert "Engine.step adds" in result.stdout
    assert "InferenceSession.run" in result.stdout


def test_a_single_clip_is_not_copied_again(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Engine.step` gathers the frames once; a batch of one needs no second copy."""
    with Engine.load(tiny, engine="onnxruntime", threads=1) as engine:
        seen: list[np.ndarray] = []
        inner = engine.backend.run
        monkeypatch.setattr(engine.backend, "run", lambda clips: seen.append(clips) or inner(clips))
        stream = engine.open_stream("s", hop_s=0.1)
        for tick in range(10):
            stream.push(np.full((32, 32, 3), tick, np.uint8), tick / 10)
    assert seen and all(clips.base is not None for clips in seen)
    assert all(clips.flags.c_contiguous for clips in seen)
