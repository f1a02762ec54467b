"""Execution providers: obeyed or refused, never replaced."""

from __future__ import annotations

import warnings

import onnxruntime as ort
import pytest

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import BackendUnavailable
from svfap_edge.runtimes import Engine, load_backend, ort_providers
from svfap_edge.runtimes.choice import choose
from svfap_edge.runtimes.cuda_driver import find_gpu
from svfap_edge.runtimes.ort_providers import assigned, check_used, effective_precision


def missing(word: str) -> None:
    if word in ort_providers.available_providers():
        pytest.skip(f"ONNX Runtime has {word} here")


def gpu_or_none() -> str:
    try:
        return find_gpu().name
    except BackendUnavailable:
        return ""


def test_cpu_by_name(tiny: Bundle) -> None:
    for name in ("onnxruntime", "onnxruntime:cpu"):
        with Engine.load(tiny, engine=name) as engine:
            assert (engine.spec.engine, engine.spec.precision) == ("onnxruntime", "f32")


@pytest.mark.parametrize("word", ["cuda", "tensorrt"])
def test_missing_provider_lists_those_there(tiny: Bundle, word: str) -> None:
    missing(word)
    with pytest.raises(
        BackendUnavailable, match=r"ONNX Runtime \d.* has no .*It has: onnxruntime:cpu.*Install it"
    ):
        Engine.load(tiny, engine=f"onnxruntime:{word}")


def test_unknown_provider(tiny: Bundle) -> None:
    with pytest.raises(BackendUnavailable, match=r"onnxruntime:abacus'.*onnxruntime:cuda"):
        choose(tiny, engine="onnxruntime:abacus")
    with pytest.raises(BackendUnavailable, match="Choose openvino alone"):
        choose(tiny, engine="openvino:gpu")


def test_rtx_plugin_without_a_gpu(tiny: Bundle) -> None:
    pytest.importorskip(ort_providers.RTX_PLUGIN, reason="the plug-in is not installed")
    if gpu_or_none():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match="CUDA driver not found"):
        load_backend(tiny, engine="onnxruntime:nvtensorrtrtx")
    with pytest.raises(BackendUnavailable, match=r"plug-in of NvT\w+ does not load.*cuda"):
        ort_providers._rtx_devices()


def test_provider_that_was_left_out_is_an_error(tiny: Bundle) -> None:
    """What ONNX Runtime does by itself: a warning, and the CPU."""
    missing("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = ort.InferenceSession(
            str(tiny.path_of("fp32.onnx")),
            providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
        )
    with pytest.raises(BackendUnavailable, match=r"cannot load CUDAExec.*preload_dlls"):
        check_used(session, "cuda")


def test_nodes_are_counted_by_provider(tiny: Bundle) -> None:
    options = ort.SessionOptions()
    path = str(tiny.path_of("fp32.onnx"))
    options.add_session_config_entry(ort_providers.ASSIGNMENT, "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    counts = assigned(session)
    if not counts:
        pytest.skip("this ONNX Runtime does not tell")
    assert set(counts) == {"CPUExecutionProvider"} and counts.total() > 10
    check_used(session, "cpu")


@pytest.mark.parametrize(
    ("precision", "word", "expected"),
    [
        ("fp32", "cpu", "f32"), ("int8", "cpu", "int8"), ("fp32", "cuda", "f32"),
        ("int8", "cuda", "f32 of int8"), ("fp16", "cuda", "f16"), ("fp32", "tensorrt", "tf32"),
        ("int8", "nvtensorrtrtx", "int8+tf32"),
    ],
)  # fmt: skip
def test_effective_precision(precision: str, word: str, expected: str) -> None:
    assert effective_precision(Artifact(f"{precision}.onnx", ()), word) == expected
