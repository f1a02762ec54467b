"""How faithful an artifact is to its model, and the gate that refuses an unfaithful one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svfap_edge.errors import QualityGateError
from svfap_edge.runtimes import Backend


@dataclass(frozen=True)
class Fidelity:
    """How two sets of logits (N, L) compare.

    Attributes:
        clips: N, the number of clips compared.
        max_abs: Largest absolute difference of a logit.
        spread: Root mean square deviation of the reference between clips: how much the
            answer for one clip differs from the answer for all.
        error: Root mean square difference as a share of the spread. At 1 the artifact's errors
            are as large as everything by which the model distinguishes clips.
        cosine: Mean cosine between the two, after subtracting the reference's mean clip.
        agreement: Share of clips with the same arg-max.
    """

    clips: int
    max_abs: float
    spread: float
    error: float
    cosine: float
    agreement: float


def compare(reference: np.ndarray, found: np.ndarray) -> Fidelity:
    """Compare logits (N, L); ValueError if the shapes differ, or one is empty."""
    if reference.shape != found.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"Cannot compare outputs {reference.shape} with {found.shape}.")
    a, b = reference.astype(np.float64), found.astype(np.float64)
    center = a.mean(0)
    x, y = a - center, b - center
    spread = float(np.sqrt((x**2).mean()))
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosine = (x * y).sum(1) / np.maximum(norms, 1e-30)
    return Fidelity(
        clips=len(a),
        max_abs=float(np.abs(a - b).max()),
        spread=spread,
        error=float(np.sqrt(((a - b) ** 2).mean())) / max(spread, 1e-12),
        cosine=float(cosine.mean()),
        agreement=float((a.argmax(1) == b.argmax(1)).mean()),
    )


LIMITS = {
    "fp32": {"max_abs": 1e-4},
    "fp16": {"error": 0.05, "cosine": 0.99, "agreement": 0.95},
    "bf16": {"error": 0.15, "cosine": 0.98, "agreement": 0.9},
    "int8": {"error": 0.35, "cosine": 0.94, "agreement": 0.85},
}
"""Limits of the figures of `Fidelity`, by precision. Sound INT8 errs by 0.03 to 0.15 of the spread,
a wrecked one by more than 0.5: docs/quantization.md, tests/export/test_smooth_quant.py."""

WORDS = {
    "max_abs": "max abs difference of logits",
    "error": "logit error over between-clip deviation",
}

FLOAT_ADVICE = "Check that the checkpoint is finite and the engine up to date."
INT8_ADVICE = (
    "Calibrate on more and more varied clips (--calib, --calib-samples), or let the export leave "
    "the layers that hurt in float (--max-drop)."
)

MIN_SPREAD = 1e-3
"""Clips whose logits differ by less than this share of their size cannot show a bad artifact."""


def failures(fidelity: Fidelity, precision: str) -> list[str]:
    """What is beyond the limits, in words; empty if the artifact passes."""
    found = []
    for name, limit in LIMITS[precision].items():
        if name == "agreement":  # chance flips some of few clips: two standard deviations of it
            limit -= 2 * float(np.sqrt(limit * (1 - limit) / fidelity.clips))
        value = getattr(fidelity, name)
        fine = value <= limit if name in ("max_abs", "error") else value >= limit - 1e-9
        if not fine:  # NaN is not fine either
            found.append(f"{WORDS.get(name, name)} {value:.3g} (limit {limit:g})")
    return found


def logits_of(backend: Backend, clips: np.ndarray) -> np.ndarray:
    """Logits (N, L) of clips (N, T, H, W, 3) that are run one by one."""
    return np.concatenate([backend.run(clip[None]).logits for clip in clips])


def check(
    backend: Backend,
    reference: np.ndarray,
    clips: np.ndarray,
    precision: str,
    truth: str = "PyTorch",
) -> Fidelity:
    """Run the clips one by one, and some as one batch; refuse an artifact beyond the limits by a
    QualityGateError with the figures and the limits. `truth` says whose answers the reference is.
    """
    single = logits_of(backend, clips)
    fidelity = compare(reference, single)
    wrong = failures(fidelity, precision)
    count = min(3, len(clips))
    batch = np.abs(backend.run(np.asarray(clips[:count])).logits - single[:count]).max()
    if not batch <= max(LIMITS["fp32"]["max_abs"], 0.1 * fidelity.spread):
        wrong.append(f"a batch differs from single clips by {batch:.2e}")
    if wrong:
        advice = INT8_ADVICE if precision == "int8" else FLOAT_ADVICE
        if not _tells(fidelity.spread, reference):
            advice = (
                f"The model's answers hardly differ between these clips (logits deviate by "
                f"{fidelity.spread:.1e}), so that every rounding counts: it is not trained, or "
                "the clips are too much alike (--calib)."
            )
        raise QualityGateError(
            f"'{backend.spec.artifact}' on {backend.spec.engine} is too far from {truth} on "
            f"{fidelity.clips} clips: {'; '.join(wrong)}. {advice}"
        )
    return fidelity


def _tells(spread: float, reference: np.ndarray) -> bool:
    """Whether the answers to some clips, of this spread, differ enough to show what is lost."""
    size = float(np.sqrt((reference.astype(np.float64) ** 2).mean()))
    return spread > MIN_SPREAD * max(size, 1e-12)


def check_clips_tell(reference: np.ndarray) -> None:
    """Refuse clips that cannot show a difference, such as black ones, by a QualityGateError."""
    spread = compare(reference, reference).spread
    if not _tells(spread, reference):
        raise QualityGateError(
            f"The model gives the same answer for all {len(reference)} calibration clips (logits "
            f"deviate by {spread:.1e} between clips). INT8 calibrated on them would be "
            "worthless, and the gate could not see it. Give real, varied clips of faces (--calib)."
        )
