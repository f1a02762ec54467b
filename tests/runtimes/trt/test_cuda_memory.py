"""Failures of the two CUDA bindings come out as errors of this SDK. Runs everywhere: the bindings
are imitated, with the exceptions and calls of the real ones; those are tested by tests/gpu.
"""

from __future__ import annotations

import enum
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from svfap_edge.errors import BackendUnavailable, InferenceError
from svfap_edge.runtimes.cuda_driver import CudaError
from svfap_edge.runtimes.trt import cuda_memory
from svfap_edge.runtimes.trt.cuda_memory import OutOfMemory, checked, find_memory


class Error(Exception):
    """pycuda.driver.Error: of no other base."""


class MemoryFull(Error):
    """pycuda.driver.MemoryError"""


class LogicError(Error):
    """pycuda.driver.LogicError"""


class Pycuda(ModuleType):
    """`failing` maps the name of a call to what it raises."""

    Error, MemoryError, LogicError = Error, MemoryFull, LogicError

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.failing: dict[str, Exception] = {}
        self.freed = 0
        self.Context = self

    def _do(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]

    def init(self) -> None:
        self._do("init")

    def Device(self, number: int) -> Pycuda:
        return self

    def retain_primary_context(self) -> Pycuda:
        self._do("retain_primary_context")
        return self

    def push(self) -> None:
        self._do("push")

    def pop(self) -> None:
        self._do("pop")

    def Stream(self, flags: int) -> Pycuda:
        self._do("Stream")
        return self

    handle = 7

    def synchronize(self) -> None:
        self._do("synchronize")

    def mem_get_info(self) -> tuple[int, int]:
        self._do("mem_get_info")
        return 3 << 20, 4 << 30

    def mem_alloc(self, size: int) -> Pycuda:
        self._do("mem_alloc")
        return self

    def __int__(self) -> int:
        return 9

    def free(self) -> None:
        self._do("free")
        self.freed += 1

    def pagelocked_empty(self, size: int, kind: Any) -> np.ndarray:
        self._do("pagelocked_empty")
        return np.empty(size, kind)

    def memcpy_htod_async(self, *arguments: Any) -> None:
        self._do("memcpy_htod_async")

    def memcpy_dtoh_async(self, *arguments: Any) -> None:
        self._do("memcpy_dtoh_async")


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorLaunchFailure = 719


class CudaPython(ModuleType):
    """As `Pycuda`, its calls return what failed."""

    cudaError_t, cudaStreamNonBlocking = Status, 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.status = Status.cudaSuccess
        self.freed = 0

    def cudaGetErrorString(self, status: Status) -> tuple[Status, bytes]:
        return Status.cudaSuccess, b"some words"

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:
        return self.status, 7

    def cudaMalloc(self, size: int) -> tuple[Status, int]:
        return Status.cudaSuccess, 9

    def cudaMallocHost(self, size: int) -> tuple[Status, int]:
        return self.status, 0

    def cudaFree(self, address: int) -> tuple[Status]:
        self.freed += 1
        return (Status.cudaSuccess,)

    def cudaMemGetInfo(self) -> tuple[Status, int, int]:
        return Status.cudaSuccess, 3 << 20, 4 << 30


class Primary:
    def current(self) -> Any:
        return nullcontext()


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch) -> Pycuda:
    """The only binding that is installed."""
    module = Pycuda()

    def find(name: str) -> ModuleType:
        if name == "pycuda.driver":
            return module
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(cuda_memory.importlib, "import_module", find)
    return module


@pytest.fixture
def cuda_python(monkeypatch: pytest.MonkeyPatch) -> CudaPython:
    module = CudaPython()
    monkeypatch.setattr(cuda_memory, "runtime_of_cuda_python", lambda: module)
    monkeypatch.setattr(cuda_memory, "PrimaryContext", Primary)
    return module


def test_a_gpu_that_gives_pycuda_no_context(
    pycuda: Pycuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("init", "retain_primary_context"):
        pycuda.failing = {call: LogicError(f"{call} failed: device is busy")}
        with pytest.raises(BackendUnavailable, match=rf"{call} failed: device is busy.*nvidia-smi"):
            find_memory()
    monkeypatch.setattr(cuda_memory, "runtime_of_cuda_python", CudaPython)
    monkeypatch.setattr(cuda_memory, "PrimaryContext", Primary)
    assert find_memory().name == "cuda-python"
    pycuda.failing = {}
    assert find_memory().name == "pycuda"


def test_calls_of_pycuda_that_fail(pycuda: Pycuda) -> None:
    memory = find_memory("pycuda")
    with memory.current():
        stream, buffer = memory.stream(), memory.buffer(16)
        calls = {
            "Stream": memory.stream,
            "synchronize": stream.wait,
            "mem_alloc": lambda: memory.buffer(16),
            "mem_get_info": memory.free_bytes,
            "memcpy_htod_async": lambda: buffer.upload(8, stream),
            "memcpy_dtoh_async": lambda: buffer.download(8, stream),
            "free": buffer.free,
        }
        for name, call in calls.items():
            pycuda.failing = {name: LogicError(f"{name} failed: an illegal memory access")}
            with pytest.raises(CudaError, match=f"pycuda: {name} failed: an illegal"):
                call()
        pycuda.failing = {}
    for name in ("push", "pop"):
        pycuda.failing = {name: LogicError(f"{name} failed")}
        with pytest.raises(CudaError, match=f"{name} failed"), memory.current():
            assert name == "pop"


@pytest.mark.parametrize("kind", [MemoryFull, MemoryError])
def test_pycuda_out_of_memory(pycuda: Pycuda, kind: type[Exception]) -> None:
    memory = find_memory("pycuda")
    for name in ("mem_alloc", "pagelocked_empty"):
        pycuda.failing = {name: kind("out of memory")}
        with pytest.raises(InferenceError, match=r"a buffer needs 8\.0 MiB; 3\.0 of 4096\.0 MiB"):
            memory.buffer(8 << 20)
    assert pycuda.freed == 1  # the GPU's side of the second
    pycuda.failing = {"Stream": kind("out of memory")}
    with pytest.raises(OutOfMemory, match="pycuda: out of memory"):
        memory.stream()


def test_calls_of_cuda_python_that_fail(cuda_python: CudaPython) -> None:
    memory = find_memory("cuda-python")
    cuda_python.status = Status.cudaErrorLaunchFailure
    for call in (memory.stream, lambda: memory.buffer(16)):
        with pytest.raises(CudaError, match=r"some words \(cudaErrorLaunchFailure\)") as caught:
            call()
        assert not isinstance(caught.value, OutOfMemory)
    cuda_python.status = Status.cudaErrorMemoryAllocation
    with pytest.raises(OutOfMemory, match="cudaErrorMemoryAllocation"):
        memory.stream()
    with pytest.raises(InferenceError, match=r"a buffer needs 8\.0 MiB; 3\.0 of 4096\.0 MiB"):
        memory.buffer(8 << 20)
    assert cuda_python.freed == 2
    assert checked(cuda_python, (Status.cudaSuccess, 3, 4)) == (3, 4)
