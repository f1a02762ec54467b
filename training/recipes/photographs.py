"""Labelled photographs of faces in grey, which the default model is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from svfap_edge.sources.files import read_image
from svfap_edge.training.clips.augment import AugmentSettings, augment
from svfap_edge.training.clips.geometry import fit
from svfap_edge.training.clips.photometry import LUMA as LUMA_SHARES
from svfap_edge.training.model import IMAGENET_MEAN

LABELS = ("neutral", "happiness", "surprise", "anger", "sadness", "disgust")
CACHE_SIDE = 128  # pixels
LUMA = torch.from_numpy(LUMA_SHARES).float()
GREY_MEAN = float((LUMA * torch.tensor(IMAGENET_MEAN)).sum())
GREY_STD = 0.225


@dataclass(frozen=True)
class Faces:
    """Labelled faces.

    Attributes:
        images: Grey squares (n, CACHE_SIDE, CACHE_SIDE) uint8.
        labels: Indices (n,) into `LABELS`.
    """

    images: np.ndarray
    labels: Tensor


def load_faces(folder: Path) -> Faces:
    """The photographs of a folder that holds one folder for each label."""
    images, labels = [], []
    for index, label in enumerate(LABELS):
        for path in sorted((folder / label).iterdir()):
            images.append(cv2.cvtColor(_square(read_image(path)), cv2.COLOR_RGB2GRAY))
            labels.append(index)
    return Faces(np.stack(images), torch.tensor(labels))


def _square(image: np.ndarray) -> np.ndarray:
    """The middle of a photograph, without borders, which can be learned as a sign of a label."""
    side = min(image.shape[:2])
    y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return fit(image[y : y + side, x : x + side], CACHE_SIDE)


def resized(images: np.ndarray, frames: int, size: int) -> np.ndarray:
    """Grey squares (B, S, S) as clips (B, T, size, size) uint8 that stand still; read-only."""
    small = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images]
    return np.broadcast_to(np.stack(small)[:, None], (len(images), frames, size, size))


def augmented(
    images: np.ndarray, frames: int, size: int, rng: np.random.Generator, settings: AugmentSettings
) -> np.ndarray:
    """Grey squares (B, S, S) as clips (B, T, size, size) uint8, each with its own augmentation."""
    clips = np.empty((len(images), frames, size, size), np.uint8)
    for row, image in enumerate(images):
        still = np.broadcast_to(image[..., None], (frames, *image.shape, 3))
        clips[row] = augment(still, size, rng, settings)[..., 0]
    return clips


def grey_input(grey: np.ndarray) -> Tensor:
    """Grey clips (B, T, H, W) uint8 as the model's input (B, 3, T, H, W), with equal channels.

    Mean and deviation are those of grey, not of each colour; see `fold_luminance`.
    """
    levels = (torch.from_numpy(grey.astype(np.float32)) / 255 - GREY_MEAN) / GREY_STD
    return levels[:, None].expand(-1, 3, -1, -1, -1)
