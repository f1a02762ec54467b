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
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
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
from onnx import numpy_helper

from svfap_edge.export.model_files import write_openvino

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
    """Write int8.onnx.

    Args:
        source: fp32.onnx.
        clips: Calibration clips (n, T, H, W, 3) uint8; read one at a time.
        float_layers: Layers left in float beside those that always are.
    """
    model = onnx.load(str(source))
    ignored = _ignored([node.name for node in model.graph.node], float_layers)
    quantized = _quantize(model, clips, ignored)
    quantized.ir_version = model.ir_version
    _make_signed(quantized)
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
    with _quiet():
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


def _make_signed(model: onnx.ModelProto) -> None:
    """Turn unsigned activations (zero point 0) into signed ones of the same range.

    NNCF uses uint8 where an activation is never negative; TensorRT takes int8 only.
    """
    del model.graph.value_info[:]  # NNCF's notes of types, which are about to change
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        scale, zero = (constants[name] for name in node.input[1:3])
        if zero.data_type == onnx.TensorProto.UINT8 and zero.name not in done:
            done.add(zero.name)
            if numpy_helper.to_array(zero).any():
                raise ValueError(f"'{node.name}' is asymmetric; the recipe is symmetric.")
            wider = numpy_helper.to_array(scale) * np.float32(255 / 127)
            scale.CopyFrom(numpy_helper.from_array(wider.astype(np.float32), scale.name))
            signed = np.zeros(numpy_helper.to_array(zero).shape, np.int8)
            zero.CopyFrom(numpy_helper.from_array(signed, zero.name))


@contextmanager
def _quiet() -> Iterator[None]:
    """NNCF's notes are for its developers; its progress bars belong on standard error."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
