"""svfap-edge: facial-affect recognition on small computers.

    from svfap_edge import Engine

    with Engine.load() as engine:                     # the model that ships with the package
        face = engine.open_stream("driver", hop_s=0.5)
        for timestamp_s, crop in camera:              # crop: (H, W, 3) uint8 RGB
            for p in face.push(crop, timestamp_s):
                print(p.stream, p.end_s, p.label, p.score)

Importing this package loads neither an engine nor PyTorch; names are loaded when first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

for _switch in ("ORT_DISABLE_TELEMETRY", "NNCF_CI"):
    os.environ.setdefault(_switch, "1")
"""ONNX Runtime 1.31 and NNCF report to their makers unless this is set before they are imported.
Software that reads faces must not; a user who has set the variable is respected."""

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
"""NNCF and OpenVINO's tools report through this package, and NNCF makes an identity for the user as
it is imported, whatever is set. They do without where it cannot be imported, as now; an application
that imported it before keeps it."""

if TYPE_CHECKING:
    from svfap_edge.perception.cameras import Cameras
    from svfap_edge.perception.detectors import Box
    from svfap_edge.perception.perceiver import Perceiver
    from svfap_edge.perception.results import Perception, Person
    from svfap_edge.runner.run import run
    from svfap_edge.sinks.jsonl import JsonLines
    from svfap_edge.sinks.lines import LineSink
    from svfap_edge.sinks.sink import Sink
    from svfap_edge.sources.live import LiveSettings, PulledFrames, PushSource
    from svfap_edge.sources.opening import open_source

    from .bundle import Bundle
    from .errors import ConfigError, FrameError, SvfapError, TimestampError
    from .runtimes import Engine, Prediction, Stream
    from .tasks import TASKS, Task

__version__ = "0.1.0"

_HOMES = {
    "Box": "perception.detectors",
    "Bundle": "bundle",
    "Cameras": "perception.cameras",
    "ConfigError": "errors",
    "Engine": "runtimes",
    "FrameError": "errors",
    "JsonLines": "sinks.jsonl",
    "LineSink": "sinks.lines",
    "LiveSettings": "sources.live",
    "Perceiver": "perception.perceiver",
    "Perception": "perception.results",
    "Person": "perception.results",
    "Prediction": "runtimes",
    "PulledFrames": "sources.live",
    "PushSource": "sources.live",
    "Sink": "sinks.sink",
    "Stream": "runtimes",
    "SvfapError": "errors",
    "TASKS": "tasks",
    "Task": "tasks",
    "TimestampError": "errors",
    "open_source": "sources.opening",
    "run": "runner.run",
}

__all__ = [
    "TASKS",
    "Box",
    "Bundle",
    "Cameras",
    "ConfigError",
    "Engine",
    "FrameError",
    "JsonLines",
    "LineSink",
    "LiveSettings",
    "Perceiver",
    "Perception",
    "Person",
    "Prediction",
    "PulledFrames",
    "PushSource",
    "Sink",
    "Stream",
    "SvfapError",
    "Task",
    "TimestampError",
    "open_source",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'svfap_edge' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
