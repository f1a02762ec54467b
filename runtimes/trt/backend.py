"""The backend of TensorRT 10.x and 11.x and of TensorRT for RTX 1.x, on the first NVIDIA GPU."""

from __future__ import annotations

import os
import weakref

import numpy as np

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.runtimes.backend import (
    Mode,
    ModelSpec,
    Outputs,
    Read,
    check_clips,
    check_model,
    joined,
)

from .cuda_memory import find_memory
from .lanes import Lanes
from .plan import Contexts, Tensors, deserialize, require, tensors_of

SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "int8"}
"""Short names of TensorRT's number types, as `ModelSpec.precision` uses them."""


class TensorRTBackend:
    """A plan on the GPU. `run` may be called from any number of threads.

    Attributes:
        spec: What the plan reads and returns.
        batch: Fewest and most clips in one run of the plan. More clips are run in turns.
        binding: Python binding of CUDA in use, "pycuda" or "cuda-python".
    """

    def __init__(self, lanes: Lanes, tensors: Tensors, spec: ModelSpec, binding: str) -> None:
        self.spec = spec
        self.batch = tensors.batch
        self.binding = binding
        self._lanes = lanes
        self._close = weakref.finalize(self, lanes.close)

    def run(self, clips: np.ndarray) -> Outputs:
        check_clips(clips, self.spec.clip)
        most = self.batch[1]
        with self._lanes.one() as lane:
            parts = [lane.run(clips[at : at + most]) for at in range(0, len(clips), most)]
        return joined(parts)

    @property
    def cuda_graphs(self) -> dict[str, object]:
        """Which runs are CUDA graphs: "batches" lists the batch sizes that have one, and "failed"
        says why there are none ("" if nothing failed).

        TensorRT for RTX makes graphs of its own, which cannot be listed.
        """
        lanes = self._lanes.idle
        sizes = sorted({size for lane in lanes for size in lane.graphs})
        return {"batches": sizes, "failed": next((x.uncaptured for x in lanes), "")}

    def close(self) -> None:
        self._close()


def load(
    read: Read, bundle: Bundle, artifact: Artifact, threads: int | None = None,
    mode: Mode = "latency", *, cuda_graphs: bool | None = None, binding: str = "auto",
) -> TensorRTBackend:  # fmt: skip
    """Check what the plan needs, read it and run it once; see `EngineEntry.module`.

    Args:
        threads, mode: Not used, because the GPU computes.
        cuda_graphs: Whether to launch runs as CUDA graphs. None does so unless the environment says
            SVFAP_EDGE_CUDA_GRAPHS=off.
        binding: Python binding of CUDA: "pycuda", "cuda-python", or "auto" for the first of them
            that is installed.
    """
    library, gpu = require(artifact)
    if cuda_graphs is None:
        cuda_graphs = os.environ.get("SVFAP_EDGE_CUDA_GRAPHS", "").lower() not in ("off", "0")
    memory = find_memory(binding)
    try:
        with memory.current():
            engine = deserialize(bytes(read()[0]), artifact, library)
            tensors = tensors_of(engine, library.trt, bundle.path_of(artifact.name))
            outputs, features = check_model(
                bundle, artifact, tensors.shape, tensors.type, list(tensors.widths.values())
            )
            contexts = Contexts(engine, library, gpu, artifact, cuda_graphs)
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
    """The number type that a plan computes in, by the layers of the strongly typed network from
    which it was built: the most frequent one, after "int8" if there is any."""
    layers = bundle.manifest.quality.get(artifact.name, {}).get("layers", {})
    counts = {short: layers[name] for name, short in SHORT.items() if layers.get(name)}
    whole = ["int8"] if counts.pop("int8", 0) else []
    most = [max(counts, key=lambda kind: counts[kind])] if counts else []
    return "+".join(whole + most) or "unknown"
