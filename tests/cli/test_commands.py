"""The command line: results, messages, exit codes."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from svfap_edge.bundle import Bundle
from svfap_edge.cli.app import app
from svfap_edge.training.checkpoint_file import write_safetensors
from tests.conftest import skip_if_ignored
from tests.models import (
    SPAN_S,
    TINY,
    TINY_TASK,
    model_with_weights,
    save_like_authors,
    save_ours,
)

LABELS = "calm,glad,cross,sad"


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def refused(code: int, *args: object) -> str:
    """The message of a call that must fail with this exit code, without a traceback."""
    result = call(*args)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "svfap_edge", "run", "--help"], check=True, capture_output=True
        )
        times.append(time.perf_counter() - start)
    assert min(times) < 2  # the contract is 0.5 s on an idle machine; docs/benchmarks.md


def test_every_command_has_help() -> None:
    assert "run" in call("--help").output
    for command in (
        "run", "export", "evaluate", "inspect", "benchmark", "doctor", "prepare", "pretrain",
        "finetune",
    ):  # fmt: skip
        assert "Usage" in call(command, "--help").output
    assert call("--version").output.startswith("svfap-edge ")


def test_run_sample_finds_the_smile(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = {name: tmp_path / name for name in ("o.jsonl", "o.mp4", "o.png")}
    result = call(
        "run", "sample", "--jsonl", out["o.jsonl"], "--video", out["o.mp4"], "--plot", out["o.png"]
    )
    assert result.exit_code == 0, result.output
    for word in ("150 frames", "decode", "detect", "model", "x real time", "happiness"):
        assert word in result.output
    lines = [json.loads(line) for line in out["o.jsonl"].read_text().splitlines()]
    predictions = [line for line in lines if line["type"] == "prediction"]
    assert {p["label"] for p in predictions} == {"happiness"}
    assert max(p["end_s"] for p in predictions) < 4.2  # the camera has left the face
    states = [line["state"] for line in lines if line["type"] == "state"]
    assert states == ["warming", "valid", "stale", "ended"]
    assert lines[-1]["type"] == "summary"
    assert all(path.stat().st_size > 1000 for path in out.values())


def test_run_json(video: Path) -> None:
    result = call("run", video, "--json")
    summary = json.loads(result.stdout)
    assert summary["frames"] == 50
    assert summary["people"] == summary["predictions"] == 0
    assert set(summary["seconds"]) == {"decode", "detect", "crop", "model", "write", "rest"}


def test_run_on_a_video_without_a_face_is_fine(video: Path, tmp_path: Path) -> None:
    result = call("run", video, "--jsonl", tmp_path / "x.jsonl")
    assert result.exit_code == 0
    assert "No face was found" in result.output
    (line,) = (tmp_path / "x.jsonl").read_text().splitlines()
    assert json.loads(line)["type"] == "summary"


def test_run_jsonl_to_standard_output_is_only_json(tiny: Bundle, video: Path) -> None:
    command = [sys.executable, "-m", "svfap_edge", "run", str(video), "--bundle", str(tiny.path)]
    options = ["--detector", "none", "--hop", "0.2", "--jsonl", "-"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert sum(line["type"] == "prediction" for line in lines) >= 7
    assert {"calm", "glad", "cross", "sad"} == set(lines[2]["scores"])


def test_run_smooths_beside_the_raw_scores(tiny: Bundle, video: Path, tmp_path: Path) -> None:
    found = []
    for name, options in (("raw", ()), ("smooth", ("--smooth", 0.5, "--mode", "throughput"))):
        common = ("--bundle", tiny.path, "--detector", "none", "--hop", 0.2, "--threads", 1)
        path = tmp_path / name
        assert call("run", video, *common, "--jsonl", path, *options).exit_code == 0
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found.append([line for line in lines if line["type"] == "prediction"])
    raw, smooth = found
    assert len(raw) == len(smooth) > 5
    for one, other in zip(raw, smooth, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], abs=1e-3)
        assert "smoothed" not in one and set(other["smoothed"]) == set(one["scores"])
    assert smooth[0]["smoothed"] == smooth[0]["scores"]
    assert smooth[-1]["smoothed"] != smooth[-1]["scores"]


def test_run_says_when_a_budget_is_not_kept(tiny: Bundle, video: Path) -> None:
    options = ("--bundle", tiny.path, "--detector", "none", "--hop", 0.1)
    result = call("run", video, *options, "--budget", 0.001)
    assert result.exit_code == 0
    assert "warning: Frames take longer than the budget" in result.output
    assert "warning: The budget was not kept" in result.output
    held = json.loads(call("run", video, *options, "--budget", 10_000, "--json").stdout)
    assert held["warnings"] == []


def test_run_searches_and_follows_as_asked(video: Path, tiny: Bundle) -> None:
    common = ("run", "sample", "--bundle", tiny.path, "--json")
    every, seldom = (json.loads(call(*common, "--detect-every", n).stdout) for n in (1, 4))
    assert seldom["people"] == every["people"] == 1
    assert seldom["seconds"]["detect"] < every["seconds"]["detect"]
    assert json.loads(call(*common, "--max-people", 1).stdout)["people"] == 1


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_run_with_an_engine(tiny: Bundle, video: Path, engine: str) -> None:
    result = call("run", video, "--bundle", tiny.path, "--engine", engine, "--json")
    if result.exit_code == 3:
        pytest.skip(f"{engine} is not installed")
    assert json.loads(result.stdout)["engine"] == engine


def test_outputs_without_a_suffix_get_one_before_the_work(
    tmp_path: Path, video: Path, tiny: Bundle
) -> None:
    (tmp_path / "p1.png").mkdir()
    options = ("--bundle", tiny.path, "--detector", "none")
    said = refused(2, "run", video, "--plot", tmp_path / "p1", *options)
    assert f"'{tmp_path / 'p1.png'}': it is a folder" in said
    result = call("run", video, "--plot", tmp_path / "p2", *options)
    assert f"wrote {tmp_path / 'p2.png'}" in result.output and (tmp_path / "p2.png").is_file()


def test_a_source_with_too_few_frames_says_so(tmp_path: Path, tiny: Bundle) -> None:
    spacing_s = tiny.manifest.clip.spacing_s
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((24, 32, 3), 90, np.uint8))
    slow = ("--bundle", tiny.path, "--detector", "none", "--fps", 0.3 / spacing_s)
    result = call("run", tmp_path, *slow)
    assert result.exit_code == 0, result.output
    assert "No clip held enough frames" in result.output
    share = re.search(r"--min-coverage ([\d.]+)", result.output)
    assert share is not None and "frames a second" in result.output
    result = call("run", tmp_path, *slow, "--min-coverage", share[1], "--json")
    assert json.loads(result.stdout)["predictions"] > 0


def test_run_bad_input(tmp_path: Path, video: Path, tiny: Bundle) -> None:
    assert "No source" in refused(2, "run", tmp_path / "none.mp4")
    (tmp_path / "x.mp4").write_bytes(b"no video")
    assert "not a video" in refused(2, "run", tmp_path / "x.mp4")
    assert "No bundle at" in refused(2, "run", video, "--bundle", tmp_path)
    for option, value, name in (
        ("--hop", 0, "hop_s"), ("--hop", "inf", "hop_s"), ("--smooth", -1, "smoothing_s"),
        ("--smooth", "nan", "smoothing_s"), ("--budget", 0, "--budget"),
        ("--budget", "inf", "--budget"), ("--mode", "fast", "mode"), ("--seconds", 0, "--seconds"),
    ):  # fmt: skip
        assert f"{name} must be" in refused(2, "run", video, option, value)
    for option, name in (("--plot", "x.txt"), ("--video", "x.wmv")):
        said = refused(2, "run", video, option, tmp_path / name)
        assert "cannot be written as" in said and not (tmp_path / name).exists()
    for option in ("--detect-every", "--max-people"):
        assert option in refused(2, "run", video, option, 0)
    assert "No detector" in refused(2, "run", video, "--detector", "x")
    assert "No face model" in refused(2, "run", video, "--face-model", tmp_path / "x.onnx")
    assert "no artifact" in refused(2, "run", video, "--artifact", "int2.onnx")
    assert "Installed here" in refused(3, "run", video, "--engine", "abacus")
    assert "It has: onnxruntime:cpu" in refused(3, "run", video, "--engine", "onnxruntime:cuda")
    assert "there is no folder" in refused(2, "run", video, "--video", tmp_path / "no" / "o.mp4")
    assert "choose one" in refused(2, "run", video, "--json", "--jsonl", "-")
    refused(2, "run")
    refused(2, "run", video, "--no-such-option")
    assert "cannot be opened" in refused(2, "run", "rtsp://127.0.0.1:9/x")


def test_errors_as_json(tmp_path: Path) -> None:
    result = call("run", tmp_path / "none.mp4", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["exit"]) == ("SourceError", 2)


def test_damaged_bundles(tiny: Bundle, tmp_path: Path, video: Path) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(tiny.path, bundle)
    data = (bundle / "fp32.onnx").read_bytes()
    (bundle / "fp32.onnx").write_bytes(data[:1000])
    assert "incomplete" in refused(2, "run", video, "--bundle", bundle)
    assert "incomplete" in refused(2, "inspect", bundle)
    (bundle / "fp32.onnx").write_bytes(data)
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(manifest.replace('"file": "', '"file": "../'))
    assert "inside the bundle" in refused(2, "run", video, "--bundle", bundle)
    (bundle / "manifest.json").write_text(manifest.replace('"format": 1', '"format": 7'))
    assert "Upgrade svfap-edge" in refused(2, "run", video, "--bundle", bundle)


def test_nan_from_an_engine(tmp_path: Path, video: Path) -> None:
    from svfap_edge.clip import ClipSpec
    from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

    clip = ClipSpec(4, 0.4, 8)
    model = brightness_model(clip, nan_above=0.1)
    bundle = bundle_of_onnx(tmp_path / "nan", model, BRIGHTNESS_TASK, clip)
    out = tmp_path / "x.jsonl"
    message = refused(
        1, "run", video, "--bundle", bundle.path, "--detector", "none", "--jsonl", out
    )
    assert "NaN" in message
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line["type"] != "prediction" for line in lines)


def test_export_then_inspect_then_run(tmp_path: Path, video: Path) -> None:
    checkpoint = save_like_authors(tmp_path / "ck.pth", model_with_weights(TINY))
    bundle = tmp_path / "b"
    options = ("--task", "moods", "--labels", LABELS, "--heads", 4, "--span", SPAN_S)
    result = call("export", checkpoint, *options, "-o", bundle)
    assert result.exit_code == 0, result.output
    for word in ("moods", "fp32.onnx", "checked", "8 frames of 32 px"):
        assert word in result.stdout
    assert call("inspect", bundle).stdout == result.stdout
    facts = json.loads(call("inspect", bundle, "--json").stdout)
    assert facts["task"]["labels"] == LABELS.split(",")
    assert call("run", video, "--bundle", bundle).exit_code == 0
    assert "exists" in refused(2, "export", checkpoint, *options, "-o", bundle)
    assert call("export", checkpoint, *options, "-o", bundle, "--overwrite").exit_code == 0


def test_export_warns_of_an_assumed_order(tmp_path: Path) -> None:
    path = save_ours(tmp_path / "ck.pth", model_with_weights(replace(TINY, outputs=6)))
    result = call("export", path, "--task", "crema-d", "-o", tmp_path / "b")
    assert result.exit_code == 0
    assert "order of the labels is assumed" in result.output


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


def test_export_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = save_ours(tmp_path / "good.pth", model_with_weights(TINY))
    torch.save({"model": {"conv1.weight": torch.zeros(3)}}, "resnet.pth")
    Path("evil.pth").write_bytes(pickle.dumps(Evil()))
    out = ("--task", "moods", "--labels", LABELS, "-o", "b")
    assert "No checkpoint" in refused(2, "export", "none.pth", *out)
    assert "another model" in refused(2, "export", "resnet.pth", *out)
    assert "not opened" in refused(2, "export", "evil.pth", *out)
    assert "not opened" in refused(2, "inspect", "evil.pth")
    assert "has 4 outputs" in refused(2, "export", good, "--task", "dfew", "-o", "b")
    assert "Known tasks" in refused(2, "export", good, "--task", "moods", "-o", "b")
    assert "Cannot export" in refused(2, "export", good, *out, "--artifacts", "int8.abacus")
    assert "--depths" in refused(2, "export", good, *out, "--depths", "12,6")
    assert "No file or folder" in refused(2, "export", good, *out, "--calib", "none")
    for option in (("--trt", "workspace_mib=64"), ("--compute-capability", "8.9")):
        text = refused(2, "export", good, *out, "--artifacts", "fp32.onnx,fp16.onnx", *option)
        assert f"{option[0]} is for TensorRT plans" in text and "fp16.onnx" in text
    refused(2, "export", good)
    assert not Path("b").exists()
    assert not Path("pwned").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth", "good.pth", "resnet.pth"]


def test_export_that_fails_its_check_exits_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svfap_edge.export.onnx_from_model.IMAGENET_MEAN", np.zeros(3))
    path = save_ours(tmp_path / "ck.pth", model_with_weights(TINY))
    out = tmp_path / "b"
    text = refused(4, "export", path, "--task", "m", "--labels", LABELS, "-o", out)
    assert "Nothing was written" in text
    assert not out.exists()


def test_our_checkpoints_know_their_task(tmp_path: Path) -> None:
    task = replace(TINY_TASK, name="my moods", stride=3)
    path = tmp_path / "a b.safetensors"
    about = {"config": TINY.to_dict(), "task": task.to_dict()}
    write_safetensors(path, model_with_weights(TINY).state_dict(), about)
    text = call("inspect", path).stdout
    assert f"my moods, classes: {', '.join(task.labels)}" in text
    (command,) = re.findall(r"next +svfap-edge (.*)", text)
    words = [str(tmp_path / "b") if word == "DIR" else word for word in shlex.split(command)]
    assert call(*words).exit_code == 0
    manifest = Bundle.open(tmp_path / "b").manifest
    assert manifest.task == task
    assert manifest.clip.span_s == pytest.approx(TINY.frames * 3 / 25)
    words = refused(2, "export", path, "--labels", "a,b", "-o", tmp_path / "c")
    assert "name it by --task" in words
    other = save_ours(tmp_path / "other.pth", model_with_weights(TINY))
    assert "Name its task: --task dfew|" in refused(2, "export", other, "-o", tmp_path / "c")


def test_inspect_the_model_in_the_package_by_its_name() -> None:
    facts = json.loads(call("inspect", "lite-faces", "--json").stdout)
    assert facts["name"] == "lite-faces"
    assert "int8.onnx" in [artifact["name"] for artifact in facts["artifacts"]]


def test_inspect_a_checkpoint(tmp_path: Path) -> None:
    path = save_like_authors(tmp_path / "ck.pth", model_with_weights(TINY))
    assert "Give --heads" in refused(2, "inspect", path)  # 48 wide is no published width
    assert "4 heads" in call("inspect", path, "--heads", 4).stdout
    ours = save_ours(tmp_path / "ours.pth", model_with_weights(TINY))
    text = call("inspect", ours).stdout
    assert "fine-tuned" in text
    assert "stages 2-2-2" in text
    assert json.loads(call("inspect", ours, "--json").stdout)["config"]["width"] == 48


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_with_valid_files(
    tmp_path: Path, tiny: Bundle, number: signal.Signals
) -> None:
    skip_if_ignored(number)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(40):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((1500, 2000, 3), i, np.uint8))
    out, film = tmp_path / "x.jsonl", tmp_path / "o.mp4"
    command = [
        sys.executable, "-m", "svfap_edge", "run", str(folder), "--bundle", str(tiny.path),
        "--detector", "none", "--fps", "4", "--hop", "0.25",
        "--jsonl", str(out), "--video", str(film),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out.exists() and out.read_text().count("\n") > 3):
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    for line in out.read_text().splitlines():
        json.loads(line)
    capture = cv2.VideoCapture(str(film))
    assert capture.read()[0]
