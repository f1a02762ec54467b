"""INT8 by NNCF: one quantizer for the ONNX file and for the OpenVINO model.

Both start from fp32.onnx, whose nodes carry the names of the state dict, so a layer is called the
same in every report: `blocks.3.mlp.fc1`. The recipe: matrix products of weights and convolutions in
INT8 with weights per channel; attention (both products and softmax), bottleneck pooling, LayerNorm,
GELU, the convolutions along time and head in float; NNCF's bias correction off, which did harm
(docs/quantization.md); SmoothQuant off, since it fits every channel to what calibration saw and can
wreck the model on other clips (docs/quantization.md).

- int8.onnx: symmetric signed activations (Q/DQ, int8 with zero point 0), which ONNX Runtime runs
  and TensorRT takes as it is.
- int8.openvino: activations that are never negative are unsigned, which keeps one bit more.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
import openvino as ov
from nncf.quantization.advanced_parameters import (
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
)

from svfap_edge.export.model_files import sign_activations, write_openvino

nncf.set_log_level(logging.ERROR)  # its notes are for its developers

Clips = np.ndarray | Sequence[np.ndarray]
"""(n, T, H, W, 3) uint8, as one array (it may be memory-mapped) or clip by clip."""

FLOAT_ALWAYS = re.compile(r"\.(scores|read|pool)$|^(head|temporal_downsamples\.\d+)(\.matmul)?$")
"""Nodes never quantized: products of two activations, the head, and the convolutions along time,
which read the residual stream as it is, outliers and all."""

SCHEME = (
    "NNCF post-training, min-max, PERFORMANCE preset, per-channel weights, SmoothQuant and bias "
    "correction off"
)


def quantizable_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that INT8 applies to, in graph order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name.removesuffix(".matmul")
        for node in model.graph.node
        if node.op_type in ("MatMul", "Conv")
        and len(node.input) > 1
        and node.input[1] in weights
        and not FLOAT_ALWAYS.search(node.name)
    ]


def int8_onnx_from_fp32(
    source: Path, target: Path, clips: Clips, float_layers: Collection[str] = ()
) -> None:
    """Write int8.onnx from fp32.onnx, calibrated on the clips, which are read one at a time; the
    float layers are left in float beside those that always are."""
    model = onnx.load(str(source))
    ignored = _ignored([node.name for node in model.graph.node], float_layers)
    quantized = _quantize(model, clips, ignored)
    quantized.ir_version = model.ir_version
    sign_activations(quantized)
    onnx.save(quantized, str(target))


def int8_openvino_from_fp32(
    source: Path, target: Path, clips: Clips, float_layers: Collection[str] = ()
) -> None:
    """Write an OpenVINO IR, `target` ending in .xml with its .bin beside it; see above."""
    model = ov.Core().read_model(str(source))
    names = [op.get_friendly_name() for op in model.get_ops()]
    quantized = _quantize(model, clips, _ignored(names, float_layers))
    write_openvino(quantized, target)


def _ignored(names: list[str], float_layers: Collection[str]) -> list[str]:
    chosen = set(float_layers)
    return [n for n in names if FLOAT_ALWAYS.search(n) or n.removesuffix(".matmul") in chosen]


def _quantize(model: Any, clips: Clips, ignored: list[str]) -> Any:
    off = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    with contextlib.redirect_stdout(sys.stderr):  # where progress bars belong
        return nncf.quantize(
            model,
            nncf.Dataset(clips, lambda clip: {"clips": np.asarray(clip)[None]}),
            subset_size=len(clips),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                smooth_quant_alphas=off, disable_bias_correction=True
            ),
        )
