"""Lanes of a TensorRT plan: what one run needs, and how threads share them.

A lane is an execution context, a stream, and pinned and GPU memory for the largest batch of the
plan. Threads that call `run` at the same time take a lane each; there are up to `MAX_LANES`, and
more threads wait. After its first run of a batch size a lane allocates nothing any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from svfap_edge.errors import ConfigError, InferenceError
from svfap_edge.runtimes.backend import INPUT_NAME, Outputs
from svfap_edge.runtimes.cuda_driver import CudaError, CudaGraph

from .cuda_memory import Buffer, CudaMemory, out_of_memory
from .library import TensorRT, log_of, reasons
from .plan import Contexts, Tensors

MAX_LANES = 2
"""Most lanes of a plan. One computes while the clips of the other are copied; more than two gain
nothing on one GPU."""

MAX_GRAPHS = 8
"""Most CUDA graphs of a lane, one for each of the first batch sizes that it sees. Other sizes run
without a graph."""


class Lane:
    """Runs the plan for one thread at a time. The CUDA context must be current in every call.

    Attributes:
        uncaptured: Why there are no CUDA graphs; "" where there are, or none was tried.
    """

    def __init__(
        self, contexts: Contexts, tensors: Tensors, memory: CudaMemory, library: TensorRT
    ) -> None:
        self._contexts, self._tensors, self._library = contexts, tensors, library
        self._memory = memory
        self._stream = memory.stream()
        self._made: list[Buffer] = []
        self._graphs: dict[int, tuple[Any, CudaGraph]] = {}
        self._captures = contexts.captures
        self.uncaptured = ""
        try:
            most = tensors.batch[1]
            self._scratch = self._buffer(contexts.scratch, False) if contexts.scratch else None
            self._clip_bytes = int(np.prod([size or 1 for size in tensors.shape[1:]]))
            self._input = self._buffer(most * self._clip_bytes)
            self._outputs = {n: self._buffer(most * w * 4) for n, w in tensors.widths.items()}
            self._context = self._new_context()
        except BaseException:
            with suppress(CudaError):  # what went wrong first is reported
                self.free()
            raise

    def run(self, clips: np.ndarray) -> Outputs:
        """Outputs for 1 to `tensors.batch[1]` clips."""
        count = max(len(clips), self._tensors.batch[0])  # rows beyond the clips are not returned
        self._input.host[: clips.nbytes].reshape(clips.shape)[...] = clips
        if count in self._graphs:
            self._graphs[count][1].launch()
        else:
            self._enqueue(self._context, count)
        self._stream.wait()
        found = {}
        for name, width in self._tensors.widths.items():  # logits, and features if there are any
            host = self._outputs[name].host[: len(clips) * width * 4]
            found[name] = host.view(np.float32).reshape(-1, width).copy()
        if self._captures and count not in self._graphs and len(self._graphs) < MAX_GRAPHS:
            self._capture(count)
        return Outputs(**found)

    def _enqueue(self, context: Any, count: int) -> None:
        shape = (count, *(size or 0 for size in self._tensors.shape[1:]))
        if not context.set_input_shape(INPUT_NAME, shape):
            raise self._failure(f"takes no batch of {count}")
        self._enqueue_again(context, count)

    def _enqueue_again(self, context: Any, count: int) -> None:
        self._input.upload(count * self._clip_bytes, self._stream)
        if not context.execute_async_v3(self._stream.handle):
            raise self._failure("did not run")
        for name, buffer in self._outputs.items():
            buffer.download(count * self._tensors.widths[name] * 4, self._stream)

    def _failure(self, what: str) -> InferenceError:
        words = reasons(log_of(self._library.trt))
        return InferenceError(f"{self._library.name} {what}:\n  {words}")

    def _capture(self, count: int) -> None:
        """Make the graph for a batch size, in a context of its own, as TensorRT requires."""
        try:
            context = self._new_context()
            self._enqueue(context, count)  # TensorRT allocates on the first run of a shape
            self._stream.wait()
            record = partial(self._enqueue_again, context, count)
            self._graphs[count] = context, CudaGraph(self._stream.handle, record)
        except Exception as error:  # it runs as well without, only slower
            self._captures, self.uncaptured = False, str(error) or type(error).__name__

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
        """Free the graphs, the memory and the stream. The lane cannot run any more."""
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
        """A lane for this thread alone, with the CUDA context current. It raises ConfigError after
        `close`, and InferenceError where CUDA fails or has no memory for the first lane."""
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
        """An idle lane, waited for if need be. None if the caller is to make one more, which is
        counted already."""
        with self._changed:
            while not self._idle and self._made >= self._most and not self._closed:
                self._changed.wait()
            if self._closed:
                raise ConfigError(
                    "The TensorRT backend is closed; load the model again with Engine.load."
                )
            if self._idle:
                return self._idle.pop()
            self._made += 1
            return None

    def _make(self) -> Lane | None:
        """A new lane; None if there are some already and no memory for one more."""
        try:
            with self._memory.current():
                return self._new_lane()
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

    def _new_lane(self) -> Lane:
        try:
            return Lane(*self._parts)
        except MemoryError as error:
            raise out_of_memory("one run at a time", 0, *self._memory.free_bytes()) from error

    @property
    def idle(self) -> tuple[Lane, ...]:
        """The lanes that no thread uses now."""
        return tuple(self._idle)

    def close(self) -> None:
        """Free what is idle now, and the rest when its run ends. More calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._release()

    def _release(self) -> None:
        """After `close`, free the idle lanes, and with the last lane everything else."""
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
