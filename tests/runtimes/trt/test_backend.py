"""Plans up to deserialization, by the real library of TensorRT for RTX; no GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from svfap_edge.bundle import Artifact, ArtifactFile, Bundle, digest
from svfap_edge.errors import (
    BackendUnavailable,
    BundleError,
    EngineIncompatible,
    InferenceError,
    SvfapError,
)
from svfap_edge.runtimes import Engine, choice
from svfap_edge.runtimes.choice import choose
from svfap_edge.runtimes.cuda_driver import Gpu, find_gpu
from svfap_edge.runtimes.trt import cuda_memory, library
from svfap_edge.runtimes.trt import plan as tensorrt_plan
from svfap_edge.runtimes.trt.backend import precision_of
from svfap_edge.runtimes.trt.cuda_memory import OutOfMemory, find_memory, out_of_memory
from svfap_edge.runtimes.trt.library import TensorRT, find_library, log_of, reasons
from tests.conftest import ROOT
from tests.models import tiny_bundle

PLAN = "fp16.tensorrt"
ORIN = Gpu("Orin", "8.7", 8 << 30, "12.6")
ADA = Gpu("RTX 4070", "8.9", 12 << 30, "12.8")


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    try:
        return find_library("rtx")
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def planned(rtx: TensorRT, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model as ONNX and as a plan for GPUs of compute capability 8.9."""
    folder = tmp_path_factory.mktemp("planned") / "tiny"
    return tiny_bundle(folder, artifacts=("fp32.onnx", PLAN), compute_capabilities=("8.9",))


@pytest.fixture
def altered(planned: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    """A copy of `planned` whose plan has other needs, or is another file."""

    def make(content: bytes | None = None, **needs: Any) -> Bundle:
        folder = tmp_path / "altered"
        shutil.copytree(planned.path, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (entry,) = (a for a in manifest["artifacts"] if a["name"] == PLAN)
        entry["needs"].update(needs)
        if content is not None:
            plan = folder / entry["files"][0]["file"]
            plan.write_bytes(content)
            entry["files"][0].update(sha256=digest(plan), bytes=len(content))
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return Bundle.open(folder)

    return make


def no_gpu_here() -> bool:
    try:
        find_gpu()
    except BackendUnavailable:
        return True
    return False


needs_no_gpu = pytest.mark.skipif(not no_gpu_here(), reason="tells what happens without a GPU")


def refused(bundle: Bundle, kind: type[SvfapError] = EngineIncompatible) -> str:
    with pytest.raises(kind) as caught:
        Engine.load(bundle, artifact=PLAN)
    return str(caught.value)


@needs_no_gpu
def test_without_a_driver_a_plan_is_refused_and_auto_passes_over_it(planned: Bundle) -> None:
    for options in ({"artifact": PLAN}, {"engine": "tensorrt"}):
        with pytest.raises(BackendUnavailable, match=r"CUDA driver not found.*NVIDIA GPU"):
            Engine.load(planned, **options)
    with Engine.load(planned) as engine:
        assert engine.spec.artifact == "fp32.onnx"


def test_other_release_is_named_on_both_sides(
    altered: Callable[..., Bundle], rtx: TensorRT
) -> None:
    said = refused(altered(tensorrt="1.6.0.22"))
    assert f"built for TensorRT for RTX 1.6.0.22; here is {rtx.version}" in said
    assert f"svfap-edge export CHECKPOINT --task TASK --artifacts {PLAN}" in said


def test_other_system_or_processor(altered: Callable[..., Bundle]) -> None:
    bundle = altered(machine="riscv64")
    assert "built for machine riscv64; here is" in refused(bundle)
    with Engine.load(bundle) as engine:
        assert engine.spec.artifact == "fp32.onnx"


def test_plan_of_the_other_flavour(altered: Callable[..., Bundle]) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    said = refused(altered(flavour="tensorrt", tensorrt="10.3.0"), BackendUnavailable)
    assert "TensorRT cannot be used here" in said and "svfap-edge[tensorrt]" in said


def test_unknown_flavour(altered: Callable[..., Bundle]) -> None:
    assert "built for 'trt-safe'" in refused(altered(flavour="trt-safe"))


def artifact(**needs: Any) -> Artifact:
    return Artifact(PLAN, (ArtifactFile("fp16.plan", "0" * 64, 1),), needs=needs)


def test_compute_capability() -> None:
    check = tensorrt_plan.check_gpu
    check(artifact(flavour="rtx", compute_capability=["8.6", "8.9"]), ADA)
    check(artifact(flavour="tensorrt", compute_capability=[]), ORIN)  # not known: TensorRT checks
    with pytest.raises(EngineIncompatible, match=r"8\.6, 8\.9; here is 8\.7 \(Orin\)") as caught:
        check(artifact(flavour="tensorrt", compute_capability=["8.6", "8.9"]), ORIN)
    assert "--compute-capability" not in str(caught.value)  # TensorRT builds for the one present
    with pytest.raises(EngineIncompatible, match=r"--compute-capability 8\.7"):
        check(artifact(flavour="rtx", compute_capability=["8.9"]), ORIN)
    turing = replace(ADA, capability="7.5")
    with pytest.raises(EngineIncompatible, match=r"8\.0 and later; here is 7\.5"):
        check(artifact(flavour="rtx", compute_capability=[]), turing)
    check(artifact(flavour="rtx", compute_capability=[]), ADA)


def test_releases_are_compared_by_three_numbers() -> None:
    for here in ("10.3.0", "10.3.0.26", "10.3.0.post1"):
        tensorrt_plan.check_version(artifact(tensorrt="10.3.0"), TensorRT("TensorRT", here, None))
    with pytest.raises(EngineIncompatible, match=r"TensorRT 10\.3\.0; here is 10\.13\.0"):
        tensorrt_plan.check_version(
            artifact(tensorrt="10.3.0"), TensorRT("TensorRT", "10.13.0", None)
        )


def test_altered_plan_is_refused_by_its_digest(
    planned: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before TensorRT sees it, and whatever else is wrong on this machine."""
    shutil.copytree(planned.path, tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    plan = bundle.path_of(PLAN)
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    monkeypatch.setattr(choice, "obstacle", lambda artifact, engine: None)
    assert "was altered" in refused(bundle, BundleError)


@needs_no_gpu
def test_tensorrt_refuses_a_damaged_plan_in_its_words(
    planned: Bundle, rtx: TensorRT, tmp_path: Path
) -> None:
    path = tmp_path / "m.plan"
    entry = planned.artifact(PLAN)
    path.write_bytes(b"no plan at all" * 100)
    with pytest.raises(EngineIncompatible, match=f"{rtx.version} does not take.*malformed engine"):
        tensorrt_plan.deserialize(path.read_bytes(), entry, rtx)
    path.write_bytes(planned.path_of(PLAN).read_bytes())
    with pytest.raises(EngineIncompatible, match=r"(?s)does not take.*CUDA driver"):
        tensorrt_plan.deserialize(path.read_bytes(), entry, rtx)
    # The path of regular TensorRT, which has no check of the header alone.
    regular = TensorRT("TensorRT", rtx.version, rtx.trt)
    path.write_bytes(planned.path_of(PLAN).read_bytes()[:3000])
    with pytest.raises(EngineIncompatible, match=r"(?s)does not take.*Serialization"):
        tensorrt_plan.deserialize(path.read_bytes(), entry, regular)


def test_the_log_is_bounded(rtx: TensorRT) -> None:
    log = log_of(rtx.trt)
    for number in range(1000):
        log.log(rtx.trt.ILogger.Severity.ERROR, f"line {number}")
    log.log(rtx.trt.ILogger.Severity.VERBOSE, "chatter")
    assert len(log.lines) == library.KEPT_LINES
    assert reasons(log).endswith("line 999")
    log.lines.clear()


def test_the_engine_is_refused_a_bundle_without_a_plan(tiny: Bundle, rtx: TensorRT) -> None:
    with pytest.raises(BundleError, match=r"runs: \*\.tensorrt.*has: fp32.*--artifacts fp16.tens"):
        choose(tiny, engine="tensorrt")


def test_a_plan_comes_first_where_it_can_run(
    planned: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "obstacle", lambda artifact, engine: None)
    assert choose(planned) == (PLAN, "tensorrt")
    assert choose(planned, engine="onnxruntime") == ("fp32.onnx", "onnxruntime")


def test_no_binding_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Any:
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(cuda_memory.importlib, "import_module", nothing)
    with pytest.raises(BackendUnavailable, match=r"pycuda: .*cuda-python: .*pip install pycuda"):
        find_memory()


@needs_no_gpu
def test_cuda_python_without_a_driver() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    with pytest.raises(BackendUnavailable, match="CUDA driver not found"):
        find_memory("cuda-python")
    with pytest.raises(InferenceError, match=r"driver.*cudaErrorInsufficientDriver"):
        cuda_memory.checked(cuda, cuda.cudaMalloc(16))
    with pytest.raises(OutOfMemory, match="cudaErrorMemoryAllocation"):
        cuda_memory.checked(cuda, (cuda.cudaError_t.cudaErrorMemoryAllocation, None))
    assert cuda_memory.checked(cuda, (cuda.cudaError_t.cudaSuccess, 3, 4)) == (3, 4)


def test_out_of_memory_names_the_sizes() -> None:
    said = str(out_of_memory("a buffer", 64 << 20, 10 << 20, 8 << 30))
    assert "needs 64.0 MiB; 10.0 of 8192.0 MiB are free" in said
    assert "a stream has no room; 10.0 of" in str(out_of_memory("a stream", 0, 10 << 20, 8 << 30))


def test_precision_is_what_was_counted_at_the_build(planned: Bundle) -> None:
    entry = planned.artifact(PLAN)
    assert precision_of(planned, entry) == "f16"
    planned.manifest.quality["x"] = {"layers": {"int8": 9, "float16": 80, "float32": 3}}
    assert precision_of(planned, replace(entry, name="x")) == "int8+f16"
    assert precision_of(planned, replace(entry, name="y")) == "unknown"


def test_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "8.6.1"

    monkeypatch.setattr(library.importlib, "import_module", lambda name: Old)
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1 is here; 10\.x or 11\.x"):
        find_library("tensorrt")


@needs_no_gpu
def test_the_gpu_command_says_what_it_skipped(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 3
    assert "NOTHING RAN ON A GPU" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["skipped"] > 20
    assert all(test["said"] for test in report["tests"])
    assert "CUDA driver not found" in (tmp_path / "report.md").read_text()
