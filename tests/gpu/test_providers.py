"""Execution providers of ONNX Runtime on a real GPU."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.errors import BackendUnavailable
from svfap_edge.export.calibration import synthetic_clips
from svfap_edge.runtimes import load_backend
from svfap_edge.runtimes.cuda_driver import Gpu
from svfap_edge.runtimes.ort_providers import available_providers

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("word", ["cuda", "tensorrt", "nvtensorrtrtx"])
def test_same_answers_as_on_the_cpu(tiny: Bundle, gpu: Gpu, word: str) -> None:
    if word not in available_providers():
        pytest.skip(f"ONNX Runtime here has only: {', '.join(available_providers())}")
    clips = synthetic_clips(tiny.manifest.clip, 8)
    with closing(load_backend(tiny, "fp32.onnx", "onnxruntime")) as backend:
        reference = backend.run(clips).logits
    try:
        backend = load_backend(tiny, "fp32.onnx", f"onnxruntime:{word}")
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with closing(backend):
        assert backend.spec.engine == f"onnxruntime:{word}"
        for count in (1, 8, 3):
            found = backend.run(clips[:count]).logits
            difference = np.abs(found - reference[:count]).max()
            assert difference <= 5e-3 * np.abs(reference).max()
