"""TensorRT 10.x and 11.x and TensorRT for RTX 1.x, on the first NVIDIA GPU.

A lane is what one run needs: an execution context, a stream, pinned and GPU memory for the largest
batch of the plan. Threads that call `run` at the same time take a lane each, of up to `MAX_LANES`;
more of them wait. After its first run of a batch size a lane allocates nothing any more.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import InferenceError

from .backend import INPUT_NAME, ModelSpec, Outputs, check_clips, check_model
from .cuda_driver import CudaError, CudaGraph
from .cuda_memory import Buffer, CudaMemory, find_memory
from .tensorrt_library import TensorRT, log_of, reasons
from .tensorrt_plan import Contexts, Tensors, deserialize, require, tensors_of

MAX_LANES = 2
"""One computes while the clips of the other are copied; more gain nothing on one GPU."""

MAX_GRAPHS = 8
"""CUDA graphs of a lane, one per batch size, the first ones seen; others run without."""

SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "int8"}


class Lane:
    """One run at a time. Everything is called with the CUDA context current."""

    def __init__(
        self, contexts: Contexts, tensors: Tensors, memory: CudaMemory, library: TensorRT
    ) -> None:
        self._contexts, self._tensors, self._library = contexts, tensors, library
        self._memory = memory
        self._stream = memory.stream()
        self._made: list[Buffer] = []
        self._graphs: dict[int, tuple[Any, CudaGraph]] = {}
        self._captures = contexts.captures
        self.uncaptured = ""  # why there are no CUDA graphs
        try:
            most = tensors.batch[1]
            self._scratch = self._buffer(contexts.scratch, False) if contexts.scratch else None
            self._clip_bytes = int(np.prod([size or 1 for size in tensors.shape[1:]]))
            self._input = self._buffer(most * self._clip_bytes)
            self._outputs = {n: self._buffer(most * w * 4) for n, w in tensors.widths.items()}
            self._context = self._new_context()
        except BaseException:
            self.free()
            raise

    def run(self, clips: np.ndarray) -> list[np.ndarray]:
        """Outputs for 1 to `tensors.batch[1]` clips, in the order of `tensors.widths`."""
        count = max(len(clips), self._tensors.batch[0])  # rows beyond the clips are not returned
        self._input.host[: clips.nbytes].reshape(clips.shape)[...] = clips
        if count in self._graphs:
            self._graphs[count][1].launch()
        else:
            self._enqueue(self._context, count)
        self._stream.wait()
        found = [
            buffer.host[: len(clips) * width * 4].view(np.float32).reshape(-1, width).copy()
            for buffer, width in zip(
                self._outputs.values(), self._tensors.widths.values(), strict=True
            )
        ]
        if self._captures and count not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            self._capture(count)
        return found

    def _enqueue(self, context: Any, count: int) -> None:
        self._input.upload(count * self._clip_bytes, self._stream)
        self._set_shape(context, count)
        self._execute(context)
        self._download(count)

    def _set_shape(self, context: Any, count: int) -> None:
        shape = (count, *(size or 0 for size in self._tensors.shape[1:]))
        if not context.set_input_shape(INPUT_NAME, shape):
            raise self._failure(f"takes no batch of {count}")

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.handle):
            raise self._failure("did not run")

    def _download(self, count: int) -> None:
        for name, buffer in self._outputs.items():
            buffer.download(count * self._tensors.widths[name] * 4, self._stream)

    def _failure(self, what: str) -> InferenceError:
        words = reasons(log_of(self._library.trt))
        return InferenceError(f"{self._library.name} {what}:\n  {words}")

    def _capture(self, count: int) -> None:
        """Make the graph for a batch size, in a context of its own, as TensorRT asks for."""
        try:
            context = self._new_context()
            self._enqueue(context, count)  # TensorRT allocates on the first run of a shape
            self._stream.wait()

            def record() -> None:
                self._input.upload(count * self._clip_bytes, self._stream)
                self._execute(context)
                self._download(count)

            self._graphs[count] = context, CudaGraph(self._stream.handle, record)
        except InferenceError as error:  # it runs as well without, only slower
            self._captures, self.uncaptured = False, str(error)

    def _new_context(self) -> Any:
        context = self._contexts.make(self._memory, self._scratch, self._stream.handle)
        for name, buffer in ((INPUT_NAME, self._input), *self._outputs.items()):
            if not context.set_tensor_address(name, buffer.address):
                raise self._failure(f"takes no memory for '{name}'")
        self._stream.wait()
        return context

    def _buffer(self, size: int, pinned: bool = True) -> Buffer:
        self._made.append(self._memory.buffer(size, pinned=pinned))
        return self._made[-1]

    @property
    def graphs(self) -> tuple[int, ...]:
        """Batch sizes with a CUDA graph."""
        return tuple(self._graphs)

    def free(self) -> None:
        for _, graph in self._graphs.values():
            graph.free()
        self._graphs.clear()
        self._context = None
        for buffer in self._made:
            buffer.free()
        self._made.clear()
        self._stream.free()


class Lanes:
    """Up to `MAX_LANES` lanes of one plan; a new one is made when a run finds none idle."""

    def __init__(
        self, contexts: Contexts, tensors: Tensors, memory: CudaMemory, library: TensorRT
    ) -> None:
        self._parts = (contexts, tensors, memory, library)
        self._contexts, self._memory = contexts, memory
        self._idle: list[Lane] = []
        self._made, self._most = 0, MAX_LANES  # busy ones and those being made included
        self._changed = threading.Condition()
        self._closed = self._ended = False

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for this thread alone, the CUDA context current.

        Raises:
            ValueError: closed.
            InferenceError: no memory for the first lane.
        """
        lane = self._reserve()
        while lane is None:
            lane = self._make() or self._reserve()
        try:
            with self._memory.current():
                yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify()
            self._release()

    def _reserve(self) -> Lane | None:
        """An idle lane, waited for if need be; None if one more is to be made, counted already."""
        with self._changed:
            while not self._idle and self._made >= self._most and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ValueError("The backend is closed.")
            if self._idle:
                return self._idle.pop()
            self._made += 1
            return None

    def _make(self) -> Lane | None:
        """A new lane; None if there is no memory for one more than those there are."""
        try:
            with self._memory.current():
                return Lane(*self._parts)
        except BaseException as error:
            with self._changed:
                self._made -= 1
                self._changed.notify()
                alone = self._made == 0
                self._most = max(1, self._made)
            self._release()
            if alone or not isinstance(error, InferenceError):
                raise
            return None

    @property
    def idle(self) -> tuple[Lane, ...]:
        return tuple(self._idle)

    def close(self) -> None:
        """Free what is idle now, the rest when its run ends. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._release()

    def _release(self) -> None:
        """After `close`: free the idle lanes, and with the last one all else."""
        with self._changed:
            if not self._closed or self._ended:
                return
            lanes, self._idle = self._idle, []
        with self._memory.current():
            for lane in lanes:
                with suppress(CudaError):  # after a fault of the GPU nothing can be freed any more
                    lane.free()
            with self._changed:
                self._made -= len(lanes)
                if self._made or self._ended:
                    return
                self._ended = True
            self._contexts.close()
        self._memory.close()


class TensorRTBackend:
    """A plan on the GPU. `run` may be called from any number of threads."""

    def __init__(self, lanes: Lanes, tensors: Tensors, spec: ModelSpec, binding: str) -> None:
        self.spec = spec
        self.batch = tensors.batch
        """Fewest and most clips in one run of the plan; more are run in turns."""
        self.binding = binding
        """"pycuda" or "cuda-python"."""
        self._lanes = lanes
        self._close = weakref.finalize(self, lanes.close)

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        most = self.batch[1]
        with self._lanes.one() as lane:
            parts = [lane.run(clips[at : at + most]) for at in range(0, len(clips), most)]
        joined = [np.concatenate(part) if len(part) > 1 else part[0]
                  for part in zip(*parts, strict=True)]  # fmt: skip
        return Outputs(joined[0], joined[1] if self.spec.features else None)

    @property
    def cuda_graphs(self) -> dict[str, object]:
        """Batch sizes that have a CUDA graph, and why there is none where there is not.

        TensorRT for RTX makes its own, which cannot be asked.
        """
        lanes = self._lanes.idle
        sizes = sorted({size for lane in lanes for size in lane.graphs})
        return {"batches": sizes, "failed": next((x.uncaptured for x in lanes), "")}

    def close(self) -> None:
        self._close()


def load(
    path: Path, bundle: Bundle, artifact: Artifact, threads: int | None = None, *,
    cuda_graphs: bool | None = None, binding: str = "auto",
) -> TensorRTBackend:  # fmt: skip
    """Check what the plan needs, read it and run it once.

    Args:
        threads: Not used; the GPU computes.
        cuda_graphs: Whether to launch runs as CUDA graphs; None: unless the environment says
            SVFAP_EDGE_CUDA_GRAPHS=off.
        binding: See `find_memory`.

    Raises:
        BackendUnavailable: no library, driver, GPU or CUDA binding.
        EngineIncompatible: built for something else, or TensorRT refuses it.
        BundleError: its tensors are not those of the manifest.
        InferenceError: out of memory, or it does not run.
    """
    library, gpu = require(artifact)
    if cuda_graphs is None:
        cuda_graphs = os.environ.get("SVFAP_EDGE_CUDA_GRAPHS", "").lower() not in ("off", "0")
    memory = find_memory(binding)
    try:
        with memory.current():
            engine = deserialize(path, artifact, library)
            tensors = tensors_of(engine, library.trt, path)
            outputs, features = check_model(
                path, bundle, tensors.shape, tensors.type, list(tensors.widths.values())
            )
            contexts = Contexts(engine, library, gpu, artifact.files[0].sha256, cuda_graphs)
            del engine
    except BaseException:
        memory.close()
        raise
    clip, precision = bundle.manifest.clip, precision_of(bundle, artifact)
    spec = ModelSpec(clip, outputs, features, artifact.name, "tensorrt", precision)
    backend = TensorRTBackend(Lanes(contexts, tensors, memory, library), tensors, spec, memory.name)
    try:
        backend.run(np.zeros((1, *clip.shape), np.uint8))
    except BaseException:
        backend.close()
        raise
    return backend


def precision_of(bundle: Bundle, artifact: Artifact) -> str:
    """What a plan computes in: counted in the strongly typed network it was built from."""
    layers = bundle.manifest.quality.get(artifact.name, {}).get("layers", {})
    counts = {short: layers[name] for name, short in SHORT.items() if layers.get(name)}
    whole = ["int8"] if counts.pop("int8", 0) else []
    most = [max(counts, key=lambda kind: counts[kind])] if counts else []
    return "+".join(whole + most) or "unknown"
