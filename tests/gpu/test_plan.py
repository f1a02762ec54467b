"""Plans on a real GPU: right answers from any thread, beside PyTorch, without leaks."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.bundle import Bundle, digest
from svfap_edge.errors import BackendUnavailable, EngineIncompatible, InferenceError
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.runtimes import Engine, load_backend
from svfap_edge.runtimes.cuda_driver import Gpu
from svfap_edge.runtimes.trt.backend import TensorRTBackend, load
from svfap_edge.runtimes.trt.cuda_memory import find_memory

from .conftest import PLAN

pytestmark = pytest.mark.gpu

HALF = 2e-2
"""Largest difference of half precision from float32, as a share of the largest logit."""


def open_plan(bundle: Bundle, **options: object) -> TensorRTBackend:
    return load(bundle.verify(PLAN), bundle, bundle.artifact(PLAN), **options)  # type: ignore[arg-type]


@pytest.fixture
def plan(planned: Bundle) -> Iterator[TensorRTBackend]:
    with closing(open_plan(planned)) as backend:
        yield backend


@pytest.fixture
def clips(planned: Bundle) -> np.ndarray:
    return synthetic_clips(planned.manifest.clip, 20)


@pytest.fixture
def reference(planned: Bundle, clips: np.ndarray) -> np.ndarray:
    """Logits of fp32.onnx by ONNX Runtime on the CPU."""
    with closing(load_backend(planned, "fp32.onnx", "onnxruntime")) as backend:
        return backend.run(clips).logits


def close_to(found: np.ndarray, reference: np.ndarray, share: float = HALF) -> bool:
    return bool(np.abs(found - reference).max() <= share * np.abs(reference).max())


def test_same_answers_as_onnx_runtime(
    plan: TensorRTBackend, clips: np.ndarray, reference: np.ndarray
) -> None:
    found = plan.run(clips).logits
    assert found.dtype == np.float32
    assert close_to(found, reference)
    assert plan.spec.precision == "f16"


def test_every_batch_size(plan: TensorRTBackend, clips: np.ndarray, reference: np.ndarray) -> None:
    for _ in range(2):  # the second time as CUDA graphs
        for count in range(1, len(clips) + 1):
            assert close_to(plan.run(clips[:count]).logits, reference[:count]), count


def test_auto_chooses_the_plan(planned: Bundle) -> None:
    with Engine.load(planned) as engine:
        assert (engine.spec.artifact, engine.spec.engine) == (PLAN, "tensorrt")


def test_cuda_graphs_change_nothing(planned: Bundle, clips: np.ndarray) -> None:
    with (
        closing(open_plan(planned, cuda_graphs=True)) as with_graphs,
        closing(open_plan(planned, cuda_graphs=False)) as without,
    ):
        for count in (1, 3, 1, 8, 3, 1):
            found = with_graphs.run(clips[:count]).logits
            np.testing.assert_allclose(found, without.run(clips[:count]).logits, atol=1e-3)
        assert without.cuda_graphs["batches"] == []
        if planned.artifact(PLAN).needs["flavour"] == "tensorrt":
            assert with_graphs.cuda_graphs == {"batches": [1, 3, 8], "failed": ""}


@pytest.mark.parametrize("binding", ["pycuda", "cuda-python"])
def test_each_binding(
    planned: Bundle, clips: np.ndarray, reference: np.ndarray, binding: str
) -> None:
    try:
        find_memory(binding).close()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with closing(open_plan(planned, binding=binding)) as backend:
        assert backend.binding == binding
        for _ in range(3):
            assert close_to(backend.run(clips).logits, reference)


def in_threads(count: int, work: object) -> list[BaseException]:
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return failures


def test_eight_threads_and_two_engines(planned: Bundle, clips: np.ndarray) -> None:
    """Identical to serial running."""
    with closing(open_plan(planned)) as one, closing(open_plan(planned)) as two:
        want = [one.run(clips[i : i + 1 + i % 3]).logits for i in range(8)]

        def work(index: int) -> None:
            engine = (one, two)[index % 2]
            for _ in range(100):
                found = engine.run(clips[index : index + 1 + index % 3]).logits
                np.testing.assert_allclose(found, want[index], atol=1e-3)

        assert in_threads(8, work) == []


def test_beside_pytorch(plan: TensorRTBackend, clips: np.ndarray, reference: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} has no CUDA here")
    matrix = torch.eye(512, device="cuda")

    def work(index: int) -> None:
        for _ in range(50):
            if index % 2:
                assert float((matrix @ matrix).sum()) == 512
            else:
                assert close_to(plan.run(clips).logits, reference)

    assert in_threads(4, work) == []
    plan.close()
    assert float((matrix @ matrix).sum()) == 512  # its context has survived ours


def test_nothing_is_allocated_per_call(plan: TensorRTBackend, clips: np.ndarray) -> None:
    for count in (1, 4, 8):
        plan.run(clips[:count])
    memory = find_memory()
    with memory.current():
        before, _ = memory.free_bytes()
    resident = _resident()
    for index in range(1000):
        plan.run(clips[: (1, 4, 8)[index % 3]])
    with memory.current():
        after, _ = memory.free_bytes()
    memory.close()
    assert before - after <= 1 << 20
    assert _resident() - resident <= 8 << 20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_loading_and_closing_leaks_nothing(planned: Bundle, clips: np.ndarray) -> None:
    memory = find_memory()
    free = []
    for _ in range(6):
        with closing(open_plan(planned)) as backend:
            backend.run(clips)
        with memory.current():
            free.append(memory.free_bytes()[0])
    memory.close()
    assert free[1] - free[-1] <= 8 << 20


def test_out_of_memory(planned: Bundle, own_memory: None) -> None:
    memory = find_memory()
    with memory.current():
        held = []
        size = memory.free_bytes()[0]
        while size > 1 << 20:  # until nothing worth having is left
            try:
                held.append(memory.buffer(size, pinned=False))
            except InferenceError:
                size //= 2
    try:
        with pytest.raises((InferenceError, EngineIncompatible), match=r"(?i)memory"):
            open_plan(planned)
    finally:
        with memory.current():
            for buffer in held:
                buffer.free()
        memory.close()
    with closing(open_plan(planned)):  # all is well again
        pass


def altered(planned: Bundle, folder: Path, content: bytes | None, **needs: object) -> Bundle:
    shutil.copytree(planned.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (entry,) = (a for a in manifest["artifacts"] if a["name"] == PLAN)
    entry["needs"].update(needs)
    if content is not None:
        path = folder / entry["files"][0]["file"]
        path.write_bytes(content)
        entry["files"][0].update(sha256=digest(path), bytes=len(content))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_plan_for_another_gpu(planned: Bundle, gpu: Gpu, tmp_path: Path) -> None:
    bundle = altered(planned, tmp_path / "b", None, compute_capability=["3.5"])
    with pytest.raises(EngineIncompatible, match=f"3.5; here is {gpu.capability}.*Build it again"):
        Engine.load(bundle, artifact=PLAN)
    with Engine.load(bundle) as engine:
        assert engine.spec.artifact == "fp32.onnx"


def test_plan_that_is_cut_short(planned: Bundle, tmp_path: Path) -> None:
    content = planned.path_of(PLAN).read_bytes()
    bundle = altered(planned, tmp_path / "b", content[: len(content) // 2])
    with pytest.raises(EngineIncompatible, match="does not take"):
        Engine.load(bundle, artifact=PLAN)
