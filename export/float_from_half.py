"""Half-precision ONNX back to float32, for a bundle whose float model is in half precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from svfap_edge.atomic import written_whole

from .model_files import drop_unused_constants, read_onnx


def float_from_half(source: Path, target: Path) -> None:
    """Write the float32 model of a file that `half_from_onnx` made of one.

    Every number is the one that half precision has; only what is computed with them is float32
    again. The casts between the two are gone.

    Raises:
        SvfapError, EngineIncompatible: there is no such file, or it is not ONNX.
        OSError: the target cannot be written.
    """
    model = read_onnx(source)
    graph = model.graph
    del graph.value_info[:]  # hints about types, which are about to change
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(model).graph
    wide = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    wide |= {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    results = {value.name for value in graph.output}
    same: dict[str, str] = {}  # names of values to the one name of all that are the same now
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and {node.input[0], node.output[0]} <= wide:
            before = same.get(node.input[0], node.input[0])
            if node.output[0] in results:  # what it was made of gets the name of the result
                same = {k: node.output[0] if v == before else v for k, v in same.items()}
                same[before] = node.output[0]
            else:
                same[node.output[0]] = before
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            names[:] = [same.get(name, name) for name in names]
    del graph.node[:]
    graph.node.extend(kept)
    drop_unused_constants(graph)
    onnx.checker.check_model(model, full_check=True)
    with written_whole(target) as partial:
        onnx.save(model, str(partial))
