"""Smooth random change over time."""

from __future__ import annotations

import numpy as np


def random_path(rng: np.random.Generator, steps: int, level: float, drift: float) -> np.ndarray:
    """(steps,): a random level within +-`level` that swings by up to `drift` along a sine."""
    start, depth, turns, phase = rng.random(4)
    time = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    swing = np.sin(2 * np.pi * ((0.2 + turns) * time + phase))
    path: np.ndarray = (2 * start - 1) * level + drift * depth * swing
    return path
