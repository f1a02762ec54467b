"""Which layers INT8 hurts, and the fewest to leave in float."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from svfap_edge.evaluation.fidelity import compare
from svfap_edge.export.model_files import drop_unused_constants, run_onnx

from .recipe import Clips, quantizable_layers


@dataclass(frozen=True)
class LayerDamage:
    """What INT8 does to the logits when this layer alone is quantized.

    Attributes:
        layer: Name of the layer in the state dict, with q, k and v as layers of their own.
        error: Error of the logits as a share of the spread between clips; see `Fidelity.error`.
    """

    layer: str
    error: float


def rank_layers(
    fp32: Path,
    int8: Path,
    clips: Clips,
    progress: Callable[[str], None] = lambda message: None,
) -> list[LayerDamage]:
    """Quantize one layer at a time and measure the logits; the worst first.

    A cheap stand-in for the accuracy of each variant: a few calibration clips, no labels. The
    second ONNX file is made of the first by `int8_onnx_from_fp32`.
    """
    plain, quantized = onnx.load(str(fp32)), onnx.load(str(int8))
    layers = quantizable_layers(plain)
    reference = run_onnx(plain, clips)
    found = []
    for number, layer in enumerate(layers):
        if number % 10 == 0:
            progress(f"Measuring the damage of INT8 layer by layer: {number} of {len(layers)}")
        others = [name for name in layers if name != layer]
        variant = with_float_layers(quantized, plain, others)
        found.append(LayerDamage(layer, compare(reference, run_onnx(variant, clips)).error))
    return sorted(found, key=lambda damage: -damage.error)


def fewest_float_layers(
    ranked: Sequence[LayerDamage], passes: Callable[[list[str]], bool]
) -> list[str] | None:
    """The shortest head of the ranking that, left in float, makes `passes` true; None if not even
    half of the layers in float pass, because INT8 is then not worth having.

    Looks at 1, 2, 4, ... layers and then between, so `passes` is called a dozen times.
    """
    names = [damage.layer for damage in ranked]
    low, high = 0, 1
    while not passes(names[:high]):
        low, high = high, high * 2
        if high > len(names) // 2:
            return None
    between = range(low + 1, high)
    place = bisect_left(between, True, key=lambda count: passes(names[:count]))
    return names[: low + 1 + place]


def with_float_layers(
    quantized: onnx.ModelProto, plain: onnx.ModelProto, layers: Collection[str]
) -> onnx.ModelProto:
    """A copy of the Q/DQ model in which some layers read and multiply floats again."""
    chosen = set(layers)
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    floats = {tensor.name: tensor for tensor in plain.graph.initializer}
    originals = {node.name: node for node in plain.graph.node}
    restored: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        layer = node.name.removesuffix(".matmul")
        if layer not in chosen or node.op_type not in ("MatMul", "Conv"):
            continue
        _read_floats(node, producers)
        for slot, name in enumerate(originals[node.name].input):
            if slot > 0:
                node.input[slot] = f"{name}.float"
                restored[name] = floats[name]
    for node in graph.node:  # the bias that NNCF corrected for the quantized product
        name = f"{node.name}.bias"
        if node.op_type == "Add" and node.name in chosen and name in floats:
            node.input[1] = f"{name}.float"
            restored[name] = floats[name]
    for name, tensor in restored.items():
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"{name}.float"
    _prune(graph)
    return model


def _read_floats(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> None:
    """Reconnect the first input to what stood before its Q/DQ pair.

    NNCF puts the pair before the reshapes and transposes that lead to a product.
    """
    before = producers.get(node.input[0])
    while before is not None and before.op_type in ("Reshape", "Transpose"):
        node, before = before, producers.get(before.input[0])
    if before is None or before.op_type != "DequantizeLinear":
        return
    quantize = producers.get(before.input[0])
    if quantize is not None and quantize.op_type == "QuantizeLinear":
        node.input[0] = quantize.input[0]


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no output needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    drop_unused_constants(graph)
