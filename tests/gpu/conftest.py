"""The GPU, and a tiny bundle with a plan built on this machine by each TensorRT that is here."""

from __future__ import annotations

import platform

import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.errors import BackendUnavailable, SvfapError
from svfap_edge.runtimes.cuda_driver import Gpu, find_gpu
from svfap_edge.runtimes.trt.library import find_library
from tests.models import tiny_bundle

PLAN = "fp16.tensorrt"


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return find_gpu()
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=["tensorrt", "rtx"])
def planned(
    request: pytest.FixtureRequest, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """fp32.onnx and fp16.tensorrt of the tiny model."""
    try:
        find_library(request.param)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    capabilities = (gpu.capability,) if request.param == "rtx" else ()
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    try:
        return tiny_bundle(folder, artifacts=("fp32.onnx", PLAN), compute_capabilities=capabilities)
    except SvfapError as error:
        if "compute capability" in str(error):
            pytest.skip(f"{gpu.name} is not supported: {error}")
        raise


@pytest.fixture
def own_memory(gpu: Gpu) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("the GPU shares its memory with the system, which filling it would stop")
