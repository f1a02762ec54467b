"""ONNX to ONNX in half precision, for ONNX Runtime and for TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from svfap_edge.atomic import written_whole
from svfap_edge.errors import EngineIncompatible
from svfap_edge.runtimes.backend import INPUT_NAME

from .model_files import adapt_to_tensorrt, drop_unused_constants, read_onnx

HALF_MAX = 65504.0
HALF_SMALL = 2.0**-10
"""Half precision holds numbers up to the first; a weight matrix all below the second loses bits."""

HALF_SCALE_MIN = 2.0**-19
"""Smallest quantization scale made: 32 times the smallest number of half precision."""


def half_from_onnx(source: Path, target: Path) -> None:
    """Write a half-precision version of our fp32.onnx, or of int8.onnx with its Q/DQ.

    Input `clips` stays uint8 and outputs stay float32. In float32 stay, between casts, what half
    precision is known to hurt (LayerNormalization, whose squares overflow, and the mean over
    tokens), what comes before the first layer, and layers whose weights are too large or too small
    for half precision. No matrix product of ours is among them, which GPUs of compute capability
    7.5 need.

    Raises:
        EngineIncompatible: not readable, or Q/DQ below opset 19, where they are float32 only.
    """
    model = read_onnx(source)
    adapt_to_tensorrt(model)
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if quantized and opset < 19:
        raise EngineIncompatible(f"'{source}' has opset {opset}; half precision Q/DQ needs 19.")
    _Half(model).convert()
    onnx.checker.check_model(model)
    with written_whole(target) as partial:
        onnx.save(model, str(partial))


class _Half:
    """Rewrites a graph. `x.half` and `x.float` are the versions of a value `x` made by a cast."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.dtypes: dict[str, int] = {  # of every float value; changes as nodes do
            value.name: TensorProto.FLOAT
            for value in (*inferred.value_info, *inferred.output, *inferred.input)
            if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.made: set[str] = set()

    def convert(self) -> None:
        before = {INPUT_NAME}  # values from the input to the first layer
        for node in list(self.graph.node):
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self._add_quantizer(node)
            elif node.op_type in ("MatMul", "Conv"):
                self._add_layer(node)
                continue
            else:
                exact = node.op_type in ("LayerNormalization", "ReduceMean", "Constant")
                exact = exact or bool(before & set(node.input))
                self._add(node, TensorProto.FLOAT if exact else TensorProto.FLOAT16)
            if before & set(node.input):
                before.update(node.output)
        for output in self.graph.output:
            if self.dtypes.get(output.name) == TensorProto.FLOAT16:
                self._restore(output.name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        drop_unused_constants(self.graph)

    def _add(self, node: onnx.NodeProto, dtype: int) -> None:
        """Add a node that computes in the type given."""
        node.input[:] = [self._value(name, dtype) for name in node.input]
        for name in node.output:
            if name in self.dtypes:
                self.dtypes[name] = dtype
        if node.op_type == "Cast" and node.output[0] in self.dtypes:
            next(a for a in node.attribute if a.name == "to").i = dtype
        self.nodes.append(node)

    def _add_layer(self, node: onnx.NodeProto) -> None:
        weight = self.constants.get(node.input[1])
        if weight is not None:
            largest = np.abs(numpy_helper.to_array(weight)).max(initial=0)
            exact = largest > HALF_MAX or 0 < largest < HALF_SMALL
            self._add(node, TensorProto.FLOAT if exact else TensorProto.FLOAT16)
        elif node.op_type == "Conv" and len(node.input) == 3:
            # ONNX Runtime rounds the bias of a quantized half convolution wrongly to int32.
            output, bias = node.output[0], node.input.pop()
            node.output[0] = f"{output}.unbiased"
            self.dtypes[node.output[0]] = TensorProto.FLOAT16
            self._add(node, TensorProto.FLOAT16)
            values = numpy_helper.to_array(self.constants[bias]).reshape(1, -1, 1, 1)
            bias = self._constant(f"{bias}.half", values.astype(np.float16))
            add = helper.make_node("Add", [node.output[0], bias], [output], name=bias)
            self._add(add, TensorProto.FLOAT16)
        else:
            self._add(node, TensorProto.FLOAT16)

    def _add_quantizer(self, node: onnx.NodeProto) -> None:
        """A quantizer or dequantizer, in half.

        Scales are rounded up to half, and to `HALF_SCALE_MIN` where a channel is all but dead;
        weights of a scale that grew are rounded again.
        """
        source, scale = node.input[:2]
        exact = numpy_helper.to_array(self.constants[scale])
        half = np.maximum(exact, HALF_SCALE_MIN).astype(np.float16)
        half = np.where(half < exact, np.nextafter(half, np.float16(np.inf)), half)
        node.input[1] = self._constant(f"{scale}.half", half)
        if source in self.constants:
            weights = numpy_helper.to_array(self.constants[source])
            ratio = exact / half.astype(np.float32)
            if ratio.ndim:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                ratio = np.expand_dims(ratio, [d for d in range(weights.ndim) if d != axis])
            again = np.rint(weights * ratio).astype(weights.dtype)
            node.input[0] = self._constant(f"{source}.half", again)
        else:
            node.input[0] = self._value(source, TensorProto.FLOAT16)
        if node.op_type == "DequantizeLinear":
            self.dtypes[node.output[0]] = TensorProto.FLOAT16
        self.nodes.append(node)

    def _value(self, name: str, dtype: int) -> str:
        """The name of a value in the type wanted; adds the cast or constant for it."""
        constant = self.constants.get(name)
        if constant is not None and constant.data_type == TensorProto.FLOAT:
            if dtype == TensorProto.FLOAT:
                return name
            # A mask's -1e9 becomes the lowest number there is; weights do not come here so large.
            values = numpy_helper.to_array(constant).clip(-HALF_MAX, HALF_MAX)
            return self._constant(f"{name}.half", values.astype(np.float16))
        if name not in self.dtypes or self.dtypes[name] == dtype:
            return name
        variant = name + (".half" if dtype == TensorProto.FLOAT16 else ".float")
        if variant not in self.made:
            self.made.add(variant)
            self.nodes.append(helper.make_node("Cast", [name], [variant], name=variant, to=dtype))
        return variant

    def _constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.made:
            self.made.add(name)
            self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _restore(self, name: str) -> None:
        """Give an output, in float32 again, its old name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [f"{name}.half" if n == name else n for n in names]
        cast = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
        self.nodes.append(cast)
