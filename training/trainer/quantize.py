"""Quantization-aware fine-tuning: INT8's rounding in the forward pass (Jacob et al. 2018).

NNCF inserts the quantizers of post-training quantization, calibrated on training clips, and
training goes on through them with the straight-through estimator. The checkpoint holds the plain
model, whose weights have adapted to the rounding; export quantizes it like any other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from dataclasses import replace

import torch

from svfap_edge.errors import ConfigError, DependencyMissing, UnreadableClip
from svfap_edge.training.clips.augment import centre
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.protocols import normalize

from .finetuning import Finetuning

CALIBRATION_CLIPS = 64  # greatest number of training clips that calibrate the quantizers

FLOAT = ("scaled_dot_product_attention", "softmax", "layer_norm", "gelu", "matmul", "__matmul__")
"""Operations that stay in floating point, as in export: attention and the bottleneck."""


def quantized(objective: Finetuning) -> Finetuning:
    """The objective with quantizers in its model."""
    os.environ.setdefault("NNCF_CI", "1")  # or NNCF reports its use to its makers
    try:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
        )
    except ImportError as error:
        raise DependencyMissing(
            f"--quantize needs '{error.name}': pip install \"svfap-edge[train]\""
        ) from error
    _require_compiler()
    if objective.settings.run.strategy == "fsdp":
        raise ConfigError("--quantize needs whole weights in each process; not with fsdp.")
    off = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    clips = calibration_clips(objective.train, objective.config.size)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        model = nncf.quantize(
            objective.model.eval(),
            nncf.Dataset(clips),
            subset_size=len(clips),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(types=list(FLOAT), validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                smooth_quant_alphas=off,
                disable_bias_correction=True,  # training moves the biases
            ),
        )
    return replace(objective, model=model, quantized=True)


def calibration_clips(clips: LabelledClips, size: int) -> list[torch.Tensor]:
    """Clips (1, 3, T, size, size) spread evenly over a list; unreadable ones are left out."""
    found = []
    for index in clips.spread(CALIBRATION_CLIPS):
        with contextlib.suppress(UnreadableClip):
            frames = centre(clips.read(int(index)), size)
            found.append(normalize(torch.from_numpy(frames)[None]))
    return found


def _require_compiler() -> None:
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")  # a slow machine compiles slowly
    missing = [name for name in ("ninja", os.environ.get("CXX", "g++")) if not shutil.which(name)]
    if missing:
        raise DependencyMissing(
            f"--quantize needs {' and '.join(missing)}: NNCF compiles its quantizers for PyTorch. "
            "Install a C++ compiler, and ninja (pip install ninja)."
        )
