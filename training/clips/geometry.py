"""Where each pixel of a training clip comes from: one affine map per frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from .augment import AugmentSettings

GEOMETRIC_OPS = ("rotate", "shear", "shift")

# Greatest change of an operation at magnitude 10. Rotation and shear are RandAugment's (Cubuk et
# al. 2020); its shift of 0.45 of the side would push the mouth or the eyes out of a face crop.
MAX_ROTATION = math.radians(30)
MAX_SHEAR = 0.3
MAX_SHIFT = 0.1

# How far a photograph in motion turns, grows and moves: radians, logarithm, shares of half a side.
TURN, GROWTH, MOVE = 0.08, 0.06, 0.08


def draw_maps(
    rng: np.random.Generator,
    settings: AugmentSettings,
    chosen: Mapping[str, float],
    steps: int,
    motion: float,
) -> np.ndarray:
    """Affine maps (steps, 2, 3) from result to source, both squares of -1..1.

    Args:
        chosen: Strengths in -1..1 of the `GEOMETRIC_OPS` to apply.
        steps: Number of frames that differ; 1 without motion.
        motion: Strength of the movement over the steps.
    """
    area = rng.uniform(settings.crop_area, 1)
    limit = math.log(settings.crop_ratio)
    stretch = math.exp(rng.uniform(-limit, limit) / 2)
    half_x, half_y = min(1.0, math.sqrt(area) * stretch), min(1.0, math.sqrt(area) / stretch)
    x, y = rng.uniform(-1, 1, 2) * (1 - half_x, 1 - half_y)
    sign = -1.0 if rng.random() < settings.flip else 1.0
    shear, shift = np.zeros(2), np.zeros(2)
    along = rng.integers(2, size=2)
    shear[along[0]] = MAX_SHEAR * chosen.get("shear", 0.0)
    shift[along[1]] = 2 * MAX_SHIFT * chosen.get("shift", 0.0)
    roll = MAX_ROTATION * chosen.get("rotate", 0.0)
    angle = roll + random_path(rng, steps, math.radians(settings.tilt), TURN * motion)
    scale = np.exp(random_path(rng, steps, 0.0, GROWTH * motion))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    maps = np.empty((steps, 2, 3))
    maps[:, 0, 0] = half_x * sign * cos
    maps[:, 0, 1] = half_x * (shear[0] - sin)
    maps[:, 0, 2] = x + shift[0] + random_path(rng, steps, 0.0, MOVE * motion)
    maps[:, 1, 0] = half_y * sign * (sin + shear[1])
    maps[:, 1, 1] = half_y * cos
    maps[:, 1, 2] = y + shift[1] + random_path(rng, steps, 0.0, MOVE * motion)
    return maps


def warp(frames: np.ndarray, maps: np.ndarray, size: int) -> np.ndarray:
    """Frames (T or 1, H, W, 3), moved by maps (T or 1, 2, 3), as (T, size, size, 3).

    The square of the source is centred on the frame and as wide as its longer side; beyond the
    frame its border pixels are repeated.
    """
    longer = max(frames.shape[1:3])
    crop = longer * math.sqrt(abs(np.linalg.det(maps[0][:, :2])))
    if crop > 1.5 * size:  # otherwise fine detail would alias
        frames = _shrunk(frames, size / crop)
    height, width = frames.shape[1:3]
    half = max(height, width) / 2
    matrices = maps * half
    matrices[:, :, :2] *= 2 / size
    # Pixel centres are whole numbers: 0 is half a pixel inside the square.
    offset = matrices[:, :, :2].sum(-1) * ((size - 1) / 2)
    matrices[:, :, 2] += np.array(((width - 1) / 2, (height - 1) / 2)) - offset
    clip = np.empty((max(len(frames), len(maps)), size, size, 3), np.uint8)
    for step, target in enumerate(clip):
        cv2.warpAffine(
            frames[step % len(frames)],
            matrices[step % len(maps)],
            (size, size),
            dst=target,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return clip


def fit(frame: np.ndarray, size: int) -> np.ndarray:
    """The whole frame in the middle of a square (size, size, 3), its border pixels repeated."""
    height, width = frame.shape[:2]
    scale = size / max(height, width)
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(frame, shape, interpolation=how)
    x, y = size - shape[0], size - shape[1]
    pads = (y // 2, y - y // 2, x // 2, x - x // 2)
    return cv2.copyMakeBorder(small, *pads, cv2.BORDER_REPLICATE) if x or y else small


def _shrunk(frames: np.ndarray, scale: float) -> np.ndarray:
    shape = tuple(max(1, round(side * scale)) for side in frames.shape[2:0:-1])
    return np.stack([cv2.resize(f, shape, interpolation=cv2.INTER_AREA) for f in frames])


def random_path(rng: np.random.Generator, steps: int, level: float, drift: float) -> np.ndarray:
    """Numbers (steps,): a random level within +-`level`, swinging by up to `drift` along a sine."""
    start, depth, turns, phase = rng.random(4)
    time = np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)
    swing = np.sin(2 * np.pi * ((0.2 + turns) * time + phase))
    path: np.ndarray = (2 * start - 1) * level + drift * depth * swing
    return path
