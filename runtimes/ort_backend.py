"""ONNX Runtime, on the CPU unless another execution provider is asked for."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import SvfapError

from .backend import INPUT_NAME, Mode, ModelSpec, Outputs, artifact_error, check_clips, check_model
from .ort_providers import effective_precision, open_session


class OrtBackend:
    """A session of one execution provider, all graph optimizations on. In throughput mode the
    session has no threads of its own, and `workers` threads each run it on one clip."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, workers: int = 0) -> None:
        """
        Args:
            workers: Threads in throughput mode; 0 for latency mode.
        """
        self.spec = spec
        self._session: ort.InferenceSession | None = session
        self._pool = ThreadPoolExecutor(workers, "svfap-edge-onnxruntime") if workers else None

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        if self._session is None:
            raise ValueError("The backend is closed.")
        session = self._session

        def run(part: np.ndarray) -> list[np.ndarray]:
            found: list[np.ndarray] = session.run(None, {INPUT_NAME: part})
            return found

        if self._pool is None or len(clips) == 1:
            results = run(clips)
        else:
            parts = list(self._pool.map(run, np.split(clips, len(clips))))
            results = [np.concatenate(output) for output in zip(*parts, strict=True)]
        return Outputs(results[0], results[1] if self.spec.features else None)

    def close(self) -> None:
        self._session = None
        if self._pool is not None:
            self._pool.shutdown()


def load(
    path: Path,
    bundle: Bundle,
    artifact: Artifact,
    threads: int | None,
    provider: str = "cpu",
    mode: Mode = "latency",
) -> OrtBackend:
    """Raises BackendUnavailable if ONNX Runtime does not have the provider; see `open_session`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Nodes always run one after the other (inter_op_num_threads is for ORT_PARALLEL): a clip of
    # this model has no branches, so what threads there are share the work of a node, or of a batch.
    apart = mode == "throughput" and provider == "cpu"
    if apart or threads:
        options.intra_op_num_threads = 1 if apart else threads
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
    return OrtBackend(session, spec, (threads or usable_cores()) if apart else 0)


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
