"""Light, levels, colour and noise of a clip. Changes of level are tables of 256 entries."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import cv2
import numpy as np

from .geometry import random_path

LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in luminance (ITU-R BT.601)."""

LEVEL_OPS = ("brightness", "contrast", "gamma", "posterize", "equalize")

# Greatest change of an operation at magnitude 10. With RandAugment's (Cubuk et al. 2020), a factor
# of 0.1 to 1.9 on brightness and contrast and 4 to 0 bits, some faces can no longer be read.
MAX_BRIGHTNESS = 0.2  # of the full level
MAX_CONTRAST = 0.5  # of the logarithm of the slope
MAX_GAMMA = 0.5  # of the logarithm of the exponent
LEAST_BITS = 4

# Greatest change of every clip, times `light`; how far it swings within a clip, times `motion`.
GAMMA, CONTRAST, BRIGHTNESS = (0.4, 0.1), (0.3, 0.05), (0.08, 0.05)

_RAMP = np.linspace(0, 1, 256)
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
NOISE_ROOM = 32  # pixels by which the field of noise exceeds a frame; each takes another place


def level_tables(
    rng: np.random.Generator,
    chosen: Mapping[str, float],
    light: float,
    steps: int,
    motion: float,
) -> np.ndarray:
    """Tables (steps, 256) uint8: gamma, then contrast and brightness, then posterization.

    `chosen` has the strengths in -1..1 of the `LEVEL_OPS` to apply; the other arguments are those
    of `geometry.draw_maps`.
    """

    def path(op: str, most: float, base: tuple[float, float]) -> np.ndarray:
        swing = random_path(rng, steps, base[0] * light, base[1] * motion)
        return (most * chosen.get(op, 0.0) + swing)[:, None]

    curve = _RAMP ** np.exp(path("gamma", MAX_GAMMA, GAMMA))
    curve = (curve - 0.5) * np.exp(path("contrast", MAX_CONTRAST, CONTRAST)) + 0.5
    curve += path("brightness", MAX_BRIGHTNESS, BRIGHTNESS)
    tables: np.ndarray = (255 * curve + 0.5).clip(0, 255).astype(np.uint8)
    bits = 8 - round(abs(chosen.get("posterize", 0.0)) * (8 - LEAST_BITS))
    if bits < 8:
        tables &= 256 - (1 << (8 - bits))
        tables += (1 << (8 - bits)) >> 1  # the middle of each step: brightness stays
    return tables


def apply_tables(clip: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace the levels of a clip (T, H, W, 3) by those of tables (T or 1, 256)."""
    if len(tables) == 1:
        return cv2.LUT(clip.reshape(-1, clip.shape[2], 3), tables[0]).reshape(clip.shape)
    for frame, table in zip(clip, tables, strict=True):
        cv2.LUT(frame, table, dst=frame)
    return clip


def equalized(clip: np.ndarray, strength: float) -> np.ndarray:
    """Move the levels of a clip towards a flat histogram of its green, by `strength` in 0..1."""
    sample = clip[:: max(1, len(clip) // 4), ::2, ::2, 1]
    counts = np.bincount(sample.ravel(), minlength=256)
    flat = (np.cumsum(counts) - counts / 2) / counts.sum()
    table = ((1 - strength) * _RAMP + strength * flat) * 255 + 0.5
    return apply_tables(clip, table.astype(np.uint8)[None])


def saturated(clip: np.ndarray, saturation: float) -> np.ndarray:
    """Multiply the colour of a clip: 0 is grey, 1 leaves it, above 1 there is more of it."""
    matrix = saturation * np.eye(3) + (1 - saturation) * LUMA
    return cv2.transform(clip.reshape(-1, clip.shape[2], 3), matrix).reshape(clip.shape)


def soften(clip: np.ndarray, side: int, sharpness: float) -> None:
    """Shrink and enlarge a clip in place; then sharpen it, or blur it for a sharpness below 0."""
    size = clip.shape[1]
    for frame in clip:
        if side < size:
            small = cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA)
            cv2.resize(small, (size, size), dst=frame, interpolation=cv2.INTER_LINEAR)
        if sharpness:
            smooth = cv2.blur(frame, (3, 3))
            cv2.addWeighted(frame, 1 + sharpness, smooth, -sharpness, 0, dst=frame)


def shade_and_noise(clip: np.ndarray, rng: np.random.Generator, shade: float, noise: float) -> None:
    """Add light from one side, the same in all frames, and other noise in each frame, in place."""
    size = clip.shape[1]
    across, down = 255 * shade * rng.uniform(-1, 1, 2) / np.sqrt(2)
    deviation = 255 * noise * float(rng.random())
    if not shade and not noise:
        return
    axis = np.linspace(-1, 1, size)
    ramp = (across * axis[None] + down * axis[:, None]).round().astype(np.int16)
    ramp = np.repeat(ramp[..., None], 3, axis=2)
    field_side = size + NOISE_ROOM
    bytes_ = rng.integers(0, 256, (field_side, field_side, 3), dtype=np.uint8)
    field = cv2.LUT(bytes_, (deviation * _NORMAL).round().astype(np.int16))
    for frame, (y, x) in zip(clip, rng.integers(0, NOISE_ROOM, (len(clip), 2)), strict=True):
        change = cv2.add(ramp, field[y : y + size, x : x + size])
        cv2.add(frame, change, dst=frame, dtype=cv2.CV_8U)
