"""The wheel, installed in a fresh environment away from the repository, runs the main job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.bundle import DEFAULT_BUNDLE

from .conftest import ROOT


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "-q", "-w", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def modules() -> list[Path]:
    """Every module of the package, wherever its folder is."""
    folders = ("svfap_edge", "runtimes", "export", "training")
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_wheel_holds_the_packages_and_the_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in modules()}
    mapped = {s if s.startswith("svfap_edge/") else f"svfap_edge/{s}" for s in sources}
    assert {name for name in names if name.endswith(".py")} == mapped
    folders = {name.rpartition("/")[0] for name in mapped}
    assert len(folders) > 15 and {f"{folder}/__init__.py" for folder in folders} <= mapped
    assert {
        "svfap_edge/py.typed",
        "svfap_edge/models/lite-faces/manifest.json",
        "svfap_edge/models/lite-faces/MODEL_CARD.md",
        "svfap_edge/evaluation/report/report.html.jinja",
        "svfap_edge/evaluation/report/report.md.jinja",
        "svfap_edge/sinks/lines.schema.json",
    } <= names
    manifest = DEFAULT_BUNDLE.joinpath("manifest.json").read_text()
    listed = set(re.findall(r'"file": "([^"]+)"', manifest))
    assert {"int8.onnx", "fp16.onnx", "weights.safetensors", "check.npz"} <= listed
    assert {f"svfap_edge/models/lite-faces/{file}" for file in listed} <= names
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"svfap_edge"}
    assert wheel.stat().st_size < 30e6


def test_fresh_environment_runs_the_main_job_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    constraints = ("-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "-q", *constraints, wheel, cwd=tmp_path)
    packages = run(python, "-m", "pip", "list", cwd=tmp_path)
    assert "torch" not in packages

    video = tmp_path / "face.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 25, (160, 160))
    for i in range(50):
        writer.write(np.full((160, 160, 3), 100 + i, np.uint8))
    writer.release()
    command = tmp_path / "env" / "bin" / "svfap-edge"
    output = run(command, "run", video, "--detector", "none", cwd=tmp_path)
    assert "50 frames" in output
    assert "4 predictions for 1 person" in output
    inspected = run(command, "inspect", _default_bundle(python, tmp_path), cwd=tmp_path)
    assert "int8.onnx" in inspected


def _default_bundle(python: Path, cwd: Path) -> str:
    code = "from svfap_edge.bundle import DEFAULT_BUNDLE; print(DEFAULT_BUNDLE)"
    return run(python, "-c", code, cwd=cwd).strip()
