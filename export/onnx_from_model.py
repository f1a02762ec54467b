"""TPSBT to ONNX, node by node.

The graph is written here and not traced, so that it is the same with every torch version, its
nodes carry the names of the state dict (`blocks.3.attn.qkv`), and it is laid out for speed:

- one uint8 input (N, T, H, W, 3); patches are cut while still bytes, four times less to move;
- the normalization is folded into the patch projection, position code and bias into one constant;
- the attention scale is folded into the query weights, batch norm into the convolutions;
- the temporal convolution and the patch projection are matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from svfap_edge.export.model_files import OPSET
from svfap_edge.training import model as model_definition
from svfap_edge.training.model import (
    LAYER_NORM_EPS,
    TPSBT,
    Attention,
    Block,
    CrossAttention,
    CrossSelfBlock,
    Mlp,
    Residual,
    SpatialBottleneck,
)

IR_VERSION = 9  # the one of opset 20; engines of that time refuse newer files

BYTE_CENTER = np.array(128.0)

IMAGENET_MEAN = np.array(model_definition.IMAGENET_MEAN)
IMAGENET_STD = np.array(model_definition.IMAGENET_STD)
"""As the published loaders normalize (its `default_cfg` says 0.5, which they do not use)."""


def onnx_from_model(model: TPSBT, path: Path, *, features: bool = False) -> None:
    """Write a model of any configuration, in any training state, as one ONNX file, weights inside.

    The input is `clips`, uint8 (N, T, H, W, 3) RGB with free N; the output `logits` is (N, L)
    float32. With `features`, the pooled feature (N, C) is a second output.
    """
    onnx.save(graph_of_model(model, features=features), str(path))


def graph_of_model(model: TPSBT, *, features: bool = False) -> onnx.ModelProto:
    """The model as a checked ONNX model in memory; see `onnx_from_model`."""
    config = model.config
    graph = _Graph()
    x = (_embed_patches if model.patch_embed.stem is None else _embed_stem)(graph, model)
    blocks = iter(model.blocks.named_children())  # (index, block)
    for index, block in islice(blocks, config.depths[0]):
        x = _block(graph, f"blocks.{index}", block, x)
    steps = config.time_steps
    for stage, depth in enumerate(config.depths[1:]):
        steps //= config.temporal_kernel
        full = _temporal(graph, model, stage, x, steps)
        name = f"spatial_downsamples.{stage}"
        bottleneck = _bottleneck(graph, name, model.spatial_downsamples[stage], full, steps)
        for index, block in islice(blocks, depth - 1):
            bottleneck = _block(graph, f"blocks.{index}", block, bottleneck, context=full)
        index, block = next(blocks)
        x = _block(graph, f"blocks.{index}", block, full, context=bottleneck)
    x = graph.op("ReduceMean", "mean", x, graph.ints("mean.axes", [1]), keepdims=0)
    feature = graph.norm("fc_norm", model.fc_norm, x)
    outputs = graph.linear("head", *_linear_weights(model.head), feature)
    if config.activation == "sigmoid":
        outputs = graph.op("Sigmoid", "activation", outputs)
    named = {"logits": (outputs, config.outputs)}
    if features:
        named["features"] = (feature, config.width)
    return graph.finish([config.frames, config.size, config.size, 3], named)


class _Graph:
    """Collects nodes and constants; a node's name is the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def floats(self, name: str, values: np.ndarray) -> str:
        return self.constant(name, values.astype(np.float32))

    def ints(self, name: str, values: Sequence[int]) -> str:
        return self.constant(name, np.array(values, np.int64))

    def reshape(self, name: str, x: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", name, x, self.ints(f"{name}.shape", shape))

    def transpose(self, name: str, x: str, order: Sequence[int]) -> str:
        return self.op("Transpose", name, x, perm=list(order))

    def linear(self, name: str, weight: np.ndarray, bias: np.ndarray | None, x: str) -> str:
        """weight (in, out)"""
        product = self.op("MatMul", f"{name}.matmul", x, self.floats(f"{name}.weight", weight))
        if bias is None:
            return product
        return self.op("Add", name, product, self.floats(f"{name}.bias", bias))

    def conv(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None, x: str, **geometry: list[int]
    ) -> str:
        """weight (out, in, height, width)"""
        constants = [self.floats(f"{name}.weight", weight)]
        if bias is not None:
            constants.append(self.floats(f"{name}.bias", bias))
        kernel = list(weight.shape[2:])
        return self.op("Conv", name, x, *constants, kernel_shape=kernel, **geometry)

    def norm(self, name: str, norm: nn.LayerNorm, x: str) -> str:
        weight = self.floats(f"{name}.weight", _array(norm.weight))
        bias = self.floats(f"{name}.bias", _array(norm.bias))
        return self.op("LayerNormalization", name, x, weight, bias, axis=-1, epsilon=LAYER_NORM_EPS)

    def finish(self, clip: list[int], outputs: dict[str, tuple[str, int]]) -> onnx.ModelProto:
        """A model of clips of this shape; outputs by name, each a value and its width."""
        clips = helper.make_tensor_value_info("clips", TensorProto.UINT8, ["N", *clip])
        named = []
        for name, (source, width) in outputs.items():
            self.op("Identity", name, source)
            named.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]))
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "tpsbt", [clips], named, constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="svfap-edge",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def _array(parameter: Any) -> np.ndarray:
    """float64, so that folding loses nothing."""
    return np.asarray(parameter.detach().cpu().double().numpy())


def _linear_weights(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray | None]:
    """(in, out) and bias."""
    return _array(layer.weight).T, None if layer.bias is None else _array(layer.bias)


def _position_and_bias(model: TPSBT, bias: np.ndarray) -> np.ndarray:
    return _array(model.position_code)[0] + bias  # (t*s, C)


def _embed_patches(graph: _Graph, model: TPSBT) -> str:
    """Cut bytes into tubelets, project with the normalization folded in."""
    config = model.config
    t, k, p, g = config.time_steps, config.tubelet, config.patch, config.size // config.patch
    cut = graph.reshape("patch_embed.cut", "clips", [0, t, k, g, p, g, p, 3])
    order = graph.transpose("patch_embed.order", cut, [0, 1, 3, 5, 2, 4, 6, 7])
    rows = graph.reshape("patch_embed.rows", order, [0, t * g * g, k * p * p * 3])
    x = graph.op("Cast", "patch_embed.float", rows, to=TensorProto.FLOAT)
    # Around zero, a byte is a signed INT8 value to the last bit.
    x = graph.op("Sub", "patch_embed.centered", x, graph.floats("patch_embed.center", BYTE_CENTER))
    weight = _array(model.patch_embed.proj.weight).transpose(2, 3, 4, 1, 0)  # (k, p, p, 3, C)
    bias = _array(model.patch_embed.proj.bias)
    bias = bias - (weight * (IMAGENET_MEAN / IMAGENET_STD)[:, None]).sum((0, 1, 2, 3))
    weight = weight / (255 * IMAGENET_STD)[:, None]
    weight = weight.reshape(-1, config.width)
    bias = bias + BYTE_CENTER * weight.sum(0)
    return graph.linear("patch_embed.proj", weight, _position_and_bias(model, bias), x)


def _embed_stem(graph: _Graph, model: TPSBT) -> str:
    config = model.config
    t, k, s = config.time_steps, config.tubelet, config.size
    frames = graph.reshape("patch_embed.frames", "clips", [-1, s, s, 3])
    x = graph.transpose("patch_embed.planes", frames, [0, 3, 1, 2])
    x = graph.op("Cast", "patch_embed.float", x, to=TensorProto.FLOAT)
    # The mean cannot be folded: the convolution pads with zeros after subtracting it.
    mean = graph.floats("patch_embed.mean", 255 * IMAGENET_MEAN.reshape(1, 3, 1, 1))
    x = graph.op("Sub", "patch_embed.centered", x, mean)
    scale = 1 / (255 * IMAGENET_STD).reshape(1, 3, 1, 1)
    stem = model.patch_embed.stem
    assert stem is not None
    layers = iter(stem.named_children())  # (index, layer)
    for index, layer in layers:
        name = f"patch_embed.stem.{index}"
        if isinstance(layer, Residual):
            x = _residual(graph, name, layer, x)
            continue
        _, norm = next(layers)
        _, _relu = next(layers)
        x = graph.op("Relu", f"{name}.relu", _conv(graph, name, layer, norm, x, scale))
        scale = np.ones(1)
    # The frames of a tubelet become channels, so that the projection is a 2D convolution.
    side = model.patch_embed.proj.kernel_size[1]
    grid = config.size // config.patch
    channels = config.stem[-1]
    x = graph.reshape("patch_embed.tubelets", x, [-1, k * channels, side * grid, side * grid])
    weight = _array(model.patch_embed.proj.weight).transpose(0, 2, 1, 3, 4)  # (C, k, c, p, p)
    weight = weight.reshape(config.width, k * channels, side, side)
    x = graph.conv("patch_embed.proj", weight, None, x, strides=[side, side])
    x = graph.reshape("patch_embed.flat", x, [-1, t, config.width, grid * grid])
    x = graph.transpose("patch_embed.order", x, [0, 1, 3, 2])
    x = graph.reshape("patch_embed.tokens", x, [-1, t * grid * grid, config.width])
    bias = _position_and_bias(model, _array(model.patch_embed.proj.bias))
    return graph.op("Add", "patch_embed.position", x, graph.floats("position_code", bias))


def _residual(graph: _Graph, name: str, unit: Residual, x: str) -> str:
    y = _conv(graph, f"{name}.conv1", unit.conv1, unit.norm1, x)
    y = graph.op("Relu", f"{name}.relu1", y)
    y = _conv(graph, f"{name}.conv2", unit.conv2, unit.norm2, y)
    if unit.skip is not None:
        x = _conv(graph, f"{name}.skip", unit.skip, unit.skip_norm, x)
    return graph.op("Relu", f"{name}.relu2", graph.op("Add", f"{name}.add", x, y))


def _conv(
    graph: _Graph, name: str, conv: nn.Module, norm: nn.Module, x: str, scale: Any = 1.0
) -> str:
    """A convolution with the batch norm that follows it, and the scale before it, folded in."""
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    gain = _array(norm.weight) / np.sqrt(_array(norm.running_var) + norm.eps)
    weight = _array(conv.weight) * gain[:, None, None, None] * scale
    bias = _array(norm.bias) - gain * _array(norm.running_mean)
    pads = [int(conv.padding[0])] * 4
    return graph.conv(name, weight, bias, x, strides=list(conv.stride), pads=pads)


def _block(graph: _Graph, name: str, block: nn.Module, x: str, context: str | None = None) -> str:
    assert isinstance(block, Block)
    if isinstance(block, CrossSelfBlock):
        assert context is not None
        queries = graph.norm(f"{name}.cross_norm1", block.cross_norm1, x)
        keys = graph.norm(f"{name}.cross_norm2", block.cross_norm2, context)
        read = _attention(graph, f"{name}.cross_attn", block.cross_attn, queries, keys)
        x = graph.op("Add", f"{name}.cross_add", x, read)
    normed = graph.norm(f"{name}.norm1", block.norm1, x)
    read = _attention(graph, f"{name}.attn", block.attn, normed, normed)
    x = graph.op("Add", f"{name}.attn_add", x, read)
    y = _mlp(graph, f"{name}.mlp", block.mlp, graph.norm(f"{name}.norm2", block.norm2, x))
    return graph.op("Add", f"{name}.mlp_add", x, y)


def _mlp(graph: _Graph, name: str, mlp: Mlp, x: str) -> str:
    x = graph.linear(f"{name}.fc1", *_linear_weights(mlp.fc1), x)
    x = graph.op("Gelu", f"{name}.gelu", x)
    return graph.linear(f"{name}.fc2", *_linear_weights(mlp.fc2), x)


def _attention(
    graph: _Graph, name: str, attention: Attention | CrossAttention, x: str, context: str
) -> str:
    """Separate projections: each goes straight into the layout its matrix product wants."""
    if isinstance(attention, Attention):
        q, k, v = np.split(_array(attention.qkv.weight), 3)
    else:
        q = _array(attention.q.weight)
        k, v = np.split(_array(attention.kv.weight), 2)
    width, heads = q.shape[0], attention.heads
    scale = (width // heads) ** -0.5
    split = [0, -1, heads, width // heads]

    def head(part: str, source: str, weight: np.ndarray, bias: Any, order: list[int]) -> str:
        y = graph.linear(f"{name}.{part}", weight.T, bias, source)
        y = graph.reshape(f"{name}.{part}.split", y, split)
        return graph.transpose(f"{name}.{part}.heads", y, order)

    queries = head("q", x, q * scale, _array(attention.q_bias) * scale, [0, 2, 1, 3])
    keys = head("k", context, k, None, [0, 2, 3, 1])
    values = head("v", context, v, _array(attention.v_bias), [0, 2, 1, 3])
    weights = graph.op("MatMul", f"{name}.scores", queries, keys)
    weights = graph.op("Softmax", f"{name}.softmax", weights, axis=-1)
    y = graph.op("MatMul", f"{name}.read", weights, values)
    y = graph.transpose(f"{name}.join", y, [0, 2, 1, 3])
    y = graph.reshape(f"{name}.merge", y, [0, -1, width])
    return graph.linear(f"{name}.proj", *_linear_weights(attention.proj), y)


def _temporal(graph: _Graph, model: TPSBT, stage: int, x: str, steps: int) -> str:
    """The strided temporal convolution, as one matrix product over k time steps."""
    config = model.config
    k, s, width = config.temporal_kernel, config.positions, config.width
    layer = model.temporal_downsamples[stage]
    name = f"temporal_downsamples.{stage}"
    x = graph.reshape(f"{name}.cut", x, [0, steps, k, s, width])
    x = graph.transpose(f"{name}.order", x, [0, 1, 3, 2, 4])
    x = graph.reshape(f"{name}.rows", x, [0, steps * s, k * width])
    weight = _array(layer.weight).transpose(2, 1, 0).reshape(k * width, width)
    return graph.linear(name, weight, _array(layer.bias), x)


def _bottleneck(graph: _Graph, name: str, module: nn.Module, x: str, steps: int) -> str:
    assert isinstance(module, SpatialBottleneck)
    scores = _mlp(graph, f"{name}.mlp", module.mlp, graph.norm(f"{name}.norm", module.norm, x))
    tokens, width = module.mlp.fc2.out_features, module.norm.normalized_shape[0]
    scores = graph.reshape(f"{name}.steps", scores, [0, steps, -1, tokens])
    scores = graph.transpose(f"{name}.order", scores, [0, 1, 3, 2])
    weights = graph.op("Softmax", f"{name}.softmax", scores, axis=-1)
    full = graph.reshape(f"{name}.full", x, [0, steps, -1, width])
    pooled = graph.op("MatMul", f"{name}.pool", weights, full)
    return graph.reshape(name, pooled, [0, steps * tokens, width])
