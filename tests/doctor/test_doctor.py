"""`svfap-edge doctor`: every finding has a state, and a broken part is told, not suffered."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest

from svfap_edge.cache import FACE_MODEL_NAME
from svfap_edge.doctor import checks as doctor_system
from svfap_edge.doctor import diagnosis, probes
from svfap_edge.doctor.checks import State, check_driver, check_engine
from svfap_edge.errors import BackendUnavailable, BundleError, InferenceError
from svfap_edge.runtimes.choice import ENGINES, available_engines
from tests.conftest import ROOT

GROUPS = ("software", "model", "engines", "processor", "gpu", "video", "space", "optional")


def examine(
    *, path: Path | None = None, cwd: Path | None = None, **environment: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
    """The command in a process of its own: (what it said, its checks by name)."""
    added = {"PYTHONPATH": str(path)} if path else {}
    result = subprocess.run(
        [sys.executable, "-m", "svfap_edge", "doctor", "--json"],
        cwd=cwd,
        env={**os.environ, **added, **environment},
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in result.stderr, result.stderr
    checks = json.loads(result.stdout)["checks"]
    return result, {check["name"]: check for check in checks}


def stub(folder: Path, module: str, code: str) -> Path:
    """A folder to put first on the path, whose `module` runs this code when imported."""
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def healthy() -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, Any]]]:
    return examine()


def test_this_machine_can_run_the_main_job(healthy: Any) -> None:
    result, checks = healthy
    assert result.returncode == 0, result.stdout
    content = json.loads(result.stdout)
    assert set(content) == {"ok", "exit", "obstacles", "limits", "checks"}
    assert (
        content["ok"] is True
        and content["exit"] == 0
        and content["obstacles"] == content["limits"] == []
    )
    assert checks["model in the package"]["state"] == "ok"
    assert checks["opencv"]["state"] == checks["FFmpeg"]["state"] == checks["pyav"]["state"] == "ok"
    for engine in available_engines("onnx"):
        assert checks[engine]["state"] in ("ok", "note")
    assert any(checks[engine]["state"] == "ok" for engine in ENGINES)
    assert "ran " in checks["onnxruntime"]["fact"]
    assert "CPU" in checks["onnxruntime"]["fact"]


def test_every_finding_has_a_state_a_fact_and_what_to_do(healthy: Any) -> None:
    _, checks = healthy
    for check in checks.values():
        assert set(check) == {"group", "name", "state", "fact", "advice"}
        assert check["group"] in GROUPS
        assert check["state"] in typing.get_args(State)
        assert check["fact"] and "\n" not in check["fact"]
        if check["state"] in ("missing", "broken"):
            assert check["advice"], check
    expected = {
        "python", "numpy", "cpu", "nvidia driver", "tensorrt", "pycuda", "cuda-python",
        "GStreamer", "V4L", "yunet", "haar", "memory", "cache", "matplotlib", "torch", "nncf",
        "lightning", *ENGINES,
    }  # fmt: skip
    assert expected <= set(checks)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libgone.so.1: cannot open shared object file')", "libgone.so.1"),
        ("import os; os.abort()", "crashed"),
    ],
    ids=["import error", "crash"],
)
def test_a_broken_engine_is_a_line(tmp_path: Path, code: str, reason: str) -> None:
    if len(available_engines("onnx")) < 2:
        pytest.skip("needs two engines, one to break")
    result, checks = examine(path=stub(tmp_path, "onnxruntime", code))
    assert checks["onnxruntime"]["state"] == "broken"
    assert reason in checks["onnxruntime"]["fact"]
    assert "pip install" in checks["onnxruntime"]["advice"]
    assert checks["openvino"]["state"] == "ok"
    assert result.returncode == 0  # the other engine works


def test_without_a_working_engine_it_exits_3(tmp_path: Path) -> None:
    for library in ("onnxruntime", "openvino"):
        stub(tmp_path, library, "raise ImportError('gone')")
    result, checks = examine(path=tmp_path)
    assert result.returncode == 3
    assert json.loads(result.stdout)["obstacles"] == ["no engine works"]
    assert all(checks[e]["state"] != "ok" for e in ENGINES)
    text = subprocess.run(
        [sys.executable, "-m", "svfap_edge", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert text.returncode == 3
    assert "cannot work: no engine works" in text.stdout
    assert "broken" in text.stdout and "-> " in text.stdout


def test_broken_opencv_exits_3(tmp_path: Path) -> None:
    result, checks = examine(path=stub(tmp_path, "cv2", "raise ImportError('libGL.so.1')"))
    assert result.returncode == 3
    assert "libGL.so.1" in checks["opencv"]["fact"]
    assert "headless" in checks["opencv"]["advice"]
    assert "OpenCV does not work" in json.loads(result.stdout)["obstacles"]


def test_without_pyav_it_says_what_cannot_be_read(tmp_path: Path) -> None:
    result, checks = examine(path=stub(tmp_path, "av", "raise ImportError('libavcodec.so.62')"))
    assert result.returncode == 0  # cameras and folders of images are left
    assert "libavcodec.so.62" in checks["pyav"]["fact"]
    assert json.loads(result.stdout)["limits"] == ["video files, for PyAV does not work"]


def test_a_damaged_installation_is_not_an_engine_failure(tmp_path: Path) -> None:
    """A copy of the package whose model lost a byte."""
    package = tmp_path / "svfap_edge"
    shutil.copytree(ROOT / "svfap_edge", package)
    for folder in ("runtimes", "export", "training"):
        shutil.copytree(ROOT / folder, package / folder)
    (model,) = (package / "models" / "lite-faces").glob("int8.onnx")
    model.write_bytes(model.read_bytes()[:-1])
    result, checks = examine(path=tmp_path, cwd=tmp_path)
    assert result.returncode == 3
    assert checks["model in the package"]["state"] == "broken"
    assert "copy" in checks["model in the package"]["fact"]
    assert "reinstall" in checks["model in the package"]["advice"]
    assert all(checks[engine]["state"] == "note" for engine in available_engines("onnx"))
    assert json.loads(result.stdout)["obstacles"] == ["the model in the package is damaged"]


def test_loads_no_torch() -> None:
    code = (
        "import sys\nfrom svfap_edge.doctor.diagnosis import diagnose\ndiagnose()\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules\n"
        "assert 'openvino' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_face_model(yunet: Path, tmp_path: Path) -> None:
    _, checks = examine(SVFAP_EDGE_FACE_MODEL=str(yunet))
    assert (checks["yunet"]["state"], checks["yunet"]["fact"]) == ("ok", str(yunet))
    other = tmp_path / FACE_MODEL_NAME
    other.write_bytes(b"not a network")
    _, checks = examine(SVFAP_EDGE_FACE_MODEL=str(other))
    assert checks["yunet"]["state"] == "broken"
    result, checks = examine(SVFAP_EDGE_FACE_MODEL=str(tmp_path / "none.onnx"))
    assert checks["yunet"]["state"] == "broken"
    assert "No face model" in checks["yunet"]["fact"]
    assert result.returncode == 0  # Haar or none is left


def test_cache(tmp_path: Path) -> None:
    _, checks = examine(SVFAP_EDGE_CACHE="off")
    assert checks["cache"]["state"] == "note"
    file = tmp_path / "file"
    file.write_text("in the way")
    _, checks = examine(SVFAP_EDGE_CACHE=str(file))
    assert checks["cache"]["state"] == "broken"
    _, checks = examine(SVFAP_EDGE_CACHE=str(tmp_path / "new" / "folder"))
    assert checks["cache"]["state"] in ("ok", "note")


def test_a_probe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(stub(tmp_path, "slow", "import time; time.sleep(60)")))
    monkeypatch.setattr(diagnosis, "TIMEOUT_S", 1.0)
    answer = diagnosis._answer(probes.module, name="slow")
    assert isinstance(answer, InferenceError)
    assert "did not end within 1 s" in str(answer)


@pytest.mark.parametrize(
    ("machine", "flags", "state", "words"),
    [
        ("x86_64", {"sse2"}, "note", "No AVX2"),
        ("x86_64", {"avx2"}, "note", "INT8 is slower than fp32 on OpenVINO"),
        ("x86_64", {"avx2", "avx_vnni"}, "ok", "no BF16"),
        ("x86_64", {"avx2", "avx512_vnni", "avx512_bf16"}, "ok", "BF16: INT8"),
        ("aarch64", {"asimd"}, "note", "No dot-product"),
        ("aarch64", {"asimd", "asimddp"}, "ok", "Dot-product"),
        ("x86_64", set(), "note", "benchmark"),
    ],
)
def test_advice_on_the_processor(machine: str, flags: set[str], state: str, words: str) -> None:
    found, advice = doctor_system.cpu_advice(flags, machine)
    assert found == state
    assert words in advice


def test_two_packages_in_one_folder_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"svfap-edge": "1", "numpy": "2", "opencv-python": "4.14",
             "opencv-python-headless": "4.10"}  # fmt: skip
    monkeypatch.setattr(doctor_system, "version_of", lambda name: there.get(name, ""))
    (clash,) = [check for check in doctor_system.check_software() if check.name == "cv2"]
    assert clash.state == "note"
    assert "opencv-python 4.14 and opencv-python-headless 4.10" in clash.fact


def test_drivers_and_gpus() -> None:
    gpu = {"name": "Orin", "compute_capability": "8.7", "memory_mib": 7620}
    good = check_driver({"cuda": "12.6", "gpus": [gpu]})
    assert good.state == "ok" and "Orin (compute capability 8.7, 7620 MiB)" in good.fact
    assert check_driver({"problem": "no NVIDIA driver"}).state == "missing"
    no_device = check_driver(BackendUnavailable("The CUDA driver does not start: no device"))
    assert no_device.state == "broken" and "no device" in no_device.fact
    assert "--gpus all" in no_device.advice
    assert check_driver(InferenceError("crashed")).state == "broken"


def test_an_engine_for_which_the_model_has_no_artifact_is_not_called_broken() -> None:
    entry = ENGINES["openvino"]
    model = {"name": "m", "artifacts": ["fp16.tensorrt"]}
    check = check_engine("openvino", entry, BundleError("none for it"), model)
    assert check.state == "note"
    assert "benchmark" in check.advice
