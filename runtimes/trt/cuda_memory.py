"""GPU memory, pinned host memory and streams: one small interface to pycuda and cuda-python.

pycuda is used where it is installed, and cuda-python otherwise. pycuda works on the primary context
of the GPU, so that it lives beside PyTorch and other threads; contexts of its own would not.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from svfap_edge.errors import BackendUnavailable, InferenceError
from svfap_edge.runtimes.cuda_driver import DEVICE, CudaError, PrimaryContext

MIB = 1 << 20
NON_BLOCKING = 1
"""The flag of a stream that does not wait for the default stream, which other code may use."""

CHECK = "Check that nvidia-smi lists a GPU with free memory."
INSTALL = "pip install pycuda (needs the CUDA toolkit) or pip install cuda-python"


class CudaMemory(ABC):
    """Makes streams and buffers with one Python binding of CUDA.

    All methods but `current` and `close` must be called inside `current`, and so must the methods
    of streams and buffers. They all raise CudaError where CUDA fails, whatever the binding itself
    raises.

    Attributes:
        name: Name of the binding, "pycuda" or "cuda-python".
    """

    name: str

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current in this thread, and restore what was current before."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream."""

    def buffer(self, size: int, *, pinned: bool = True) -> Buffer:
        """New memory of `size` bytes, with a host side if `pinned`.

        Raises:
            InferenceError: there is not enough memory. The message gives the sizes.
        """
        try:
            return self._new_buffer(size, pinned)
        except OutOfMemory as error:
            raise out_of_memory("a buffer", size, *self.free_bytes()) from error

    @abstractmethod
    def _new_buffer(self, size: int, pinned: bool) -> Buffer: ...

    @abstractmethod
    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Give the context back."""


def find_memory(binding: str = "auto") -> CudaMemory:
    """Open a Python binding of CUDA: "pycuda", "cuda-python", or "auto" for the first of them that
    can be used; BackendUnavailable, which repeats their words, if none is installed, none can be
    imported, or CUDA gives none of them the GPU's context."""
    reasons = []
    advice = f"Install one: {INSTALL}."
    for name, kind in (("pycuda", PycudaMemory), ("cuda-python", CudaPythonMemory)):
        if binding not in ("auto", name):
            continue
        try:
            return kind()
        except (ImportError, OSError) as error:
            reasons.append(f"{name}: {error}")
        except CudaError as error:
            reasons.append(str(error))
            advice = CHECK
    raise BackendUnavailable(
        f"No Python binding of CUDA can be used ({'; '.join(reasons)}). {advice}"
    )


class OutOfMemory(CudaError):
    """CUDA ran out of memory. The message has CUDA's words, without the sizes."""


def out_of_memory(what: str, size: int, free: int, total: int) -> InferenceError:
    """The error that says what needed memory of the GPU and how much (all in bytes; 0 where that is
    not known), how much is free of the total, and what to do."""
    needs = f"needs {size / MIB:.1f} MiB" if size else "has no room"
    return InferenceError(
        f"Out of GPU memory: {what} {needs}; {free / MIB:.1f} of "
        f"{total / MIB:.1f} MiB are free. Close other programs, or build the plan for smaller "
        "batches (svfap-edge export ... --trt batch=1,1,1)."
    )


class PycudaMemory(CudaMemory):
    """`CudaMemory` by pycuda, on the retained primary context."""

    name = "pycuda"

    def __init__(self) -> None:
        self.cuda = importlib.import_module("pycuda.driver")
        self._context = self.call(_pycuda_context, self.cuda)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of pycuda; raise pycuda's own errors as CudaError, in their words."""
        try:
            return function(*arguments)
        except (self.cuda.MemoryError, MemoryError) as error:
            raise OutOfMemory(f"pycuda: {error}") from error
        except self.cuda.Error as error:
            raise CudaError(f"pycuda: {error}") from error

    @contextmanager
    def current(self) -> Iterator[None]:
        self.call(self._context.push)
        try:
            yield
        finally:
            self.call(self.cuda.Context.pop)

    def stream(self) -> Stream:
        return PycudaStream(self)

    def _new_buffer(self, size: int, pinned: bool) -> Buffer:
        return PycudaBuffer(self, size, pinned)

    def free_bytes(self) -> tuple[int, int]:
        free, total = self.call(self.cuda.mem_get_info)
        return int(free), int(total)

    def close(self) -> None:
        """Do nothing: pycuda's context is kept for the process."""


@functools.cache
def _pycuda_context(cuda: Any) -> Any:
    """The primary context, retained once, because pycuda leaves a released one on the thread's
    stack."""
    cuda.init()
    return cuda.Device(DEVICE).retain_primary_context()


class PycudaStream:
    """A queue of GPU work of its own. Other Python threads run while one waits for its work."""

    def __init__(self, memory: PycudaMemory) -> None:
        self._call = memory.call
        self.raw = self._call(memory.cuda.Stream, NON_BLOCKING)

    @property
    def handle(self) -> int:
        return int(self.raw.handle)

    def wait(self) -> None:
        self._call(self.raw.synchronize)

    def free(self) -> None:
        self.raw = None


class PycudaBuffer:
    """Memory on the GPU, and pinned host memory of the same size.

    Both copies put the first `size` bytes on the stream: upload to the GPU, download from it.

    Attributes:
        address: Address of the GPU's memory.
        host: (size,) uint8 host memory; of size 0 where there is none.
    """

    def __init__(self, memory: PycudaMemory, size: int, pinned: bool) -> None:
        self._cuda, self._call = memory.cuda, memory.call
        self._device = self._call(self._cuda.mem_alloc, max(size, 1))
        self.address = int(self._device)
        self.host = np.empty(0, np.uint8)
        if pinned and size:
            try:
                self.host = self._call(self._cuda.pagelocked_empty, size, np.uint8)
            except CudaError:
                self._call(self._device.free)
                raise

    def upload(self, size: int, stream: Any) -> None:
        self._call(self._cuda.memcpy_htod_async, self._device, self.host[:size], stream.raw)

    def download(self, size: int, stream: Any) -> None:
        self._call(self._cuda.memcpy_dtoh_async, self.host[:size], self._device, stream.raw)

    def free(self) -> None:
        self._call(self._device.free)
        self.host = np.empty(0, np.uint8)  # the last reference; pycuda frees it here and now


class CudaPythonMemory(CudaMemory):
    """`CudaMemory` by cuda-python, version 11.8 and later."""

    name = "cuda-python"

    def __init__(self) -> None:
        self._cuda = runtime_of_cuda_python()
        self._context = PrimaryContext()

    def current(self) -> AbstractContextManager[None]:
        return self._context.current()

    def stream(self) -> Stream:
        return CudaPythonStream(self._cuda)

    def _new_buffer(self, size: int, pinned: bool) -> Buffer:
        return CudaPythonBuffer(self._cuda, size, pinned)

    def free_bytes(self) -> tuple[int, int]:
        free, total = checked(self._cuda, self._cuda.cudaMemGetInfo())
        return int(free), int(total)

    def close(self) -> None:
        self._context.release()


def runtime_of_cuda_python() -> Any:
    """The module of CUDA's runtime, which cuda-python 12.8 moved; ImportError without one."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        return importlib.import_module("cuda.cudart")


def checked(cuda: Any, returned: tuple[Any, ...]) -> Any:
    """What a call of cuda-python returned beside its status; OutOfMemory or CudaError with CUDA's
    words if it failed."""
    status, *values = returned
    if status != cuda.cudaError_t.cudaSuccess:
        full = status == cuda.cudaError_t.cudaErrorMemoryAllocation
        words = cuda.cudaGetErrorString(status)[1]
        raise (OutOfMemory if full else CudaError)(f"{words.decode()} ({status.name})")
    return values[0] if len(values) == 1 else tuple(values)


class CudaPythonStream:
    """The same as `PycudaStream`."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self.raw = checked(cuda, cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        return int(self.raw)

    def wait(self) -> None:
        checked(self._cuda, self._cuda.cudaStreamSynchronize(self.raw))

    def free(self) -> None:
        checked(self._cuda, self._cuda.cudaStreamDestroy(self.raw))


class CudaPythonBuffer:
    """The same as `PycudaBuffer`."""

    def __init__(self, cuda: Any, size: int, pinned: bool) -> None:
        self._cuda = cuda
        self.address = int(checked(cuda, cuda.cudaMalloc(max(size, 1))))
        self._pinned, self.host = 0, np.empty(0, np.uint8)
        if pinned and size:
            try:
                self._pinned = int(checked(cuda, cuda.cudaMallocHost(size)))
            except CudaError:
                cuda.cudaFree(self.address)
                raise
            raw = (ctypes.c_uint8 * size).from_address(self._pinned)
            self.host = np.ctypeslib.as_array(raw)

    def upload(self, size: int, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.address, self._pinned, size, kind, stream)

    def download(self, size: int, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(self._pinned, self.address, size, kind, stream)

    def _copy(self, target: int, source: int, size: int, kind: Any, stream: Any) -> None:
        checked(self._cuda, self._cuda.cudaMemcpyAsync(target, source, size, kind, stream.raw))

    def free(self) -> None:
        self.host = np.empty(0, np.uint8)
        checked(self._cuda, self._cuda.cudaFree(self.address))
        if self._pinned:
            checked(self._cuda, self._cuda.cudaFreeHost(self._pinned))


Stream = PycudaStream | CudaPythonStream
Buffer = PycudaBuffer | CudaPythonBuffer
