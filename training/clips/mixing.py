"""Mixup and CutMix of a batch, with soft targets.

Zhang et al., "mixup: Beyond empirical risk minimization", 2018; Yun et al., "CutMix", 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MixSettings:
    """How batches are mixed; the published fine-tuning values.

    Attributes:
        mixup: Alpha of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix: The same for CutMix.
        switch: Probability of CutMix where both are on.
        probability: That a batch is mixed at all.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    probability: float = 1.0

    def __post_init__(self) -> None:
        shares = 0 <= self.switch <= 1 and 0 <= self.probability <= 1
        if not shares or not (math.isfinite(self.mixup) and math.isfinite(self.cutmix)):
            raise ValueError(f"MixSettings: switch and probability are in 0..1. Got {self}.")
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(f"MixSettings: mixup and cutmix are not negative. Got {self}.")


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    """Class indices (B,) to probabilities (B, classes) that add up to 1.

    Label smoothing (Szegedy et al. 2016): `smoothing` is spread evenly over all classes.
    """
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mix(
    clips: Tensor, targets: Tensor, rng: np.random.Generator, settings: MixSettings
) -> tuple[Tensor, Tensor]:
    """Mix every clip with another of the batch, and their targets in the same share.

    One share and one box for the batch. Mixup blends two clips; CutMix puts the same box of all
    frames of one into the other, and the share is that of the area. Values are mixed linearly
    by the same share as class probabilities.

    Args:
        clips: (B, ..., H, W), floating point.
        targets: (B, L) probabilities or values.

    Returns:
        Clips and targets; new tensors, or those given where the batch is not mixed.
    """
    chance, switch = rng.random(2)
    use_cutmix = settings.cutmix > 0 and (settings.mixup == 0 or switch < settings.switch)
    alpha = settings.cutmix if use_cutmix else settings.mixup
    share = float(rng.beta(alpha, alpha)) if alpha > 0 else 1.0
    partner = torch.from_numpy(rng.permutation(len(clips))).to(clips.device)
    centre = rng.random(2)
    if alpha == 0 or chance >= settings.probability:
        return clips, targets
    if use_cutmix:
        rows, columns = cut_box(share, clips.shape[-2], clips.shape[-1], centre)
        mixed = clips.clone()
        mixed[..., rows, columns] = clips[partner][..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - area / (clips.shape[-2] * clips.shape[-1])
    else:
        mixed = share * clips + (1 - share) * clips[partner]
    return mixed, share * targets + (1 - share) * targets[partner]


def cut_box(share: float, height: int, width: int, centre: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a box of area 1 - share, cut off at the border.

    Args:
        centre: Its middle (y, x) in 0..1.
    """
    side = math.sqrt(1 - share)
    slices = []
    for length, middle in zip((height, width), centre, strict=True):
        at, half = int(middle * length), int(length * side) // 2
        slices.append(slice(max(0, at - half), min(length, at + half)))
    return slices[0], slices[1]


@dataclass(frozen=True)
class FramingSettings:
    """How often and how far views reach beyond the picture, as a detector's box does at its edge.

    Attributes:
        zoom_out: Probability that a clip is shrunk; 0 for never.
        least_scale: Least side that is left of it, of the square's.
    """

    zoom_out: float = 0.0
    least_scale: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.zoom_out <= 1 or not 0 < self.least_scale <= 1:
            raise ValueError(
                f"FramingSettings: zoom_out is in 0..1, least_scale above 0 up to 1. Got {self}."
            )


def zoomed_out(clips: Tensor, rng: np.random.Generator, settings: FramingSettings) -> Tensor:
    """Clips (B, C, T, S, S), some of them smaller and off the middle, all frames of one alike.

    The rest repeats the border, as `crop_face` of a detector fills a crop that reaches beyond the
    frame. It takes part with the same probability whatever the label: where only the pictures
    of some labels have such borders, they are learned as a sign of it.
    """
    if not settings.zoom_out:
        return clips
    count, drawn = len(clips), rng.random(len(clips)) < settings.zoom_out
    scale = np.where(drawn, rng.uniform(settings.least_scale, 1, count), 1)
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = rng.uniform(-1, 1, (count, 2)) * (1 / scale - 1)[:, None]
    pictures = clips.flatten(1, 2)
    maps = torch.from_numpy(theta).to(pictures)
    grid = F.affine_grid(maps, list(pictures.shape), align_corners=False)
    seen = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    return seen.view_as(clips)
