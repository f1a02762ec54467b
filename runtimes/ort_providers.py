"""ONNX Runtime's execution providers: each is chosen by name and really used, or refused.

By itself ONNX Runtime warns of a provider that does not load and goes on without it; what a
provider does not take, it computes on the CPU without a warning. Here a provider that does not load
is an error, and so is a session in which the provider computes nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime as ort

from svfap_edge.bundle import Artifact
from svfap_edge.cache import alone_in, compiled_model_cache
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BackendUnavailable, InferenceError

from .backend import INPUT_NAME
from .cuda_driver import DEVICE, find_gpu

RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
"""The module that brings TensorRT for RTX to ONNX Runtime."""

LARGEST_BATCH = 16
"""Most clips in one run of the models that the TensorRTs compile."""

ASSIGNMENT = "session.record_ep_graph_assignment_info"
"""The option of a session to remember which provider computes which node."""


class Provider(NamedTuple):
    """A row of `PROVIDERS`: ONNX Runtime's name of the provider, and how to install it."""

    name: str
    install: str


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "pip install onnxruntime"),
    "cuda": Provider(
        "CUDAExecutionProvider", "pip install onnxruntime-gpu (in place of onnxruntime)"
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "pip install onnxruntime-gpu (in place of onnxruntime) and tensorrt",
    ),
    "nvtensorrtrtx": Provider(
        "NvTensorRTRTXExecutionProvider", 'pip install "svfap-edge[tensorrt-rtx]"'
    ),
}
"""Execution providers, by the word that follows "onnxruntime:" in the name of an engine."""

_registering = threading.Lock()


def available_providers() -> list[str]:
    """Words of the `PROVIDERS` that this ONNX Runtime lists or that an installed plug-in brings."""
    listed = ort.get_available_providers()
    found = [word for word, provider in PROVIDERS.items() if provider.name in listed]
    plugged = importlib.util.find_spec(RTX_PLUGIN) is not None
    return found + (["nvtensorrtrtx"] if plugged and "nvtensorrtrtx" not in found else [])


def open_session(
    model: bytes, artifact: Artifact, clip: ClipSpec, options: ort.SessionOptions, word: str
) -> ort.InferenceSession:
    """Open a session for the bytes of a model, computed by the provider of this word; adds to the
    options.

    BackendUnavailable without the provider or a GPU for it; ONNX Runtime's own errors pass.
    """
    name = PROVIDERS[word].name
    if word not in available_providers():
        have = ", ".join(f"onnxruntime:{found}" for found in available_providers())
        raise BackendUnavailable(
            f"ONNX Runtime {ort.__version__} has no {name} here. It has: {have}. "
            f"Install it: {PROVIDERS[word].install}"
        )
    # Its fallback to other providers would print to standard output, and run elsewhere unasked.
    if word == "cpu":
        return ort.InferenceSession(model, options, providers=[name], enable_fallback=0)
    find_gpu()
    options.add_session_config_entry(ASSIGNMENT, "1")
    settings, folder = _settings(word, artifact, clip)
    if word == "nvtensorrtrtx" and name not in ort.get_available_providers():
        options.add_provider_for_devices(_rtx_devices(), settings)
        with alone_in(folder):
            session = ort.InferenceSession(model, options, enable_fallback=0)
    else:
        chain: list[Any] = [(name, {"device_id": str(DEVICE), **settings})]
        if word == "tensorrt" and "cuda" in available_providers():  # for what TensorRT leaves
            beside, _ = _settings("cuda", artifact, clip)
            chain.append((PROVIDERS["cuda"].name, {"device_id": str(DEVICE), **beside}))
        # check_used finds what is warned of, and raises
        with alone_in(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                session = ort.InferenceSession(model, options, providers=chain, enable_fallback=0)
            except Exception as error:  # ONNX Runtime has many kinds of exceptions
                if "Please install" in str(error):  # before it has looked at the model
                    raise _not_loaded(name) from error
                raise
    check_used(session, word)
    return session


def check_used(session: ort.InferenceSession, word: str) -> None:
    """Raise BackendUnavailable unless the provider is in the session, InferenceError unless it
    computes part of it."""
    name = PROVIDERS[word].name
    if name not in session.get_providers():
        raise _not_loaded(name)
    counts = assigned(session)
    if counts and not counts[name]:
        raise InferenceError(
            f"{name} takes nothing of this model; ONNX Runtime would compute it on "
            f"{', '.join(counts)} instead. Choose the engine onnxruntime, or another artifact."
        )


def _not_loaded(name: str) -> BackendUnavailable:
    return BackendUnavailable(
        f"ONNX Runtime {ort.__version__} cannot load {name}. Its libraries are missing or of other "
        "versions than it was built for (CUDA, cuDNN, TensorRT): put them on the library path, or "
        "call onnxruntime.preload_dlls() first; or choose the engine onnxruntime."
    )


def assigned(session: ort.InferenceSession) -> Counter[str]:
    """Number of nodes by the name of the provider that computes them.

    It is empty unless the session was made with `ASSIGNMENT` on, and where this version of ONNX
    Runtime does not report it.
    """
    counts: Counter[str] = Counter()
    if hasattr(session, "get_provider_graph_assignment_info"):
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
    return counts


def effective_precision(artifact: Artifact, word: str) -> str:
    """The number type that a provider computes in, as it is configured here.

    The CPU computes in the types of the graph. CUDA does too (TF32 is turned off), but has no
    integer kernels for Q/DQ and computes between them in float32. The TensorRTs use TF32 for
    float32 matrix products on GPUs that have it.
    """
    kinds = {"fp32": "f32", "fp16": "f16", "int8": "int8"}
    if word == "cuda":
        kinds["int8"] = "f32 of int8"
    elif word in ("tensorrt", "nvtensorrtrtx"):
        kinds |= {"fp32": "tf32", "int8": "int8+tf32"}
    return kinds.get(artifact.precision, artifact.precision)


def _settings(word: str, artifact: Artifact, clip: ClipSpec) -> tuple[dict[str, str], Path | None]:
    """What a provider is told, and the entry of the cache that it writes into by itself."""
    if word == "cuda":
        return {"use_tf32": "0"}, None

    def shape(count: int) -> str:
        return f"{INPUT_NAME}:{'x'.join(map(str, (count, *clip.shape)))}"

    prefix = "trt" if word == "tensorrt" else "nv"
    settings = {
        f"{prefix}_profile_min_shapes": shape(1),
        f"{prefix}_profile_opt_shapes": shape(1),
        f"{prefix}_profile_max_shapes": shape(LARGEST_BATCH),
    }
    if word == "tensorrt":
        settings["trt_fp16_enable"] = "1" if artifact.precision == "fp16" else "0"
        settings["trt_int8_enable"] = "1" if artifact.precision == "int8" else "0"
    gpu = find_gpu()
    here = {"gpu": [gpu.name, gpu.capability], **settings}
    folder = compiled_model_cache(artifact, f"ort-{word}-{ort.__version__}", here)
    if word == "tensorrt":
        if folder is not None:
            settings |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    elif folder is not None:
        settings["nv_runtime_cache_path"] = str(folder)
    return settings, folder


def _rtx_devices() -> list[Any]:
    """The first GPU of the plug-in of TensorRT for RTX. The plug-in is registered once."""
    plugin = importlib.import_module(RTX_PLUGIN)
    name = plugin.get_ep_name()
    with _registering:
        if not any(device.ep_name == name for device in ort.get_ep_devices()):
            try:
                ort.register_execution_provider_library(name, plugin.get_library_path())
            except Exception as error:  # ONNX Runtime has many kinds of exceptions
                if "already registered" not in str(error):
                    raise BackendUnavailable(
                        f"The plug-in of {name} does not load: {str(error).strip()[:400]}"
                    ) from error
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not devices:
        gpu = find_gpu()
        raise BackendUnavailable(
            f"{name} finds no GPU that it supports: here is {gpu.name}, compute capability "
            f"{gpu.capability}. TensorRT for RTX needs a GeForce or RTX GPU from 7.5 on; use "
            "TensorRT or onnxruntime:cuda."
        )
    return devices[:1]
