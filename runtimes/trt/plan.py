"""A plan on this machine: what it needs, reading it, and contexts to run it in.

This module holds everything in which TensorRT 10, TensorRT 11 and TensorRT for RTX differ at run
time.
"""

from __future__ import annotations

import functools
import platform
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svfap_edge.bundle import Artifact
from svfap_edge.cache import compiled_model_cache, keep_compiled, kept_compiled
from svfap_edge.errors import BundleError, EngineIncompatible, InferenceError, SvfapError
from svfap_edge.runtimes.backend import INPUT_NAME
from svfap_edge.runtimes.cuda_driver import Gpu, find_gpu

from .cuda_memory import Buffer, CudaMemory, out_of_memory
from .library import NAMES, TensorRT, find_library, log_of, reasons

OUTPUT_NAMES = ("logits", "features")
"""Names of the outputs of every exported model; the second one is optional."""

RTX_DEFAULT_FROM = (8, 0)
"""Where no GPU was asked for, TensorRT for RTX builds for this compute capability and later."""


def require(artifact: Artifact) -> tuple[TensorRT, Gpu]:
    """The library and the GPU that run a plan here, checked against what the plan needs.

    Raises:
        BackendUnavailable: the kind of TensorRT that it needs, the driver or a GPU is not here.
        EngineIncompatible: the plan was built for another library, machine or GPU.
    """
    needs = artifact.needs
    for key, here in (("os", sys.platform), ("machine", platform.machine())):
        if needs.get(key) not in (None, here):
            raise _built_for(artifact, f"{key} {needs[key]}", here)
    flavour = needs.get("flavour", "tensorrt")
    if flavour not in NAMES:
        raise EngineIncompatible(
            f"'{artifact.name}' was built for '{flavour}'; this version knows {', '.join(NAMES)}. "
            "Upgrade svfap-edge."
        )
    library = find_library(flavour)
    check_version(artifact, library)
    gpu = find_gpu()
    check_gpu(artifact, gpu)
    return library, gpu


def obstacle(artifact: Artifact) -> SvfapError | None:
    """What keeps a plan from running here; None if nothing known does."""
    try:
        require(artifact)
    except SvfapError as error:
        return error
    return None


def check_version(artifact: Artifact, library: TensorRT) -> None:
    """Raise EngineIncompatible unless the release is that of the build (first three numbers)."""
    wanted = artifact.needs.get("tensorrt")
    if wanted is not None and _numbers(str(wanted))[:3] != _numbers(library.version)[:3]:
        raise _built_for(artifact, f"{library.name} {wanted}", library.version)


def check_gpu(artifact: Artifact, gpu: Gpu) -> None:
    """Raise EngineIncompatible unless the plan is for this GPU's compute capability."""
    wanted = [str(capability) for capability in artifact.needs.get("compute_capability") or []]
    here = f"{gpu.capability} ({gpu.name})"
    if wanted and gpu.capability not in wanted:
        raise _built_for(
            artifact, f"GPUs of compute capability {', '.join(wanted)}", here, gpu.capability
        )
    by_default = not wanted and artifact.needs.get("flavour") == "rtx"
    if by_default and _numbers(gpu.capability) < RTX_DEFAULT_FROM:
        raise _built_for(artifact, "GPUs of compute capability 8.0 and later", here, gpu.capability)


def _built_for(
    artifact: Artifact, wanted: str, here: str, capability: str = ""
) -> EngineIncompatible:
    ahead = capability and artifact.needs.get("flavour") == "rtx"
    more = f" --compute-capability {capability}" if ahead else ""
    return EngineIncompatible(
        f"'{artifact.name}' was built for {wanted}; here is {here}. Build it again on this "
        f"machine: svfap-edge export CHECKPOINT --task TASK --artifacts {artifact.name}{more} "
        "-o DIR, or choose an ONNX artifact, which runs everywhere."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


@dataclass(frozen=True)
class Tensors:
    """What a plan reads and returns.

    Attributes:
        shape: Shape of the input, None for a free dimension.
        type: Element type of the input, "uint8".
        widths: Widths of the outputs by name, logits first.
        batch: Fewest and most clips in one run.
    """

    shape: tuple[int | None, ...]
    type: str
    widths: dict[str, int]
    batch: tuple[int, int]


def deserialize(plan: bytes, artifact: Artifact, library: TensorRT) -> Any:
    """TensorRT's engine of a plan, or EngineIncompatible with TensorRT's words. A CUDA context must
    be current."""
    log = log_of(library.trt)
    log.lines.clear()
    runtime = library.trt.Runtime(log)
    what = f"{library.name} {library.version} does not take '{artifact.name}'"
    if library.ahead_of_time and (flags := _invalid(runtime, library.trt, plan)):
        words = f"\n  {reasons(log)}" if log.lines else ""
        raise EngineIncompatible(
            f"{what}: {flags}.{words}\nBuild it again on this machine, or update the driver."
        )
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineIncompatible(f"{what}:\n  {reasons(log)}\nBuild it again on this machine.")
    return engine


def _invalid(runtime: Any, trt: Any, plan: Any) -> str:
    """What TensorRT for RTX (1.1 and later) finds wrong in the header of a plan; "" if it finds
    nothing."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, found = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity != trt.EngineValidity.INVALID:
        return ""
    flags = trt.EngineInvalidityDiagnostics.__members__.items()
    named = [name.lower().replace("_", " ") for name, flag in flags if int(found) & int(flag.value)]
    return ", ".join(named) or "the header is not valid here"


def tensors_of(engine: Any, trt: Any, path: Path) -> Tensors:
    """Names, types and shapes of an engine's tensors; BundleError unless the SDK's models have
    such ones."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [name for name in OUTPUT_NAMES if name in names]
    if inputs != [INPUT_NAME] or outputs[:1] != ["logits"] or len(names) != 1 + len(outputs):
        raise BundleError(
            f"'{path}' has the tensors {', '.join(names)}; expected {INPUT_NAME}, logits and "
            "maybe features. It is no plan of this SDK; export the bundle again."
        )
    for name in outputs:
        if (kind := engine.get_tensor_dtype(name)) != trt.float32:
            raise BundleError(f"'{path}' returns {name} as {kind}; expected float32.")
    shape = tuple(engine.get_tensor_shape(INPUT_NAME))
    batch = (shape[0], shape[0])
    if shape[0] < 0:
        least, _, most = engine.get_tensor_profile_shape(INPUT_NAME, 0)
        batch = (least[0], most[0])
    return Tensors(
        tuple(None if size < 0 else size for size in shape),
        engine.get_tensor_dtype(INPUT_NAME).name.lower(),
        {name: engine.get_tensor_shape(name)[-1] for name in outputs},
        batch,
    )


class Contexts:
    """Execution contexts of an engine, and the memory they compute in.

    With TensorRT a context gets its memory from its user, so that contexts that never run at the
    same time share it. With TensorRT for RTX a context has memory of its own and makes CUDA graphs
    by itself; it makes kernels on first use, which are kept in the cache folder.

    Attributes:
        captures: Whether the user of the contexts is to capture CUDA graphs.
    """

    def __init__(
        self, engine: Any, library: TensorRT, gpu: Gpu, artifact: Artifact, graphs: bool
    ) -> None:
        self._engine = engine
        self._library = library
        self._config: Any = None
        self._kernels: Any = None
        self._kernels_file: Path | None = None
        if library.ahead_of_time and hasattr(engine, "create_runtime_config"):
            self._configure(artifact, gpu, graphs)
        self.captures = graphs and not library.ahead_of_time

    @functools.cached_property
    def scratch(self) -> int:
        """Bytes of GPU memory that a context needs from its user; 0 if it has its own."""
        if self._library.ahead_of_time:
            return 0
        engine = self._engine
        size = getattr(engine, "device_memory_size_v2", None)  # since 10.1
        return int(engine.device_memory_size if size is None else size)

    def make(self, memory: CudaMemory, scratch: Buffer | None, stream: int) -> Any:
        """Make a context in a buffer of `self.scratch` bytes, None if that is 0, and prepare it on
        the stream of this handle. `memory` is asked for what is free if there is not enough."""
        trt, log = self._library.trt, log_of(self._library.trt)
        log.lines.clear()
        if self._config is not None:
            context = self._engine.create_execution_context(self._config)
        elif scratch is None:
            context = self._engine.create_execution_context()
        else:
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        if context is None:
            self._explain(memory)
        if scratch is not None and hasattr(context, "set_device_memory"):  # since 10.1
            context.set_device_memory(scratch.address, self.scratch)
        elif scratch is not None:
            context.device_memory = scratch.address
        if context.active_optimization_profile < 0:
            context.set_optimization_profile_async(0, stream)
        return context

    def _explain(self, memory: CudaMemory) -> None:
        words = reasons(log_of(self._library.trt))
        if "memory" in words.lower():
            size = int(getattr(self._engine, "device_memory_size_v2", 0) or 0)
            raise out_of_memory("an execution context", size, *memory.free_bytes())
        raise InferenceError(f"{self._library.name} makes no execution context:\n  {words}")

    def _configure(self, artifact: Artifact, gpu: Gpu, graphs: bool) -> None:
        trt, config = self._library.trt, self._engine.create_runtime_config()
        if hasattr(trt, "CudaGraphStrategy"):  # since 1.2
            kinds = trt.CudaGraphStrategy
            config.cuda_graph_strategy = kinds.WHOLE_GRAPH_CAPTURE if graphs else kinds.DISABLED
        self._kernels = config.create_runtime_cache()
        builder = f"tensorrt-rtx-{self._library.version}"
        folder = compiled_model_cache(artifact, builder, {"gpu": [gpu.name, gpu.capability]})
        if folder is not None:
            self._kernels_file = folder / "kernels.bin"
            kept = kept_compiled(self._kernels_file)
            if kept is not None:  # one that does not fit is refused, and made anew
                self._kernels.deserialize(bytes(kept))
        config.set_runtime_cache(self._kernels)
        self._config = config

    def close(self) -> None:
        """Keep the kernels that were made, and drop the engine. No context may be left."""
        if self._kernels is not None and self._kernels_file is not None:
            with suppress(TypeError):  # they are made again next time
                keep_compiled(self._kernels_file, bytes(memoryview(self._kernels.serialize())))
        self._config = self._kernels = self._engine = None
