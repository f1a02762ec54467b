"""TensorRT 10.x and 11.x and TensorRT for RTX 1.x, on the first NVIDIA GPU."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.runtimes.backend import ModelSpec, Outputs, check_clips, check_model

from .cuda_memory import find_memory
from .lanes import Lanes
from .plan import Contexts, Tensors, deserialize, require, tensors_of

SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "int8"}


class TensorRTBackend:
    """A plan on the GPU. `run` may be called from any number of threads."""

    def __init__(self, lanes: Lanes, tensors: Tensors, spec: ModelSpec, binding: str) -> None:
        self.spec = spec
        self.batch = tensors.batch
        """Fewest and most clips in one run of the plan; more are run in turns."""
        self.binding = binding
        """"pycuda" or "cuda-python"."""
        self._lanes = lanes
        self._close = weakref.finalize(self, lanes.close)

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        most = self.batch[1]
        with self._lanes.one() as lane:
            parts = [lane.run(clips[at : at + most]) for at in range(0, len(clips), most)]
        joined = [np.concatenate(part) if len(part) > 1 else part[0]
                  for part in zip(*parts, strict=True)]  # fmt: skip
        return Outputs(joined[0], joined[1] if self.spec.features else None)

    @property
    def cuda_graphs(self) -> dict[str, object]:
        """Batch sizes that have a CUDA graph, and why there is none where there is not.

        TensorRT for RTX makes its own, which cannot be asked.
        """
        lanes = self._lanes.idle
        sizes = sorted({size for lane in lanes for size in lane.graphs})
        return {"batches": sizes, "failed": next((x.uncaptured for x in lanes), "")}

    def close(self) -> None:
        self._close()


def load(
    path: Path, bundle: Bundle, artifact: Artifact, threads: int | None = None, *,
    cuda_graphs: bool | None = None, binding: str = "auto",
) -> TensorRTBackend:  # fmt: skip
    """Check what the plan needs, read it and run it once.

    Args:
        threads: Not used; the GPU computes.
        cuda_graphs: Whether to launch runs as CUDA graphs; None: unless the environment says
            SVFAP_EDGE_CUDA_GRAPHS=off.
        binding: See `find_memory`.

    Raises:
        BackendUnavailable: no library, driver, GPU or CUDA binding.
        EngineIncompatible: built for something else, or TensorRT refuses it.
        BundleError: its tensors are not those of the manifest.
        InferenceError: out of memory, or it does not run.
    """
    library, gpu = require(artifact)
    if cuda_graphs is None:
        cuda_graphs = os.environ.get("SVFAP_EDGE_CUDA_GRAPHS", "").lower() not in ("off", "0")
    memory = find_memory(binding)
    try:
        with memory.current():
            engine = deserialize(path, artifact, library)
            tensors = tensors_of(engine, library.trt, path)
            outputs, features = check_model(
                path, bundle, tensors.shape, tensors.type, list(tensors.widths.values())
            )
            contexts = Contexts(engine, library, gpu, artifact.files[0].sha256, cuda_graphs)
            del engine
    except BaseException:
        memory.close()
        raise
    clip, precision = bundle.manifest.clip, precision_of(bundle, artifact)
    spec = ModelSpec(clip, outputs, features, artifact.name, "tensorrt", precision)
    backend = TensorRTBackend(Lanes(contexts, tensors, memory, library), tensors, spec, memory.name)
    try:
        backend.run(np.zeros((1, *clip.shape), np.uint8))
    except BaseException:
        backend.close()
        raise
    return backend


def precision_of(bundle: Bundle, artifact: Artifact) -> str:
    """What a plan computes in: counted in the strongly typed network it was built from."""
    layers = bundle.manifest.quality.get(artifact.name, {}).get("layers", {})
    counts = {short: layers[name] for name, short in SHORT.items() if layers.get(name)}
    whole = ["int8"] if counts.pop("int8", 0) else []
    most = [max(counts, key=lambda kind: counts[kind])] if counts else []
    return "+".join(whole + most) or "unknown"
