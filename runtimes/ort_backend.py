"""ONNX Runtime on the CPU, or on another execution provider where one is asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.errors import SvfapError
from svfap_edge.machine import usable_cores

from .admission import admit
from .backend import (
    INPUT_NAME,
    Mode,
    ModelSpec,
    Outputs,
    Read,
    artifact_error,
    check_clips,
    check_model,
    closed_error,
    joined,
)
from .ort_providers import effective_precision, open_session


class OrtBackend:
    """A session of one execution provider with all graph optimizations on. In throughput mode the
    session has no threads of its own, and `workers` threads each run it on one clip."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, workers: int = 0) -> None:
        """
        Args:
            workers: Number of threads in throughput mode; 0 for latency mode.
        """
        self.spec = spec
        self._session: ort.InferenceSession | None = session
        self._pool = ThreadPoolExecutor(workers, "svfap-edge-onnxruntime") if workers else None

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        if self._session is None:
            raise closed_error(self.spec)
        session = self._session

        def run(part: np.ndarray) -> Outputs:
            return Outputs(*session.run(None, {INPUT_NAME: part}))

        if self._pool is None or len(clips) == 1:
            return run(clips)
        return joined(list(self._pool.map(run, np.split(clips, len(clips)))))

    def close(self) -> None:
        self._session = None
        if self._pool is not None:
            self._pool.shutdown()


def load(
    read: Read,
    bundle: Bundle,
    artifact: Artifact,
    threads: int | None,
    mode: Mode = "latency",
    provider: str = "cpu",
) -> OrtBackend:
    """Open a session for an artifact by a provider, a key of `PROVIDERS`; see `EngineEntry.module`
    and, for the errors of providers, `open_session`."""
    contents = read()
    admit(artifact, contents)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Nodes always run one after the other (inter_op_num_threads is for ORT_PARALLEL): a clip of
    # this model has no branches, so all threads share the work of one node, or of a batch.
    apart = mode == "throughput" and provider == "cpu"
    if apart or threads:
        options.intra_op_num_threads = 1 if apart else threads
    clip = bundle.manifest.clip
    try:
        session = open_session(bytes(contents[0]), artifact, clip, options, provider)
    except SvfapError:
        raise
    except Exception as error:
        raise artifact_error("ONNX Runtime", artifact, error) from error
    source = session.get_inputs()[0]
    shape = tuple(d if isinstance(d, int) else None for d in source.shape)
    widths = [o.shape[-1] if isinstance(o.shape[-1], int) else None for o in session.get_outputs()]
    outputs, features = check_model(bundle, artifact, shape, source.type, widths)
    name = "onnxruntime" if provider == "cpu" else f"onnxruntime:{provider}"
    precision = effective_precision(artifact, provider)
    spec = ModelSpec(clip, outputs, features, artifact.name, name, precision)
    return OrtBackend(session, spec, (threads or usable_cores()) if apart else 0)
