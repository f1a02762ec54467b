"""Activations of a quantized graph, rewritten from uint8 to int8."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from svfap_edge.errors import EngineIncompatible


def _sign_activations(graph: onnx.GraphProto) -> None:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made: set[str] = set()

    def constant(name: str, values: np.ndarray) -> str:
        if name not in made:
            graph.initializer.append(numpy_helper.from_array(values, name))
            made.add(name)
        return name

    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        source, scale, zero = node.input
        if zero not in constants or constants[zero].data_type != TensorProto.UINT8:
            continue
        zeros = numpy_helper.to_array(constants[zero])
        if zeros.any() or source in constants or scale not in constants:
            raise EngineIncompatible(
                f"TensorRT takes signed quantization only; '{node.name}' is unsigned. "
                "Export int8.onnx again with symmetric signed quantizers."
            )
        # uint8 0..255 of `scale` covers what int8 0..127 of this scale does
        wider = (numpy_helper.to_array(constants[scale]) * (255 / 127)).astype(np.float32)
        node.input[1] = constant(f"{scale}.signed", wider)
        node.input[2] = constant(f"{zero}.signed", zeros.astype(np.int8))
