"""Augmentation of a clip: one draw for all its frames, and motion for photographs.

All geometry of a frame (crop, flip, rotation, shear, motion) is one affine map, so its pixels are
interpolated once; all changes of its levels are one table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta

from svfap_edge.training.config import NotNegative, PositiveShare, Share

from .geometry import GEOMETRIC_OPS, draw_maps, fit, warp
from .photometry import (
    LEVEL_OPS,
    apply_tables,
    equalized,
    level_tables,
    saturated,
    shade_and_noise,
    soften,
)

OPS = (*GEOMETRIC_OPS, *LEVEL_OPS, "saturation", "sharpness")
"""Operations that RandAugment chooses from."""

MAX_SATURATION = 0.9  # greatest change at magnitude 10, as RandAugment's (Cubuk et al. 2020)
MAX_SHARPNESS = 0.9
MAGNITUDE_DEVIATION = 0.5  # as published for VideoMAE fine-tuning
ERASE_LEAST_AREA = 0.02  # Zhong et al. 2020
ERASE_RATIO = 1 / 0.3


@dataclass(frozen=True)
class AugmentSettings:
    """How strongly training clips are changed.

    Attributes:
        crop_area: Least share of the area that a random crop keeps. The published 0.08 is meant
            for objects; 0.6 of a face crop (0.77 of each side) mostly keeps eyes and mouth.
        crop_ratio: Greatest ratio of a crop's sides; the least is its inverse. Published: 4/3.
        flip: Probability of a horizontal mirror image.
        tilt: Greatest rotation of every clip in degrees, as heads tilt.
        light: Strength of the change of gamma, contrast and brightness of every clip; 0 is off.
        ops: Number of further operations of RandAugment for each clip; 0 is off.
        magnitude: Strength of these operations, 0 to 10. Published for VideoMAE fine-tuning: 7.
        erase: Probability that one box is covered through the whole clip (Zhong et al. 2020).
        erase_area: Greatest share of the image that the box covers. The published 1/3 can cover
            eyes and mouth at once.
        grey: Probability that colour is removed.
        soft: Probability that a clip is shrunk and enlarged again, like a face far away.
        soft_side: Least side in pixels of such a shrunk face.
        shade: Greatest change of level at the border by light from one side, as a share of the
            full level.
        noise: Greatest standard deviation of camera noise, as a share of the full level.
        motion: Strength of the movement and change of light given to photographs (clips whose
            frames are all alike): 1 turns them by up to 5 degrees and moves them by up to 4 % of
            the side; 0 keeps them still.
    """

    crop_area: PositiveShare = 0.6
    crop_ratio: Annotated[float, Meta(ge=1, description="a number of at least 1")] = 4 / 3
    flip: Share = 0.5
    tilt: NotNegative = 10.0
    light: NotNegative = 1.0
    ops: Annotated[int, Meta(ge=0, le=len(OPS))] = 2
    magnitude: Annotated[float, Meta(ge=0, le=10)] = 7.0
    erase: Share = 0.25
    erase_area: Share = 0.2
    grey: Share = 0.2
    soft: Share = 0.2
    soft_side: Annotated[int, Meta(ge=2, description="a whole number of at least 2")] = 28
    shade: Share = 0.2
    noise: Share = 0.03
    motion: NotNegative = 1.0

    @classmethod
    def none(cls) -> AugmentSettings:
        """Settings that change nothing, to be changed by `dataclasses.replace`."""
        return cls(
            crop_area=1, crop_ratio=1, flip=0, tilt=0, light=0, ops=0, erase=0, grey=0, soft=0,
            shade=0, noise=0, motion=0,
        )  # fmt: skip


def augment(
    frames: np.ndarray, size: int, rng: np.random.Generator, settings: AugmentSettings
) -> np.ndarray:
    """A training clip: cropped, turned, recoloured and partly covered.

    All frames are changed alike, except for the motion of photographs and for noise. Everything
    random comes from `rng`; nothing is kept between calls.

    Args:
        frames: (T, H, W, 3) uint8 RGB; their longer side fills the square, as in `centre`.

    Returns:
        (T, size, size, 3) uint8.
    """
    steps = len(frames)
    motion = settings.motion if is_still(frames) else 0.0
    moved = steps if motion else 1
    chosen = choose_ops(rng, settings)
    maps = draw_maps(rng, settings, chosen, moved, motion)
    tables = level_tables(rng, chosen, settings.light, moved, motion)
    saturation = float(rng.random() >= settings.grey)
    saturation *= 1 + MAX_SATURATION * chosen.get("saturation", 0.0)
    side = _soft_side(rng, settings, size)
    box, level = _erased(rng, settings, size)

    clip = warp(frames[:1] if _is_repeated(frames) else frames, maps, size)
    if saturation != 1:
        clip = saturated(clip, saturation)
    clip = apply_tables(clip, tables)
    if "equalize" in chosen:
        clip = equalized(clip, abs(chosen["equalize"]))
    soften(clip, side, MAX_SHARPNESS * chosen.get("sharpness", 0.0))
    if len(clip) < steps:
        clip = np.repeat(clip, steps, axis=0)
    shade_and_noise(clip, rng, settings.shade, settings.noise)
    if box is not None:
        clip[:, box[0], box[1]] = level
    return clip


def centre(frames: np.ndarray, size: int) -> np.ndarray:
    """An evaluation clip (T, size, size, 3): the whole frame, its longer side filling the square.

    Beyond the shorter side the border pixels are repeated, as a deployment does at the edge of
    the camera's picture.
    """
    if _is_repeated(frames):
        return np.repeat(fit(frames[0], size)[None], len(frames), axis=0)
    return np.stack([fit(frame, size) for frame in frames])


def is_still(frames: np.ndarray) -> bool:
    """Whether all frames (T, H, W, 3) are the same picture."""
    return _is_repeated(frames) or all(np.array_equal(frames[0], f) for f in frames[1:])


def _is_repeated(frames: np.ndarray) -> bool:
    """Whether the frames share their memory, as `LabelledClips.read` repeats an image."""
    return frames.strides[0] == 0


def choose_ops(rng: np.random.Generator, settings: AugmentSettings) -> dict[str, float]:
    """Distinct operations, with their strengths in -1..1."""
    picked = rng.permutation(len(OPS))[: settings.ops]
    strengths = settings.magnitude + MAGNITUDE_DEVIATION * rng.standard_normal(len(picked))
    signs = 1 - 2 * rng.integers(2, size=len(picked))
    signed = signs * strengths.clip(0, 10) / 10
    return {OPS[i]: float(strength) for i, strength in zip(picked, signed, strict=True)}


def _soft_side(rng: np.random.Generator, settings: AugmentSettings, size: int) -> int:
    """Side in pixels to which the clip is shrunk for a while; `size` where it is not."""
    chance, share = rng.random(2)
    least = min(settings.soft_side, size)
    return least + int(share * (size - least)) if chance < settings.soft else size


def _erased(
    rng: np.random.Generator, settings: AugmentSettings, size: int
) -> tuple[tuple[slice, slice] | None, int]:
    """Rows and columns of the covered box, if any, and its grey level."""
    chance, share, ratio, y, x, level = rng.random(6)
    least = min(ERASE_LEAST_AREA, settings.erase_area)
    side = size * math.sqrt(least + share * (settings.erase_area - least))
    stretch = math.exp((2 * ratio - 1) * math.log(ERASE_RATIO) / 2)
    height = min(size, max(1, round(side * stretch)))
    width = min(size, max(1, round(side / stretch)))
    top, left = int(y * (size - height + 1)), int(x * (size - width + 1))
    box = (slice(top, top + height), slice(left, left + width))
    return (box if chance < settings.erase else None), int(256 * level)
