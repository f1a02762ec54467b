"""Changes of a whole batch: mixup and CutMix with soft targets, and views beyond the picture.

Zhang et al., "mixup: Beyond empirical risk minimization", 2018; Yun et al., "CutMix", 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from svfap_edge.training.config import NotNegative, PositiveShare, Share


@dataclass(frozen=True)
class MixSettings:
    """How batches are mixed; the defaults are those published for fine-tuning.

    Attributes:
        mixup: Alpha of the Beta distribution of mixup's share; 0 turns mixup off.
        cutmix: Alpha of the Beta distribution of CutMix's share; 0 turns CutMix off.
        switch: Probability of CutMix where both are on.
        probability: Probability that a batch is mixed at all.
    """

    mixup: NotNegative = 0.8
    cutmix: NotNegative = 1.0
    switch: Share = 0.5
    probability: Share = 1.0


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    """Class indices (B,) as probabilities (B, classes) that add up to 1.

    Label smoothing (Szegedy et al. 2016) spreads `smoothing` evenly over all classes.
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
    """Rows and columns of a box that covers 1 - share of the area, cut off at the border.

    The middle (y, x) of the box is given in 0..1.
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
        zoom_out: Probability that a clip is shrunk; 0 shrinks none.
        least_scale: Least side of a shrunk clip, as a share of the square's side.
    """

    zoom_out: Share = 0.0
    least_scale: PositiveShare = 0.7


def zoomed_out(clips: Tensor, rng: np.random.Generator, settings: FramingSettings) -> Tensor:
    """Clips (B, C, T, S, S), some of which are shrunk and moved off the middle.

    All frames of a clip move alike. The rest of the square repeats the border, as `crop_face` fills
    a crop that reaches beyond the frame.
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
