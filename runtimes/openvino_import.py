"""OpenVINO without its model converter, which a device that only runs models does not need.

Importing `openvino` also imports its converter, where that can be imported: half of the import's
time, and a telemetry client with it. Here the converter is held back until someone asks for
`openvino.convert_model`. An `openvino` imported before this module is left as it is.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

CONVERTER = "openvino.tools.ovc"


def _import() -> Any:
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # makes its import an ImportError
    try:
        module = importlib.import_module("openvino")
    finally:
        del sys.modules[CONVERTER]
    if not hasattr(module, "convert_model"):
        module.__getattr__ = _late  # type: ignore[method-assign]
    return module


def _late(name: str) -> Any:
    if name == "convert_model":
        return importlib.import_module(CONVERTER).convert_model
    raise AttributeError(f"module 'openvino' has no attribute '{name}'")


ov = _import()
