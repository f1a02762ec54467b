"""ONNX Runtime, on the CPU unless another execution provider is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import SvfapError

from .backend import INPUT_NAME, ModelSpec, Outputs, artifact_error, check_clips, check_model
from .ort_providers import effective_precision, open_session


class OrtBackend:
    """A session of one execution provider, all graph optimizations on."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec) -> None:
        self.spec = spec
        self._session: ort.InferenceSession | None = session

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        if self._session is None:
            raise ValueError("The backend is closed.")
        results = self._session.run(None, {INPUT_NAME: clips})
        return Outputs(results[0], results[1] if self.spec.features else None)

    def close(self) -> None:
        self._session = None


def load(
    path: Path, bundle: Bundle, artifact: Artifact, threads: int | None, provider: str = "cpu"
) -> OrtBackend:
    """Raises BackendUnavailable if ONNX Runtime does not have the provider; see `open_session`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
    clip = bundle.manifest.clip
    try:
        session = open_session(path, artifact, clip, options, provider)
    except SvfapError:
        raise
    except Exception as error:
        raise artifact_error("ONNX Runtime", artifact, error) from error
    source = session.get_inputs()[0]
    shape = tuple(d if isinstance(d, int) else None for d in source.shape)
    widths = [o.shape[-1] if isinstance(o.shape[-1], int) else None for o in session.get_outputs()]
    outputs, features = check_model(path, bundle, shape, source.type, widths)
    name = "onnxruntime" if provider == "cpu" else f"onnxruntime:{provider}"
    precision = effective_precision(artifact, provider)
    spec = ModelSpec(clip, outputs, features, artifact.name, name, precision)
    return OrtBackend(session, spec)
