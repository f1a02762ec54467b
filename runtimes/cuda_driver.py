"""Calls of NVIDIA's driver: which GPU is here, its primary context, and CUDA graphs.

This needs neither the CUDA toolkit nor a Python binding. Names and numbers are those of the CUDA
driver API (cuda.h). The GPU is the first one; CUDA_VISIBLE_DEVICES says which that is.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from svfap_edge.errors import BackendUnavailable, InferenceError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
DEVICE = 0
CAPTURE_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE: other threads may allocate meanwhile
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class CudaError(InferenceError):
    """A CUDA call failed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver describes it.

    Attributes:
        name: Name of the GPU, for example "Orin" or "NVIDIA GeForce RTX 4070".
        capability: Compute capability, for example "8.7".
        memory: Memory in bytes; on Jetson it is shared with the processor.
        cuda: Newest CUDA version that the driver supports, for example "12.6".
    """

    name: str
    capability: str
    memory: int
    cuda: str


class DriverMissing(BackendUnavailable):
    """NVIDIA's driver is not installed."""


@functools.cache
def _driver() -> Any:
    """The driver's library, initialized; BackendUnavailable if it does not start."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DriverMissing(
            f"CUDA driver not found: {error}. This needs an NVIDIA GPU and its driver (on Jetson: "
            "JetPack; in a container: start it with the NVIDIA runtime, --gpus all)."
        ) from error
    if status := library.cuInit(0):
        raise BackendUnavailable(
            f"The CUDA driver does not start: {_words(library, status)}. Check that nvidia-smi "
            "lists a GPU and that CUDA_VISIBLE_DEVICES does not hide it."
        )
    return library


def _words(library: Any, status: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} (CUDA error {status})"


def _call(function: str, *arguments: Any) -> None:
    """Call a function of the driver; raise CudaError with the driver's words if it fails."""
    if status := getattr(_driver(), function)(*arguments):
        raise CudaError(f"{function}: {_words(_driver(), status)}")


def _ask(function: str, *arguments: Any, kind: type[Any] = ctypes.c_int) -> int:
    """The number that a function of the driver writes to its first argument."""
    answer = kind()
    _call(function, ctypes.byref(answer), *arguments)
    return int(answer.value)


def find_gpus() -> list[Gpu]:
    """All GPUs that the driver shows this process; the first is the one that would be used.

    Raises:
        BackendUnavailable: no driver (`DriverMissing`), or no GPU.
    """
    return [find_gpu(index) for index in range(_ask("cuDeviceGetCount"))]


def find_gpu(index: int = DEVICE) -> Gpu:
    """The GPU that would be used, or another one by its number; see `find_gpus` for the errors."""
    library = _driver()
    device = ctypes.c_int()
    if status := library.cuDeviceGet(ctypes.byref(device), index):
        raise BackendUnavailable(f"There is no GPU to use: {_words(library, status)}.")
    name = ctypes.create_string_buffer(256)
    _call("cuDeviceGetName", name, len(name), device)
    major = _ask("cuDeviceGetAttribute", CAPABILITY_MAJOR, device)
    minor = _ask("cuDeviceGetAttribute", CAPABILITY_MINOR, device)
    version = _ask("cuDriverGetVersion")
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{major}.{minor}",
        memory=_ask("cuDeviceTotalMem_v2", device, kind=ctypes.c_size_t),
        cuda=f"{version // 1000}.{version % 1000 // 10}",
    )


class PrimaryContext:
    """The context that PyTorch and the CUDA runtime use, too; it is current only in `current`."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self._handle), DEVICE)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread, and restore what was current before."""
        _call("cuCtxPushCurrent_v2", self._handle)
        try:
            yield
        finally:
            _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def release(self) -> None:
        """Give the context back. It cannot be used any more."""
        _call("cuDevicePrimaryCtxRelease_v2", DEVICE)


class CudaGraph:
    """Work that was recorded from a stream and is launched again by one call. The CUDA context must
    be current in every call.

    `record` puts the work on the stream of this handle, on which none is pending; nothing of it
    runs yet. CudaError if it cannot be captured; the stream is then usable again.
    """

    def __init__(self, stream: int, record: Callable[[], None]) -> None:
        self._stream = ctypes.c_void_p(stream)
        self._graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", self._stream, CAPTURE_THREAD_LOCAL)
        try:
            record()
        finally:
            status = _driver().cuStreamEndCapture(self._stream, ctypes.byref(self._graph))
        if status:
            raise CudaError(f"cuStreamEndCapture: {_words(_driver(), status)}")
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), self._graph,
                  ctypes.c_ulonglong(0))  # fmt: skip
        except CudaError:
            self.free()
            raise

    def launch(self) -> None:
        """Put the work on the stream."""
        _call("cuGraphLaunch", self._launchable, self._stream)

    def free(self) -> None:
        """Free the graph. More calls do nothing."""
        for function, handle in (
            ("cuGraphExecDestroy", self._launchable),
            ("cuGraphDestroy", self._graph),
        ):
            if handle:
                _call(function, handle)
                handle.value = None
