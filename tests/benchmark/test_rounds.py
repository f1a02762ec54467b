"""`svfap-edge benchmark`: what it measures and refuses. No test looks at how long anything took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from svfap_edge.benchmark.processes import answer_of
from svfap_edge.benchmark.results import MIN_FOR_P99, Row, Spread, compare
from svfap_edge.benchmark.rounds import runnable
from svfap_edge.benchmark.timing import ModelTimes, Timed, cold_start, time_calls
from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.errors import (
    BackendUnavailable,
    BundleError,
    EngineIncompatible,
    InferenceError,
    SourceError,
    SvfapError,
    UnreadableClip,
)
from svfap_edge.machine import peak_memory_mb
from svfap_edge.runtimes.choice import available_engines

QUICK = ("--seconds", "0.2", "--rounds", "1")


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["benchmark", *(str(a) for a in args)])


@pytest.fixture(scope="module")
def found(tiny: Bundle, video: Path) -> dict[str, Any]:
    result = call(
        tiny.path, *QUICK, "--batch", "2", "--cold", 1, "--source", video, "--detector", "none",
        "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_every_engine_of_every_artifact_has_a_row(found: dict[str, Any], tiny: Bundle) -> None:
    assert {row["engine"] for row in found["rows"]} == set(available_engines("onnx"))
    assert {row["artifact"] for row in found["rows"]} == set(tiny.manifest.artifacts)
    assert found["left_out"] == found["comparisons"] == found["notes"] == []
    assert found["machine"]["cpu"]
    assert found["bundle"] == str(tiny.path)


def test_a_row_is_complete(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        assert row["precision"] == "f32"
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"]
        assert (latency["p99"] is None) == (latency["count"] < MIN_FOR_P99)
        assert set(row["clips_per_s"]) == {"1", "2"}
        assert 20 < row["peak_mb"] < 2000
        starts = row["cold_start_s"]
        assert 0 < starts["without_cache"]["min"] <= starts["without_cache"]["max"]
        # Of these engines only OpenVINO keeps what it compiled.
        assert (starts["with_cache"] is None) == (row["engine"] != "openvino")


def test_stages_add_up(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        application = row["application"]
        stages = application["stages"]
        assert list(stages) == ["decode", "detect", "crop", "model", "rest"]
        assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1, abs=0.01)
        assert stages["decode"]["per"] == "frame"
        assert stages["decode"]["ms"]["count"] == application["frames"]
        assert stages["model"]["per"] == "frame with predictions"
        assert stages["model"]["ms"]["count"] == application["predictions"] > 0
        assert application["detector"] == "none"
        assert application["peak_mb"] > 20


def test_the_table_names_what_it_shows(tiny: Bundle, video: Path) -> None:
    result = call(
        tiny.path, *QUICK, "--engine", "auto", "--cold", 0, "--source", video,
        "--detector", "none",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for word in ("p50", "p95", "clips/s", "decode", "model*", "(f32)", "peak MB", "Round 1 of 1"):
        assert word in result.output


def test_an_artifact_compared_with_itself(tiny: Bundle) -> None:
    result = call(
        tiny.path, "--seconds", 0.2, "--rounds", 2, "--cold", 0, "--source", "none",
        "--compare", "fp32.onnx@onnxruntime,fp32.onnx@onnxruntime", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    names = [row["name"] for row in content["rows"]]
    assert names == ["fp32.onnx on onnxruntime", "fp32.onnx on onnxruntime (2)"]
    assert [c["what"] for c in content["comparisons"]] == ["latency", "clips/s of 4"]
    for ratio in content["comparisons"]:
        assert [ratio["first"], ratio["second"], ratio["rounds"]] == [*names, 2]
        assert 0 < ratio["low"] <= ratio["ratio"] <= ratio["high"]
    assert content["rows"][0]["application"] is None
    assert content["rows"][0]["cold_start_s"] == {"without_cache": None, "with_cache": None}
    assert content["rows"][0]["peak_mb"] is None
    assert "--source" in content["notes"][0]


def test_ratios_are_those_of_each_round() -> None:
    def row(name: str, *rounds: tuple[float, float]) -> Row:
        times = [ModelTimes("f32", {1: [one] * 3, 4: [four] * 3}) for one, four in rounds]
        return Row(name, Timed(Path(), name, "openvino"), 1, times=times)

    # The second round ran at half the speed; the ratio is the same in both.
    latency, rate = compare(row("a", (2.0, 4.0), (4.0, 8.0)), row("b", (4.0, 16.0), (8.0, 32.0)))
    assert (latency.ratio, latency.low, latency.high) == (0.5, 0.5, 0.5)
    assert (rate.what, rate.ratio, rate.rounds) == ("clips/s of 4", 4.0, 2)


def test_percentiles() -> None:
    assert Spread.of([]) is None
    few, many = Spread.of([1.0, 2.0, 3.0]), Spread.of(list(range(101)))
    assert few is not None and many is not None
    assert (few.p50, few.p99, few.count) == (2.0, None, 3)
    assert (many.p50, many.p95, many.p99) == (50, 95, 99)


def test_what_cannot_run_is_listed_with_the_reason(tmp_path: Path, tiny: Bundle) -> None:
    manifest = json.loads((tiny.path / "manifest.json").read_text())
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "fp32.onnx").write_bytes((tiny.path / "fp32.onnx").read_bytes())
    manifest["artifacts"].append({**manifest["artifacts"][0], "name": "fp16.openvino"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = call(
        folder, *QUICK, "--engine", "onnxruntime", "--cold", 0, "--source", "none", "--json"
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert [row["artifact"] for row in content["rows"]] == ["fp32.onnx"]
    (left_out,) = content["left_out"]
    assert left_out["artifact"] == "fp16.openvino"
    assert "does not run artifact" in left_out["reason"]


def test_a_damaged_bundle_and_bad_options_exit_2(tmp_path: Path, tiny: Bundle) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny.path.iterdir():
        content = bytearray(file.read_bytes())
        if file.suffix == ".onnx":
            content[len(content) // 2] ^= 1
        (damaged / file.name).write_bytes(content)
    for wrong, message in (
        ((damaged, "--source", "none"), "was altered"),
        ((tmp_path,), "No bundle"),
        ((tiny.path, "--seconds", 0), "--seconds"),
        ((tiny.path, "--batch", "4,no"), "--batch"),
        ((tiny.path, "--compare", "fp32.onnx"), "--compare"),
        ((tiny.path, "--detector", "eagle"), "No detector"),
        ((tiny.path, "--source", tmp_path / "no.mp4"), "No source"),
        ((tiny.path, "--artifact", "int9.onnx"), "has no artifact"),
        ((tiny.path, "--compare", "fp32.onnx,int9.onnx"), "has no artifact"),
    ):
        result = call(*wrong)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert "Traceback" not in result.output
    assert call(tiny.path, "--engine", "abacus").exit_code == 3


def test_an_engine_that_does_not_load_is_left_out(tmp_path: Path, tiny: Bundle) -> None:
    if len(available_engines("onnx")) < 2:
        pytest.skip("needs two engines, one to break")
    stub = tmp_path / "onnxruntime"
    stub.mkdir()
    (stub / "__init__.py").write_text("raise ImportError('built for another Python')\n")
    command = [
        sys.executable, "-m", "svfap_edge", "benchmark", str(tiny.path), *QUICK, "--cold", "0",
        "--source", "none", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert "onnxruntime" not in {row["engine"] for row in content["rows"]}
    (left_out,) = content["left_out"]
    assert left_out["engine"] == "onnxruntime"
    assert "built for another Python" in left_out["reason"]
    alone = subprocess.run([*command, "--engine", "onnxruntime"], env=environment)
    assert alone.returncode == 1  # asked for, and failed


def test_runnable(tiny: Bundle) -> None:
    found, left_out = runnable(tiny)
    assert {timed.engine for timed in found} | {each.engine for each in left_out} >= {"openvino"}
    with pytest.raises(BundleError, match="has no artifact"):
        runnable(tiny, ["int9.onnx"])
    with pytest.raises(BackendUnavailable, match="Choose all, auto"):
        runnable(tiny, engine="abacus")


@pytest.mark.parametrize("options", [("--cold", 1, "--source", "none"), ("--overhead",)])
def test_a_provider_of_an_engine(tiny: Bundle, options: tuple[object, ...]) -> None:
    """As `run` takes it."""
    chosen = ("--engine", "onnxruntime:cpu", "--artifact", "fp32.onnx", "--threads", 1, "--json")
    result = call(tiny.path, *QUICK, *chosen, *options)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    (row,) = content.get("rows") or content["overhead"]
    assert row["name"].startswith("fp32.onnx on onnxruntime")
    with pytest.raises(BackendUnavailable, match="Choose onnxruntime:cpu, onnxruntime:cuda"):
        runnable(tiny, engine="onnxruntime:abacus")
    with pytest.raises(BackendUnavailable, match="Choose openvino alone"):
        runnable(tiny, engine="openvino:cpu")


def test_cold_start_tells_time_and_memory(tiny: Bundle, tmp_path: Path) -> None:
    timed = Timed(tiny.path, "fp32.onnx", "onnxruntime")
    seconds, peak_mb = cold_start(timed, cache=str(tmp_path))
    assert seconds > 0
    assert peak_mb > 20


def raising(error: str) -> str:
    """Code of a child process that raises this error after a library's noise."""
    return (
        "from svfap_edge.errors import *\n"
        "from svfap_edge.runtimes.cuda_driver import CudaError\n"
        "from svfap_edge.benchmark.processes import answering\n"
        "with answering() as answer:\n"
        "    print('noise', end='')\n"
        f"    raise {error}"
    )


@pytest.mark.parametrize(
    ("code", "kind", "message", "exit_code"),
    [
        ("SourceError('no such video')", SourceError, "no such video", 2),
        ("BundleError('a: é\\nb')", BundleError, "a: é\nb", 2),
        ("EngineIncompatible('other GPU')", EngineIncompatible, "other GPU", 5),
        ("BackendUnavailable('no engine')", BackendUnavailable, "no engine", 3),
        (
            "UnreadableClip('a.mp4', 'cut off')",
            UnreadableClip,
            "'a.mp4' cannot be read: cut off.",
            2,
        ),
        ("CudaError('launch')", InferenceError, "launch", 1),
    ],
)
def test_an_error_keeps_its_class_and_exit_code(
    code: str, kind: type[SvfapError], message: str, exit_code: int
) -> None:
    with pytest.raises(SvfapError) as caught:
        answer_of(["-c", raising(code)], "Trying it")
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert caught.value.exit_code == exit_code


def test_an_error_without_a_parent_is_an_exit_code() -> None:
    result = subprocess.run(
        [sys.executable, "-c", raising("SourceError('gone')")], capture_output=True
    )
    assert result.returncode == SourceError.exit_code
    assert json.loads(result.stdout.splitlines()[-1])["error"]["class"] == "SourceError"


def test_a_process_tells_how_it_failed() -> None:
    def failing(code: str, **options: Any) -> Any:
        return answer_of(["-c", code], "Trying it", **options)

    assert failing("print('noise'); print('[1, 2]')") == [1, 2]
    assert failing("import os; print(os.environ['A'])", environment={"A": "3"}) == 3
    with pytest.raises(BundleError, match=r"^it is\nbroken$"):
        failing(raising("BundleError('it is\\nbroken')"))
    with pytest.raises(BundleError, match=r"^it is\nbroken$"):
        failing(raising("BundleError('it is\\nbroken') from ValueError('chained')"))
    with pytest.raises(InferenceError, match="Trying it failed: ValueError: no"):
        failing("raise ValueError('no')")
    with pytest.raises(InferenceError, match=r"crashed \(SIGABRT\)\. last words$"):
        failing("import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()")
    with pytest.raises(InferenceError, match="no answer"):
        failing("print('not JSON')")
    with pytest.raises(InferenceError, match=r"did not end within 0\.2 s"):
        failing("import time; time.sleep(60)", timeout_s=0.2)


def test_calls_are_counted_after_the_warm_up() -> None:
    calls: list[int] = []
    assert len(time_calls(lambda: calls.append(1), 5)) == 5
    assert len(calls) == 8
    assert len(time_calls(lambda: None, 1, seconds=0.001)) > 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_peak_memory_is_not_that_of_the_parent() -> None:
    ballast = np.ones(300 << 20, np.uint8)
    code = "from svfap_edge.machine import peak_memory_mb; print(peak_memory_mb())"
    assert answer_of(["-c", code], "Asking") < 200 < peak_memory_mb()
    assert ballast[0]
