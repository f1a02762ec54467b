"""Nothing leaves the machine: the libraries under us write and report nothing of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.errors import QualityGateError

from .models import TINY, model_with_weights, save_ours

RUN = """
import numpy as np, sys
from svfap_edge import Engine
from svfap_edge.runtimes import available_engines
if sys.argv[1] in available_engines("onnx"):
    with Engine.load(engine=sys.argv[1]) as engine:
        engine.infer(np.zeros((1, *engine.spec.clip.shape), np.uint8))
"""
CALLS = "trace=connect,sendto,open,openat"
PLACES = ("HOME", "TMPDIR", "SVFAP_EDGE_CACHE")
FAMILIES = re.compile(r"sa_family=AF_INET6?\b.*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"([^\"]+)\"")
OPENED = re.compile(r"open(?:at)?\((?:AT_FDCWD, )?\"([^\"]+)\", ([A-Z_|]+)")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """An environment in which home, temporary folder and cache are empty."""
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY",)}
    for name in PLACES:
        (tmp_path / name).mkdir()
        environment[name] = str(tmp_path / name)
    return environment | {"XDG_CACHE_HOME": str(tmp_path / "HOME" / ".cache")}


def left(tmp_path: Path) -> list[Path]:
    """Files in home and temporary folder, but for matplotlib's list of this machine's fonts."""
    every = [p for name in ("HOME", "TMPDIR") for p in (tmp_path / name).rglob("*") if p.is_file()]
    return [path for path in every if not path.name.startswith("fontlist-")]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_run_leaves_no_file_but_the_cache(
    tmp_path: Path, places: dict[str, str], engine: str
) -> None:
    subprocess.run([sys.executable, "-c", RUN, engine], env=places, check=True)
    assert left(tmp_path) == []


def make_data(folder: Path, seed: int) -> Path:
    """Eight pictures for each of four labels, as different as can be."""
    random = np.random.default_rng(seed)
    for label in "abcd":
        (folder / label).mkdir(parents=True)
        for number in range(8):
            few = random.integers(0, 255, (3, 3, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / label / f"{number}.png"), cv2.resize(few, (32, 32)))
    return folder


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that runs a model, on a tiny one."""
    data, calibration = (str(make_data(folder / n, seed)) for seed, n in enumerate("dc"))
    save_ours(folder / "tiny.pth", model_with_weights(TINY))
    task = ["--task", "own", "--labels", "a,b,c,d", "--detector", "none"]
    return {
        "run": ["run", data + "/a", "--detector", "none", "--jsonl", str(folder / "out" / "a")],
        "export": ["export", str(folder / "tiny.pth"), *task, "-o", str(folder / "out" / "bundle")],
        "quantize": [
            "export", str(folder / "tiny.pth"), *task, "-o", str(folder / "out" / "int8"),
            "--artifacts", "int8.onnx,int8.openvino", "--calib", calibration,
        ],
        "evaluate": [
            "evaluate", str(folder / "out" / "bundle"), "--data", data, "--detector", "none",
            "--report", str(folder / "out" / "report"),
        ],
        "finetune": [
            "finetune", f"model.start={folder / 'tiny.pth'}", "data.labels=a,b,c,d",
            f"data.train={calibration}", f"data.val={data}", "optim.epochs=1", "optim.batch=4",
            f"run.output={folder / 'out' / 'run'}",
        ],
    }  # fmt: skip


def test_commands_leave_no_file_and_open_no_socket(tmp_path: Path, places: dict[str, str]) -> None:
    """With `strace`, where it is there, also none that is gone again."""
    (tmp_path / "out").mkdir()
    strace = shutil.which("strace")
    allowed = [tmp_path / name for name in (*PLACES, "out")]
    for name, words in commands(tmp_path).items():
        trace = tmp_path / f"{name}.trace"
        watch = [strace, "-f", "--seccomp-bpf", "-qq", "-e", CALLS, "-o", trace]
        command = [*(watch if strace else []), sys.executable, "-m", "svfap_edge", *words]
        found = subprocess.run(command, env=places, capture_output=True, text=True, cwd=tmp_path)
        gate = name == "quantize" and found.returncode == QualityGateError.exit_code
        assert found.returncode == 0 or gate, (
            f"{name}: {found.stdout[-1500:]} {found.stderr[-1500:]}"
        )
        assert left(tmp_path) == [], name
        if strace:
            text = trace.read_text(errors="replace")
            outside = {a for a in FAMILIES.findall(text) if a not in ("127.0.0.1", "::1")}
            assert not outside, f"{name} connected to {outside}"
            written = {
                path
                for path, flags in OPENED.findall(text)
                if "O_WRONLY" in flags or "O_RDWR" in flags
            }
            strange = [
                path
                for path in written
                if not path.startswith(("/dev/", "/proc/", "/sys/"))
                and not any((tmp_path / path).is_relative_to(place) for place in allowed)
                and "__pycache__" not in path
            ]
            assert strange == [], name


def test_who_has_set_the_variable_is_respected() -> None:
    code = "import os, svfap_edge; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "0"
