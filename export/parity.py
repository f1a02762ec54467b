"""Comparing an exported artifact with the PyTorch model, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from svfap_edge.errors import QualityGateError
from svfap_edge.export.onnx_from_model import IMAGENET_MEAN, IMAGENET_STD
from svfap_edge.runtimes import Backend
from svfap_edge.training.model import TPSBT

FP32_LIMIT = 1e-4
"""Largest absolute difference of logits at which an fp32 artifact passes."""


@dataclass(frozen=True)
class Parity:
    """How two sets of logits (N, L) compare.

    Attributes:
        clips: N.
        max_abs: Largest absolute difference.
        cosine: Smallest cosine between the logits of one clip.
        agreement: Share of clips with the same arg-max.
    """

    clips: int
    max_abs: float
    cosine: float
    agreement: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(reference: np.ndarray, found: np.ndarray) -> Parity:
    """Compare logits (N, L).

    Raises:
        ValueError: the shapes differ, or one is empty.
    """
    if reference.shape != found.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"Cannot compare outputs {reference.shape} with {found.shape}.")
    a, b = reference.astype(np.float64), found.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(norms, 1e-30)
    return Parity(
        clips=len(a),
        max_abs=float(np.abs(a - b).max()),
        cosine=float(cosine.min()),
        agreement=float((a.argmax(1) == b.argmax(1)).mean()),
    )


@torch.no_grad()
def torch_logits(model: TPSBT, clips: np.ndarray) -> np.ndarray:
    """The reference: (N, T, H, W, 3) uint8 through the PyTorch model in float32, one at a time."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    rows = []
    for clip in clips:
        pixels = (torch.from_numpy(clip).double() / 255 - mean) / std  # (T, H, W, 3)
        rows.append(model(pixels.float().permute(3, 0, 1, 2)[None]))
    return torch.cat(rows).numpy()


def check_fp32(backend: Backend, reference: np.ndarray, clips: np.ndarray) -> Parity:
    """Run the clips one by one and as one batch; refuse an artifact that differs.

    Raises:
        QualityGateError: a logit differs by more than `FP32_LIMIT`, or is not finite.
    """
    single = np.concatenate([backend.run(clip[None]).logits for clip in clips])
    batch = backend.run(clips).logits
    worst = max((compare(reference, single), compare(reference, batch)), key=lambda p: p.max_abs)
    if not worst.max_abs <= FP32_LIMIT:  # also refuses NaN
        raise QualityGateError(
            f"'{backend.spec.artifact}' on {backend.spec.engine} differs from PyTorch by "
            f"{worst.max_abs:.2e} (limit {FP32_LIMIT:.0e}) on {worst.clips} clips. Nothing was "
            "written. Check that the checkpoint is finite and the engine up to date."
        )
    return worst
