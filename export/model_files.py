"""Models read and written with errors that tell, and files that appear complete or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from svfap_edge.errors import EngineIncompatible, SvfapError


def read_onnx(source: Path) -> onnx.ModelProto:
    """Read an ONNX model.

    Raises:
        SvfapError: no such file.
        EngineIncompatible: it is not ONNX, or empty.
    """
    if not source.is_file():
        raise SvfapError(f"There is no ONNX file '{source}'.")
    try:
        model = onnx.load(str(source))
    except Exception as error:  # protobuf's own, which differs between its versions
        raise EngineIncompatible(f"'{source}' is not readable as ONNX ({error}).") from error
    if not model.graph.node:
        raise EngineIncompatible(f"'{source}' is not an ONNX model, or an empty one.")
    return model


def write_openvino(model: Any, target: Path, *, half: bool = False) -> None:
    """Write an OpenVINO model: `target` (.xml), and its weights beside it (.bin).

    Args:
        half: Keep float weights in half precision.

    Raises:
        OSError: it cannot be written. OpenVINO does not say why; a full disk most often.
    """
    import openvino as ov

    try:
        ov.save_model(model, str(target), compress_to_fp16=half)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:]
        raise OSError(
            f"OpenVINO cannot write '{target.name}' ({' '.join(reason)}); is the disk full?"
        ) from error
