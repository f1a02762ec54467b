"""Counting layers by the precision they are computed in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

COMPUTE = ("MatMul", "Conv", "Gemm", "Convolution", "FullyConnected")
_ONNX_TYPES = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}
_OPENVINO_TYPES = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16"}


def precisions_of_onnx(path: Path) -> dict[str, int]:
    """Matrix products and convolutions of an ONNX file by precision.

    A product whose weights come out of DequantizeLinear counts as int8.
    """
    model = onnx.load(str(path))
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    half = any(kind == onnx.TensorProto.FLOAT16 for kind in types.values())
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in COMPUTE:
            continue
        if producers.get(node.input[1]) == "DequantizeLinear":
            counts["int8"] += 1
        elif node.input[1] in types:
            counts[_ONNX_TYPES.get(types[node.input[1]], "other")] += 1
        else:
            counts["fp16" if half else "fp32"] += 1
    return dict(counts)


def precisions_of_openvino(path: Path) -> dict[str, int]:
    """Matrix products and convolutions by the type OpenVINO executes them in on this CPU."""
    import openvino as ov

    from svfap_edge.runtimes.openvino_backend import has_bf16

    core = ov.Core()
    hint = "bf16" if has_bf16(core) else "f32"
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": hint})
    counts: Counter[str] = Counter()
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind = str(info["layerType"].astype(str)) if "layerType" in info else ""
        if kind in COMPUTE:
            precision = str(info["runtimePrecision"].astype(str))
            counts[_OPENVINO_TYPES.get(precision, precision)] += 1
    return dict(counts)


def precisions_of_tensorrt(network: Any) -> dict[str, int]:
    """Layers that compute, by precision: {"float16": 210, "int8": 60}.

    A layer's precision is its output's; a matrix product or convolution all of whose inputs are
    dequantized counts as int8. Constants, casts, shapes and quantizers do not count.
    """
    idle = {"CONSTANT", "CAST", "SHAPE", "SHUFFLE", "IDENTITY", "QUANTIZE", "DEQUANTIZE"}
    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized: set[str] = set()
    counts: Counter[str] = Counter()
    for layer in layers:
        kind = layer.type.name
        dtype = layer.get_output(0).dtype.name if layer.num_outputs else ""
        moved = kind == "SHUFFLE" and layer.get_input(0).name in dequantized
        if kind == "DEQUANTIZE" or moved:  # the parser reshapes weights behind the dequantizer
            dequantized.add(layer.get_output(0).name)
        if kind in idle or dtype not in names:
            continue
        data = 2 if kind == "MATRIX_MULTIPLY" else 1 if kind == "CONVOLUTION" else 0
        inputs = [layer.get_input(index).name for index in range(data)]
        quantized = bool(inputs) and all(name in dequantized for name in inputs)
        counts["int8" if quantized else names[dtype]] += 1
    return dict(sorted(counts.items()))
