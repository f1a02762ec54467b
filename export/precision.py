"""Counting layers by the precision they are computed in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

COMPUTE = ("MatMul", "Conv", "Gemm", "Convolution", "FullyConnected")
_ONNX_TYPES = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16"}


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
            counts[_name(str(info["runtimePrecision"].astype(str)))] += 1
    return dict(counts)


def _name(precision: str) -> str:
    return {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16"}.get(precision, precision)
