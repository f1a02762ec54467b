"""Quantization-aware fine-tuning: INT8's rounding in the forward pass (Jacob et al. 2018).

NNCF inserts the quantizers of post-training quantization, calibrated on training clips, and
training goes on through them with the straight-through estimator. What is saved is the plain
model with the weights that learned to live with the rounding: export quantizes and calibrates it
like any other.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import torch

from svfap_edge.errors import ConfigError, DependencyMissing
from svfap_edge.training.clips.augment import centre
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.protocols import normalize

from .finetuning import Finetuning

CALIBRATION_CLIPS = 64
FLOAT = ("scaled_dot_product_attention", "softmax", "layer_norm", "gelu", "matmul", "__matmul__")
"""Operations left in float, as in export: attention, its neighbours, the bottleneck."""


def quantized(job: Finetuning) -> Finetuning:
    """The job with quantizers in its model.

    Raises:
        DependencyMissing: NNCF or the C++ compiler that it builds its quantizers with.
        ConfigError: the weights are to be sharded.
    """
    os.environ.setdefault("NNCF_CI", "1")  # otherwise it reports to its makers that it was used
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
    if job.settings.run.strategy == "fsdp":
        raise ConfigError("--quantize needs whole weights in each process; not with fsdp.")
    off = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    clips = calibration_clips(job.train, job.config.size)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        model = nncf.quantize(
            job.model.eval(),
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
    return replace(job, model=model, quantized=True)


def calibration_clips(clips: LabelledClips, size: int) -> list[torch.Tensor]:
    """Clips (1, 3, T, size, size) spread evenly over a list; unreadable ones are left out."""
    from svfap_edge.errors import UnreadableClip

    count = min(len(clips), CALIBRATION_CLIPS)
    found = []
    for index in np.linspace(0, len(clips) - 1, count).round().astype(int):
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
