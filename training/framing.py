"""Faces in loose boxes: training views that reach beyond what was photographed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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

    The rest repeats the border, as `svfap_edge.faces.crop_face` fills a crop that reaches beyond
    the frame. It takes part with the same probability whatever the label: where only the pictures
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
