"""The interface of every engine, and checks of what goes into one and comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from svfap_edge.bundle import Artifact, Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, ConfigError, FrameError, InferenceError

INPUT_NAME = "clips"
"""Name of the input of every exported model."""

Mode = Literal["latency", "throughput"]
"""How an engine uses its CPU threads: all of them for one batch, or one for each clip."""


class Outputs(NamedTuple):
    """What a model returns for N clips.

    Attributes:
        logits: (N, L) float32; class logits, or values.
        features: (N, F) float32 for a bundle exported with features, else None.
    """

    logits: np.ndarray
    features: np.ndarray | None = None


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of all clips, of those of some clips each."""
    if len(parts) == 1:
        return parts[0]
    features = [part.features for part in parts if part.features is not None]
    return Outputs(
        np.concatenate([part.logits for part in parts]),
        np.concatenate(features) if features else None,
    )


@dataclass(frozen=True)
class ModelSpec:
    """What a loaded model reads and returns, and how it is computed.

    Attributes:
        clip: Clip geometry of the input.
        outputs: Width L of the logits.
        features: Width F of the features; 0 where the artifact returns none.
        artifact: Name of the artifact in the bundle, for example "fp32.onnx".
        engine: Name of the engine: "openvino", "onnxruntime" or "tensorrt"; "onnxruntime:cuda" and
            the like for ONNX Runtime with another execution provider than the CPU.
        precision: Number type that the engine really computes in, for example "f32". The engine is
            asked where it can answer; it is never assumed from the file.
    """

    clip: ClipSpec
    outputs: int
    features: int
    artifact: str
    engine: str
    precision: str


Read = Callable[[], list[bytes | memoryview]]
"""Returns the verified bytes of the files of an artifact, in their order."""


class Backend(Protocol):
    """A loaded artifact. `run` may be called from several threads."""

    spec: ModelSpec

    def run(self, clips: np.ndarray) -> Outputs:
        """Run the model on clips (N, T, H, W, 3) uint8 RGB; N may differ from call to call."""
        ...

    def close(self) -> None:
        """Free the model. More calls do nothing."""
        ...


def check_clips(clips: np.ndarray, spec: ClipSpec) -> None:
    """Raise FrameError unless `clips` is (N, T, H, W, 3) uint8 of the model's geometry, N > 0."""
    fits = clips.ndim == 5 and clips.shape[1:] == spec.shape and len(clips) > 0
    if clips.dtype != np.uint8 or not fits:
        want = ", ".join(map(str, spec.shape))
        raise FrameError(
            f"Clips must be (N, {want}) uint8 RGB with N > 0; got {clips.shape} {clips.dtype}."
        )


def check_model(
    bundle: Bundle, artifact: Artifact, input_shape: tuple[int | None, ...], input_type: str,
    outputs: list[int | None],
) -> tuple[int, int]:  # fmt: skip
    """Compare what an engine read from a model with the manifest; BundleError if they differ.

    Sizes are None where they are free; `input_type` is in the words of the engine. Returns the
    widths (L, F) of logits and features; F is 0 without features.
    """
    manifest, path = bundle.manifest, bundle.path_of(artifact.name)
    want_shape = (None, *manifest.clip.shape)
    if not _fits(input_shape, want_shape) or input_type not in ("uint8", "u8", "tensor(uint8)"):
        raise BundleError(
            f"'{path}' reads {input_shape} {input_type}; the manifest says {want_shape} uint8. "
            "The files do not belong together; export the bundle again."
        )
    want = [len(manifest.task.labels)] + ([manifest.features] if manifest.features else [])
    if not _fits(outputs, want):
        raise BundleError(
            f"'{path}' returns outputs of width {outputs}; the manifest says {want} "
            f"({len(manifest.task.labels)} labels). Export the bundle again."
        )
    return want[0], manifest.features


def _fits(found: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(found) == len(wanted) and all(
        None in pair or pair[0] == pair[1] for pair in zip(found, wanted, strict=True)
    )


def wrong_shape(outputs: Outputs, count: int, spec: ModelSpec) -> str | None:
    """What is wrong with outputs that are not logits (count, L) and features (count, F); None where
    they are."""
    expected = [(outputs.logits, (count, spec.outputs))]
    if outputs.features is not None:
        expected.append((outputs.features, (count, spec.features)))
    for values, shape in expected:
        if values.shape != shape:
            return f"it returned {values.shape} for {count} clips; expected {shape}."
    return None


def check_finite(outputs: Outputs, spec: ModelSpec) -> None:
    """Raise InferenceError unless logits and features are finite."""
    every = [values for values in (outputs.logits, outputs.features) if values is not None]
    if not all(math.isfinite(values.sum(dtype=np.float64)) for values in every):
        raise InferenceError(
            f"{spec.engine} returned NaN or infinity for '{spec.artifact}'; no prediction is made "
            "of it. Try another artifact or engine (--artifact, --engine), and report the model."
        )


def artifact_error(engine: str, artifact: Artifact, error: Exception) -> BundleError:
    """The error to raise for a model that an engine does not take, with the engine's words."""
    return BundleError(
        f"{engine} cannot load '{artifact.name}': {str(error).strip()[:600]}\n"
        "The file is intact (its digest was checked). Update the engine, or try another one."
    )


def closed_error(spec: ModelSpec) -> ConfigError:
    """The error to raise when a backend is used after `close`."""
    return ConfigError(
        f"The {spec.engine} backend of '{spec.artifact}' is closed; load the model again with "
        "Engine.load."
    )
