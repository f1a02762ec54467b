"""The part of the TensorRT runtime between the library and the driver: batches, threads, graphs.

Runs everywhere: GPU memory, streams and execution contexts are imitated in host memory, with their
rules (nothing runs before the stream is waited for, a batch outside the profile is refused). What
the real ones do is tested by tests/gpu.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import FrameError, InferenceError
from svfap_edge.runtimes.backend import ModelSpec
from svfap_edge.runtimes.cuda_driver import CudaError
from svfap_edge.runtimes.trt import lanes as tensorrt_lanes
from svfap_edge.runtimes.trt.backend import TensorRTBackend
from svfap_edge.runtimes.trt.lanes import Lanes
from svfap_edge.runtimes.trt.library import TensorRT
from svfap_edge.runtimes.trt.plan import Tensors

CLIP = ClipSpec(2, 0.2, 4)
WIDTHS = {"logits": 2, "features": 3}


class Machine:
    """Addresses to memory, and what was asked of it."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.room = room
        self.current = threading.local()
        self.allocations = 0
        self.captures = True
        self.capture_error: Exception = CudaError(
            "operation not permitted when stream is capturing"
        )
        self.streams = 1 << 30  # so many more can be made


class Stream:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.pending, self.handle = machine, [], id(self)
        STREAMS[self.handle] = self

    def wait(self) -> None:
        for work in self.pending:
            work()
        self.pending.clear()

    def free(self) -> None:
        STREAMS.pop(self.handle)


STREAMS: dict[int, Stream] = {}


class Buffer:
    def __init__(self, machine: Machine, size: int, pinned: bool) -> None:
        self.machine, self.size = machine, size
        self.device = np.full(size, 77, np.uint8)
        self.host = np.full(size if pinned else 0, 99, np.uint8)
        self.address = id(self)
        machine.memory[self.address] = self.device

    def upload(self, size: int, stream: Stream) -> None:
        stream.pending.append(lambda: np.copyto(self.device[:size], self.host[:size]))

    def download(self, size: int, stream: Stream) -> None:
        stream.pending.append(lambda: np.copyto(self.host[:size], self.device[:size]))

    def free(self) -> None:
        self.machine.room += self.size
        del self.machine.memory[self.address]


class Memory:
    name = "imitated"
    closed = False

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @contextmanager
    def current(self) -> Iterator[None]:
        assert not self.closed
        self.machine.current.depth = getattr(self.machine.current, "depth", 0) + 1
        try:
            yield
        finally:
            self.machine.current.depth -= 1

    def stream(self) -> Any:
        if not self.machine.streams:
            raise MemoryError
        self.machine.streams -= 1
        return Stream(self.machine)

    def buffer(self, size: int, *, pinned: bool = True) -> Any:
        assert self.machine.current.depth
        if size > self.machine.room:
            raise InferenceError("Out of GPU memory")
        self.machine.room -= size
        self.machine.allocations += 1
        return Buffer(self.machine, size, pinned)

    def free_bytes(self) -> tuple[int, int]:
        return self.machine.room, 1 << 30

    def close(self) -> None:
        assert not getattr(self.machine.current, "depth", 0)
        self.closed = True


class Context:
    """Logits (mean, -mean) of a clip, features 3 times its first byte."""

    def __init__(self, machine: Machine, batch: tuple[int, int]) -> None:
        self.machine, self.batch, self.address, self.count = machine, batch, {}, 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.address[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count = shape[0]
        return self.batch[0] <= self.count <= self.batch[1]

    def execute_async_v3(self, handle: int) -> bool:
        count, memory = self.count, self.machine.memory

        def work() -> None:
            assert self.machine.current.depth
            clips = memory[self.address["clips"]][: count * 96].reshape(count, 96)
            mean = clips.mean(1, dtype=np.float32)
            out = memory[self.address["logits"]].view(np.float32)
            out[: count * 2] = np.stack([mean, -mean], 1).ravel()
            out = memory[self.address["features"]].view(np.float32)
            out[: count * 3] = np.repeat(clips[:, 0].astype(np.float32), 3)

        STREAMS[handle].pending.append(work)
        return True


class Contexts:
    scratch = 1000
    closed = False

    def __init__(self, machine: Machine, batch: tuple[int, int], captures: bool) -> None:
        self.machine, self.batch, self.captures, self.made = machine, batch, captures, 0

    def make(self, memory: Memory, scratch: Any, stream: int) -> Context:
        assert scratch.host.size == 0 and scratch.size == self.scratch
        self.made += 1
        return Context(self.machine, self.batch)

    def close(self) -> None:
        self.closed = True


class Graph:
    """What is put on the stream while it is made is kept, and put there again by `launch`."""

    def __init__(self, handle: int, record: Callable[[], None]) -> None:
        self.stream = STREAMS[handle]
        assert not self.stream.pending
        record()
        self.work, self.stream.pending = self.stream.pending, []
        if not self.stream.machine.captures:
            raise self.stream.machine.capture_error

    def launch(self) -> None:
        self.stream.pending.extend(self.work)

    def free(self) -> None:
        self.work = []


class Rig:
    def __init__(self, batch: tuple[int, int], graphs: bool = True, room: int = 1 << 30) -> None:
        self.machine = Machine(room)
        self.memory = Memory(self.machine)
        self.contexts = Contexts(self.machine, batch, graphs)
        tensors = Tensors((None, *CLIP.shape), "uint8", WIDTHS, batch)
        spec = ModelSpec(CLIP, 2, 3, "fp16.tensorrt", "tensorrt", "f16")
        library: Any = TensorRT("TensorRT", "10.3.0", None)
        lanes: Any = Lanes(self.contexts, tensors, self.memory, library)  # type: ignore[arg-type]
        self.backend = TensorRTBackend(lanes, tensors, spec, "imitated")

    def check(self, count: int, seed: int = 0) -> None:
        clips = np.random.default_rng(seed).integers(0, 256, (count, *CLIP.shape), np.uint8)
        outputs = self.backend.run(clips)
        mean = clips.reshape(count, -1).mean(1, dtype=np.float32)
        np.testing.assert_allclose(outputs.logits, np.stack([mean, -mean], 1))
        assert outputs.features is not None
        first = clips.reshape(count, -1)[:, :1].astype(np.float32)
        np.testing.assert_array_equal(outputs.features, np.repeat(first, 3, 1))


@pytest.fixture(autouse=True)
def _imitated_graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tensorrt_lanes, "CudaGraph", Graph)
    yield
    STREAMS.clear()


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("batch", [(1, 8), (1, 1), (4, 4), (2, 3)])
def test_any_number_of_clips(batch: tuple[int, int], graphs: bool) -> None:
    """More than the plan takes are run in turns, fewer are filled up."""
    rig = Rig(batch, graphs)
    for seed, count in enumerate((1, 3, 8, 17, 1, 3, 2)):
        rig.check(count, seed)
    assert bool(rig.backend.cuda_graphs["batches"]) == graphs


def test_nothing_is_allocated_after_the_first_run_of_a_size() -> None:
    rig = Rig((1, 4))
    for count in (1, 2, 3, 4):
        rig.check(count)
    before, made = rig.machine.allocations, rig.contexts.made
    for seed in range(50):
        rig.check(1 + seed % 4, seed)
    assert (rig.machine.allocations, rig.contexts.made) == (before, made)
    assert rig.backend.cuda_graphs == {"batches": [1, 2, 3, 4], "failed": ""}


def test_graphs_are_bounded() -> None:
    rig = Rig((1, 16))
    for count in range(1, 17):
        rig.check(count)
    assert len(rig.backend.cuda_graphs["batches"]) == tensorrt_lanes.MAX_GRAPHS  # type: ignore[arg-type]


class LogicError(Exception):
    """As a binding has of its own."""


@pytest.mark.parametrize("kind", [CudaError, LogicError, MemoryError])
def test_a_plan_that_cannot_be_captured_runs_without(kind: type[Exception]) -> None:
    rig = Rig((1, 4))
    rig.machine.captures = False
    rig.machine.capture_error = kind("not permitted")
    rig.check(2)
    rig.check(2, 1)
    assert rig.backend.cuda_graphs["batches"] == []
    assert rig.backend.cuda_graphs["failed"] == "not permitted"
    rig.backend.close()
    assert rig.machine.memory == {} and rig.memory.closed


def test_results_outlive_the_next_run_and_strides_are_followed() -> None:
    rig = Rig((1, 4))
    clips = np.random.default_rng(0).integers(0, 256, (4, *CLIP.shape), np.uint8)
    kept = rig.backend.run(clips[::2]).logits
    copy = kept.copy()
    rig.check(2, 5)
    np.testing.assert_array_equal(kept, copy)
    np.testing.assert_array_equal(rig.backend.run(clips[::2].copy()).logits, copy)


def test_threads_share_lanes_and_get_their_own_answers() -> None:
    rig = Rig((1, 3))
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(20):
                rig.check(1 + (seed + turn) % 5, 100 * seed + turn)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(STREAMS) <= tensorrt_lanes.MAX_LANES
    rig.backend.close()
    assert rig.machine.memory == {} and not STREAMS
    assert rig.memory.closed and rig.contexts.closed


def test_no_room_for_the_first_lane_leaves_nothing() -> None:
    rig = Rig((1, 4), room=1100)
    with pytest.raises(InferenceError, match="Out of GPU memory"):
        rig.check(1)
    assert rig.machine.memory == {} and rig.machine.room == 1100 and not STREAMS


def check_turns(rig: Rig) -> None:
    """With one lane in use a second thread waits for it, and then runs."""
    rig.check(1)
    with rig.backend._lanes.one():  # busy
        done = threading.Event()
        thread = threading.Thread(target=lambda: (rig.check(2), done.set()))
        thread.start()
        assert not done.wait(0.1)
    thread.join(10)
    assert done.is_set()


def test_without_room_for_a_second_lane_threads_take_turns() -> None:
    check_turns(Rig((1, 4), room=2000))


def test_no_stream_for_the_first_lane_is_an_error_of_this_sdk() -> None:
    rig = Rig((1, 4))
    rig.machine.streams = 0
    with pytest.raises(InferenceError, match=r"Out of GPU memory.*1024\.0 MiB are free"):
        rig.check(1)
    rig.machine.streams = 1
    rig.check(1)


def test_without_a_stream_for_a_second_lane_threads_take_turns() -> None:
    rig = Rig((1, 4))
    rig.machine.streams = 1
    check_turns(rig)


def test_closed_while_a_run_is_under_way() -> None:
    rig = Rig((1, 4))
    with rig.backend._lanes.one() as lane:
        rig.backend.close()
        assert rig.machine.memory  # the run may end
        with pytest.raises(ValueError, match="closed"):
            rig.check(1)
        lane.run(np.zeros((1, *CLIP.shape), np.uint8))
    assert rig.machine.memory == {} and rig.memory.closed
    rig.backend.close()
    with pytest.raises(ValueError, match="closed"):
        rig.check(1)


def test_threads_that_wait_hear_of_the_end() -> None:
    rig = Rig((1, 4), room=2000)
    heard: list[str] = []

    def work() -> None:
        try:
            rig.check(1)
        except ValueError as error:
            heard.append(str(error))

    with rig.backend._lanes.one():
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        rig.backend.close()
        for thread in threads:
            thread.join(10)
    closed = "The TensorRT backend is closed; load the model again with Engine.load."
    assert heard == [closed] * 3
    assert rig.machine.memory == {} and rig.memory.closed


def test_wrong_clips_are_refused() -> None:
    with pytest.raises(FrameError, match="uint8 RGB"):
        Rig((1, 4)).backend.run(np.zeros((1, 2, 4, 4), np.uint8))


def test_a_forgotten_backend_frees_its_memory() -> None:
    rig = Rig((1, 4))
    rig.check(1)
    del rig.backend
    assert rig.machine.memory == {} and rig.memory.closed
