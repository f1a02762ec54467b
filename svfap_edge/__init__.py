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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle as Bundle
    from .errors import FrameError as FrameError
    from .errors import SvfapError as SvfapError
    from .errors import TimestampError as TimestampError
    from .perception.cameras import Cameras as Cameras
    from .perception.detectors import Box as Box
    from .perception.perceiver import Perceiver as Perceiver
    from .perception.results import Perception as Perception
    from .perception.results import Person as Person
    from .runner.run import run as run
    from .runtimes import Engine as Engine
    from .runtimes import Prediction as Prediction
    from .runtimes import Stream as Stream
    from .sources.live import LiveSettings as LiveSettings
    from .sources.live import PulledFrames as PulledFrames
    from .sources.live import PushSource as PushSource
    from .sources.opening import open_source as open_source
    from .tasks import TASKS as TASKS
    from .tasks import Task as Task

__version__ = "0.1.0"

_HOMES = {
    "Box": "perception.detectors",
    "Bundle": "bundle",
    "Cameras": "perception.cameras",
    "Engine": "runtimes",
    "FrameError": "errors",
    "LiveSettings": "sources.live",
    "Perceiver": "perception.perceiver",
    "Perception": "perception.results",
    "Person": "perception.results",
    "Prediction": "runtimes",
    "PulledFrames": "sources.live",
    "PushSource": "sources.live",
    "Stream": "runtimes",
    "SvfapError": "errors",
    "TASKS": "tasks",
    "Task": "tasks",
    "TimestampError": "errors",
    "open_source": "sources.opening",
    "run": "runner.run",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'svfap_edge' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
