"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from svfap_edge.bundle import Artifact, Bundle

from .admission import admit
from .backend import (
    Mode,
    ModelSpec,
    Outputs,
    Read,
    artifact_error,
    check_clips,
    check_model,
    closed_error,
    joined,
)
from .openvino_cache import Ahead

BF16_INSTRUCTION_SETS = (
    "DEFAULT", "AVX2_VNNI_2", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX",
    "AVX512_CORE_AMX_FP16", "AVX10_1_512", "AVX10_1_512_AMX",
)  # fmt: skip
"""Values of ONEDNN_MAX_CPU_ISA that include bf16."""


class OpenVinoBackend:
    """A compiled model. Each thread that calls has one request; in throughput mode it has as many
    requests as OpenVINO runs at a time, each with one clip of the batch."""

    def __init__(self, compiled: Any, spec: ModelSpec, requests: int = 0) -> None:
        """
        Args:
            requests: Number of requests of a thread in throughput mode; 0 for latency mode.
        """
        self.spec = spec
        self._compiled: Any = compiled
        self._requests = requests
        self._local = threading.local()

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        if self._compiled is None:
            raise closed_error(self.spec)
        if self._requests:
            return self._run_apart(clips)
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        request.infer([np.ascontiguousarray(clips)], share_inputs=True)
        return self._outputs_of(request)

    def _outputs_of(self, request: Any) -> Outputs:
        """Copies, because the request uses its memory again."""
        count = 2 if self.spec.features else 1
        return Outputs(*(request.get_output_tensor(i).data.copy() for i in range(count)))

    def _run_apart(self, clips: np.ndarray) -> Outputs:
        """Run each clip in a request of its own, several at a time."""
        requests = getattr(self._local, "requests", None)
        if requests is None:
            requests = [self._compiled.create_infer_request() for _ in range(self._requests)]
            self._local.requests = requests
        clips = np.ascontiguousarray(clips)
        found: list[Outputs] = []
        failure: Exception | None = None
        count = len(requests)
        for turn in range(len(clips) + count):
            request, done = requests[turn % count], turn - count
            if 0 <= done < len(clips):
                try:  # wait for all of them even then: a request that runs cannot be used again
                    request.wait()
                    found.append(self._outputs_of(request))
                except Exception as error:
                    failure = failure or error
            if turn < len(clips):
                request.start_async([clips[turn : turn + 1]], share_inputs=True)
        if failure is not None:
            raise failure
        return joined(found)

    def close(self) -> None:
        self._local = threading.local()  # the requests go before the model that they belong to
        self._compiled = None


def has_bf16(core: Any) -> bool:
    """Whether this CPU computes in bf16. ONEDNN_MAX_CPU_ISA can make it imitate one that does
    not."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit and limit not in BF16_INSTRUCTION_SETS:
        return False  # OpenVINO's own answer does not know of the limit, and compiling would fail
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _meet_numpy() -> None:
    """Let OpenVINO look for NumPy while one thread is in it.

    It does so at its first array, holding a lock of C++ in which it waits for the interpreter. Two
    threads with their first clip would wait for each other for ever (2026.4, pybind11).
    """
    with _meeting:
        ov.Tensor(np.zeros(1, np.uint8))


_meeting = threading.Lock()


def load(
    read: Read, bundle: Bundle, artifact: Artifact, threads: int | None,
    mode: Mode = "latency", *, ahead: Ahead,
) -> OpenVinoBackend:  # fmt: skip
    """Compile an artifact for the CPU; see `EngineEntry.module`."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": mode.upper()}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    _meet_numpy()
    core = ov.Core()
    try:
        # OpenVINO silently computes fp32 models in bf16 where the CPU can: always set the hint.
        half = artifact.precision != "fp32" and has_bf16(core)
        config["INFERENCE_PRECISION_HINT"] = "bf16" if half else "f32"
        compiled = _compiled(core, read, artifact, config, ahead)
    except RuntimeError as error:
        raise artifact_error("OpenVINO", artifact, error) from error
    source = compiled.input(0)
    shape = tuple(_size(dimension) for dimension in source.partial_shape)
    widths = [_size(output.partial_shape[-1]) for output in compiled.outputs]
    outputs, features = check_model(
        bundle, artifact, shape, source.element_type.get_type_name(), widths
    )
    effective = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    precision = f"int8+{effective}" if artifact.precision == "int8" else effective
    spec = ModelSpec(bundle.manifest.clip, outputs, features, artifact.name, "openvino", precision)
    requests = 0
    if mode == "throughput":
        requests = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    return OpenVinoBackend(compiled, spec, requests)


def _compiled(
    core: Any, read: Read, artifact: Artifact, config: dict[str, Any], ahead: Ahead
) -> Any:
    """The model, compiled now or by an earlier run."""
    try:
        kept = ahead.compiled()
        config = {**config, **ahead.config()}
        if kept is not None:
            with suppress(RuntimeError):  # of a build of OpenVINO that does not say so
                return core.import_model(ov.Tensor(np.frombuffer(kept, np.uint8)), "CPU", config)
        contents = read()
        admit(artifact, contents)
        model, *weights = contents
        tensors = [ov.Tensor(np.frombuffer(content, np.uint8)) for content in weights if content]
        compiled = core.compile_model(core.read_model(model, *tensors), "CPU", config)
        if ahead.folder is not None:
            written = compiled.export_model()
            ahead.keep(getattr(written, "getvalue", lambda: written)())
        return compiled
    finally:
        ahead.close()


def _size(dimension: Any) -> int | None:
    return int(dimension.get_length()) if dimension.is_static else None


CONVERTER = "openvino.tools.ovc"
"""A module that `openvino` imports and that running a model does not need; it is slow to load."""


def _import() -> Any:
    """Import OpenVINO without its converter, which is loaded when it is asked for."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # makes its import an ImportError
    try:
        module = importlib.import_module("openvino")
    finally:
        del sys.modules[CONVERTER]
    if not hasattr(module, "convert_model"):
        module.__getattr__ = _late  # type: ignore[method-assign]
    return module


def _late(name: str) -> Any:
    if name == "convert_model":
        return importlib.import_module(CONVERTER).convert_model
    raise AttributeError(f"module 'openvino' has no attribute '{name}'")


ov = _import()
