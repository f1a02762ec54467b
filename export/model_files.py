"""Model files read, written, and changed to what the engines take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from svfap_edge.errors import EngineIncompatible, SvfapError
from svfap_edge.runtimes.backend import INPUT_NAME

OPSET = 20
"""Has Gelu and LayerNormalization; ONNX Runtime's static quantizer takes nothing newer."""


def read_onnx(source: Path) -> onnx.ModelProto:
    """Read an ONNX model; SvfapError if there is no such file, EngineIncompatible if it is not ONNX
    or empty."""
    if not source.is_file():
        raise SvfapError(f"There is no ONNX file '{source}'.")
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf's own, which differs between its versions
        raise EngineIncompatible(f"'{source}' is not readable as ONNX ({error}).") from error
    if not model.graph.node:
        raise EngineIncompatible(f"'{source}' is not an ONNX model, or an empty one.")
    return model


def run_onnx(model: onnx.ModelProto, clips: Iterable[np.ndarray], fused: bool = True) -> np.ndarray:
    """Logits (N, L) of a model in memory on ONNX Runtime, for clips (T, H, W, 3).

    Not `fused` gives what the arithmetic of the file says: each node by itself, so that a Q/DQ pair
    rounds and everything between is computed in float32. Engines that fuse them into INT8 differ
    from it by their own rounding.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rows = [session.run(["logits"], {INPUT_NAME: np.asarray(clip)[None]})[0] for clip in clips]
    return np.concatenate(rows)


def write_openvino(model: Any, target: Path, *, half: bool = False) -> None:
    """Write an OpenVINO model: `target` (.xml), and its weights beside it (.bin), in half precision
    if asked for. OSError if it cannot be written; OpenVINO does not say why."""
    import openvino as ov

    try:
        ov.save_model(model, str(target), compress_to_fp16=half)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:]
        raise OSError(
            f"OpenVINO cannot write '{target.name}' ({' '.join(reason)}); is the disk full?"
        ) from error


def adapt_to_tensorrt(model: onnx.ModelProto) -> None:
    """Change a model in place to what TensorRT takes; without effect where nothing is to change.

    - The bytes of `clips` become numbers first. We cut the patches while they are bytes, which
      TensorRT cannot do. Half precision holds 0..255 exactly, at half the traffic of float32.
    - Unsigned activations become signed ones; see `sign_activations`.
    """
    sign_activations(model)
    half = f"{INPUT_NAME}.half"
    users = [node for node in model.graph.node if INPUT_NAME in node.input]
    if all(node.op_type == "Cast" for node in users):
        return
    for node in users:
        node.input[:] = [half if name == INPUT_NAME else name for name in node.input]
    cast = helper.make_node("Cast", [INPUT_NAME], [half], name=half, to=TensorProto.FLOAT16)
    model.graph.node.insert(0, cast)


def sign_activations(model: onnx.ModelProto) -> None:
    """Turn unsigned activations (zero point 0) of a Q/DQ model into signed ones of the same range.

    NNCF uses uint8 where an activation is never negative. TensorRT would read it as signed with the
    scale as it is: a warning, and everything above half of the range cut off. The signed one has
    half of the resolution. EngineIncompatible for another zero point, or for weights.
    """
    graph = model.graph
    del graph.value_info[:]  # hints about types, which are about to change
    constants = {tensor.name: tensor for tensor in graph.initializer}
    signed: dict[str, str] = {}  # names of constants to those that take their places

    def replace(name: str, values: np.ndarray) -> str:
        if name not in signed:
            signed[name] = f"{name}.signed"
            graph.initializer.append(numpy_helper.from_array(values, signed[name]))
        return signed[name]

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
        node.input[1], node.input[2] = replace(scale, wider), replace(zero, zeros.astype(np.int8))
    if signed:
        drop_unused_constants(graph)


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove the constants that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
