"""ONNX to a TensorRT plan, by TensorRT 10 or 11 or by TensorRT for RTX: one path for all.

Precision lives in the ONNX file (float32, half, Q/DQ) and the network is strongly typed: there are
no FP16 or INT8 flags and no calibrators, which TensorRT 11 does not have any more.
"""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svfap_edge.atomic import written_whole
from svfap_edge.bundle import digest
from svfap_edge.errors import EngineIncompatible
from svfap_edge.export.model_files import adapt_to_tensorrt, read_onnx
from svfap_edge.export.precision import precisions_of_tensorrt
from svfap_edge.runtimes.backend import INPUT_NAME
from svfap_edge.runtimes.trt.library import TensorRT, log_of

from .builder import (
    PlanSettings,
    add_profile,
    configured,
    find_builder,
    present_capability,
    refusal,
)


@dataclass(frozen=True)
class PlanInfo:
    """What was built.

    Attributes:
        builder: Name of the TensorRT that built it, as in `TensorRT.name`.
        version: Its version, as in `TensorRT.version`.
        compute_capabilities: GPUs the plan is for. Empty: TensorRT for RTX's default, 8.0 and
            later; or, with TensorRT, the GPU of the build, which could not be asked.
        source_sha256: SHA-256 of the ONNX file, in hexadecimal.
        settings: The settings used, as in `PlanSettings.to_dict`.
        layers: Number of computing layers by precision (`precisions_of_tensorrt`), counted in the
            network before the build, which fuses them, but, strongly typed, keeps the precision.
        warnings: Warnings of TensorRT, each once.
        seconds: Time the build took, in seconds.
    """

    builder: str
    version: str
    compute_capabilities: tuple[str, ...]
    source_sha256: str
    settings: dict[str, Any]
    layers: dict[str, int]
    warnings: tuple[str, ...]
    seconds: float


def needs(info: PlanInfo) -> dict[str, Any]:
    """What a machine must have to run the plan, for the manifest's `needs`."""
    return {
        "tensorrt": info.version,
        "flavour": "rtx" if info.builder == "TensorRT for RTX" else "tensorrt",
        "compute_capability": list(info.compute_capabilities),
        "os": sys.platform,
        "machine": platform.machine(),
    }


def plan_from_onnx(
    source: Path,
    target: Path,
    settings: PlanSettings | None = None,
    builder: TensorRT | None = None,
) -> PlanInfo:
    """Build a plan. Ctrl-C stops the build at its next step.

    Args:
        source: Our fp32.onnx, int8.onnx (Q/DQ), or what `half_from_onnx` made of them.
        target: The file to write; it appears complete or not at all.

    Raises:
        BackendUnavailable: no builder.
        SvfapError: a setting that this builder does not have.
        EngineIncompatible: the parser or the builder refuses the model; in its own words.
    """
    settings = settings or PlanSettings()
    builder = builder or find_builder("auto", settings.compute_capabilities)
    started = time.perf_counter()
    trt, log = builder.trt, log_of(builder.trt)
    maker, config = configured(builder, settings)
    model = read_onnx(source)
    source_sha256 = digest(source)
    adapt_to_tensorrt(model)
    network, _parser = _parse(maker, trt, model.SerializeToString(), source.name, log)
    del model  # the builder needs the memory
    add_profile(maker, config, network, settings, log)
    layers = precisions_of_tensorrt(network)
    plan = _serialize(maker, trt, network, config)
    if plan is None:
        raise refusal(f"{builder.name} {builder.version} cannot build '{source.name}'", log)
    with written_whole(target) as partial:
        partial.write_bytes(plan)
    if settings.timing_cache is not None:
        with written_whole(settings.timing_cache) as partial:
            partial.write_bytes(config.get_timing_cache().serialize())
    return PlanInfo(
        builder=builder.name,
        version=builder.version,
        compute_capabilities=settings.compute_capabilities
        or (() if builder.ahead_of_time else present_capability()),
        source_sha256=source_sha256,
        settings=settings.to_dict(),
        layers=layers,
        warnings=tuple(dict.fromkeys(text for kind, text in log.lines if kind == "WARNING")),
        seconds=round(time.perf_counter() - started, 2),
    )


def _parse(maker: Any, trt: Any, content: bytes, name: str, log: Any) -> tuple[Any, Any]:
    """The network, and its parser, which must live as long."""
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = maker.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        words = [_words(parser.get_error(index)) for index in range(parser.num_errors)]
        raise refusal(f"TensorRT's parser refuses '{name}'", log, words)
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    if inputs != [INPUT_NAME]:
        raise EngineIncompatible(
            f"'{name}' must have the one input '{INPUT_NAME}'; it has: {', '.join(inputs)}."
        )
    return network, parser


def _words(error: Any) -> str:
    """A parser error on one line, with its node where this version names it."""
    description = " ".join(
        line for line in str(error.desc()).splitlines() if "catchCudaError" not in line
    )
    node, operator = (getattr(error, key, str)() for key in ("node_name", "node_operator"))
    return f"node '{node}' ({operator}): {description}" if node or operator else description


def _serialize(maker: Any, trt: Any, network: Any, config: Any) -> Any:
    """Build in a second thread, so that Ctrl-C is heard; None if the build failed."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        stopped = False

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not self.stopped

    config.progress_monitor = monitor = Monitor()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(maker.build_serialized_network, network, config)
        try:
            return job.result()
        except BaseException:
            monitor.stopped = True
            raise
