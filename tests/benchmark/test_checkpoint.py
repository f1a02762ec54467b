"""The PyTorch model of a checkpoint beside the artifacts, and training steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from svfap_edge.benchmark import pytorch, training_steps
from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.training.model import PRESETS
from tests.models import TINY, model_with_weights, save_ours
from tests.test_imports import loaded_by

QUICK = (
    "--seconds", 0.1, "--rounds", 1, "--cold", 0, "--source", "none", "--engine", "onnxruntime",
    "--threads", 1,
)  # fmt: skip


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_attention_written_out_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 8).unbind()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(pytorch.written_out(q, k, v), expected)


def test_every_row_is_compared_with_the_reference(tiny: Bundle, tmp_path: Path) -> None:
    checkpoint = save_ours(tmp_path / "ck.pth", model_with_weights(TINY))
    before = dict(os.environ)
    options = ("--checkpoint", checkpoint, "--batch", 2, "--isa", "avx2", "--json")
    result = call("benchmark", tiny.path, *QUICK, *options)
    assert result.exit_code == 0, result.output
    assert dict(os.environ) == before
    content = json.loads(result.stdout)
    reference, fused, artifact = content["rows"]
    assert reference["name"] == "pytorch fp32, attention written out"
    assert (reference["precision"], fused["precision"]) == ("f32", "bf16")
    assert artifact["name"] == "fp32.onnx on onnxruntime"
    for row in (reference, fused):
        assert row["engine"] == "pytorch" and row["application"] is None
        assert row["bytes"] == checkpoint.stat().st_size
        assert set(row["clips_per_s"]) == {"1", "2"}
    pairs = {(each["first"], each["second"]) for each in content["comparisons"]}
    assert pairs == {(reference["name"], fused["name"]), (reference["name"], artifact["name"])}
    assert content["options"]["checkpoint"] == str(checkpoint)
    assert "beyond AVX2" in content["notes"][-1]


def test_what_is_compared_stays_so_beside_a_checkpoint(tiny: Bundle, tmp_path: Path) -> None:
    checkpoint = save_ours(tmp_path / "ck.pth", model_with_weights(TINY))
    twice = "fp32.onnx@onnxruntime,fp32.onnx@onnxruntime"
    result = call(
        "benchmark", tiny.path, *QUICK, "--checkpoint", checkpoint, "--compare", twice, "--batch",
        "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    ratios = [line for line in result.stdout.splitlines() if line.startswith("latency: ")]
    firsts = [line.removeprefix("latency: ").partition(" has ")[0] for line in ratios]
    reference = "pytorch fp32, attention written out"
    assert firsts == ["fp32.onnx on onnxruntime", *[reference] * 3]


def test_bad_checkpoints_and_options_exit_2(tiny: Bundle, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pth"
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, wrong)
    for options, message in (
        (("--checkpoint", tmp_path / "none.pth"), "No checkpoint"),
        (("--checkpoint", wrong), "another model"),
        (("--isa", "AVX9"), "Choose one of SSE41"),
        (("--overhead", "--isa", "AVX2"), "leave out"),
    ):
        result = call("benchmark", tiny.path, *QUICK, *options)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert "Traceback" not in result.output


def test_training_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tiny model in this process; processes are the business of `run_apart`."""
    functional = torch.nn.functional
    fused = functional.scaled_dot_product_attention
    monkeypatch.setattr(functional, "scaled_dot_product_attention", fused)  # put back at the end
    monkeypatch.setitem(PRESETS, "lite", TINY)

    def run_here(function: Callable[..., list[float]], what: str, **job: Any) -> list[float]:
        functional.scaled_dot_product_attention = fused
        found = function(**job)
        plain = functional.scaled_dot_product_attention is pytorch.written_out
        assert plain == ("plain" in what)
        return found

    monkeypatch.setattr(training_steps, "run_apart", run_here)
    options = ("--preset", "lite", "--batch", 1, "--rounds", 2, "--steps", 1, "--json")
    result = call("benchmark-training", *options)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["variant"] for row in rows] == list(training_steps.VARIANTS)
    assert rows[0]["ratio"] == 1
    for row in rows:
        assert row["preset"] == "lite" and row["clips_per_s"] > 0
        assert row["ratio"] == pytest.approx(row["clips_per_s"] / rows[0]["clips_per_s"], rel=0.01)


def test_training_steps_of_an_unknown_preset() -> None:
    result = call("benchmark-training", "--preset", "huge")
    assert result.exit_code == 2
    assert "No model preset 'huge'. Presets: base, lite." in result.output


def test_measuring_modules_load_no_torch() -> None:
    code = "import svfap_edge.benchmark.rounds, svfap_edge.benchmark.training_steps"
    assert "torch" not in loaded_by(code)
