"""What TensorRT does not take of our ONNX graphs, changed to what it does.

TensorRT moves no bytes about, and reads unsigned quantization as if it were signed.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from svfap_edge.export.signed import _sign_activations
from svfap_edge.runtimes.backend import INPUT_NAME


def adapt_to_tensorrt(model: onnx.ModelProto) -> None:
    """Change a model in place to what TensorRT takes; without effect where nothing is to change.

    - The bytes of `clips` become numbers first. We cut the patches while they are bytes, which
      TensorRT cannot do. Half precision holds 0..255 exactly, at half the traffic of float32.
    - Unsigned activations (NNCF's choice behind ReLU, zero point 0) become signed ones of the same
      range, at half the resolution. TensorRT would read them as signed with the scale as it is:
      a warning, and everything above half the range cut off.

    Raises:
        EngineIncompatible: unsigned quantization with another zero point, or of weights.
    """
    del model.graph.value_info[:]  # hints about types, no longer true
    _cast_clips_first(model.graph)
    _sign_activations(model.graph)


def _cast_clips_first(graph: onnx.GraphProto) -> None:
    half = f"{INPUT_NAME}.half"
    users = [node for node in graph.node if INPUT_NAME in node.input]
    if all(node.op_type == "Cast" for node in users):
        return
    for node in users:
        node.input[:] = [half if name == INPUT_NAME else name for name in node.input]
    cast = helper.make_node("Cast", [INPUT_NAME], [half], name=half, to=TensorProto.FLOAT16)
    graph.node.insert(0, cast)
