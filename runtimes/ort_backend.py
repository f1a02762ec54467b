"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from svfap_edge.bundle import Artifact, Bundle

from .backend import INPUT_NAME, ModelSpec, Outputs, artifact_error, check_clips, check_model


class OrtBackend:
    """A session of the CPU execution provider, all graph optimizations on."""

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


def load(path: Path, bundle: Bundle, artifact: Artifact, threads: int | None) -> OrtBackend:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise artifact_error("ONNX Runtime", artifact, error) from error
    source = session.get_inputs()[0]
    shape = tuple(d if isinstance(d, int) else None for d in source.shape)
    widths = [o.shape[-1] if isinstance(o.shape[-1], int) else None for o in session.get_outputs()]
    outputs, features = check_model(path, bundle, shape, source.type, widths)
    # The CPU provider computes in the types of the graph, so the file's precision is the real one.
    precision = {"fp32": "f32", "fp16": "f16"}.get(artifact.precision, artifact.precision)
    spec = ModelSpec(
        bundle.manifest.clip, outputs, features, artifact.name, "onnxruntime", precision
    )
    return OrtBackend(session, spec)
