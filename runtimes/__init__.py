"""Engines behind one interface, and the streaming API on top. An engine is imported on use."""

from .backend import Backend, ModelSpec, Outputs
from .choice import available_engines, load_backend
from .engine import Engine
from .prediction import Prediction
from .stream import Stream

__all__ = [
    "Backend",
    "Engine",
    "ModelSpec",
    "Outputs",
    "Prediction",
    "Stream",
    "available_engines",
    "load_backend",
]
