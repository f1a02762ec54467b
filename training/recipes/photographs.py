"""Photographs of faces in grey, with what people said of them, which the default model learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from svfap_edge.errors import SourceError
from svfap_edge.sources.files import read_image
from svfap_edge.training.clips.augment import AugmentSettings, augment
from svfap_edge.training.clips.geometry import fit
from svfap_edge.training.clips.mixing import soft_targets
from svfap_edge.training.clips.photometry import LUMA as LUMA_SHARES
from svfap_edge.training.model import IMAGENET_MEAN

LABELS = ("neutral", "happiness", "surprise", "anger", "sadness", "disgust", "fear")
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
"""The columns of FER+'s votes that name an expression; "unknown" and "no face" follow."""

CACHE_SIDE = 128  # pixels
LUMA = torch.from_numpy(LUMA_SHARES).float()
GREY_MEAN = float((LUMA * torch.tensor(IMAGENET_MEAN)).sum())
GREY_STD = 0.225

COPY_COSINE = 0.97
"""Two photographs whose thumbnails are at least so much alike are one photograph."""
THUMBNAIL = 16  # pixels


@dataclass(frozen=True)
class Faces:
    """Faces and opinions on them.

    Attributes:
        images: Grey squares (n, CACHE_SIDE, CACHE_SIDE) uint8.
        targets: Share of the opinion (n, L) that each of `LABELS` has; a row adds up to 1.
    """

    images: np.ndarray
    targets: Tensor

    @property
    def labels(self) -> Tensor:
        """Index (n,) of the label that most people chose."""
        return self.targets.argmax(1)

    def take(self, index: np.ndarray) -> Faces:
        """Those of some places, or those for which a mask is true."""
        return Faces(self.images[index], self.targets[torch.from_numpy(index)])


def together(parts: Sequence[Faces]) -> Faces:
    images = np.concatenate([part.images for part in parts])
    return Faces(images, torch.cat([part.targets for part in parts]))


def load_faces(folder: Path) -> Faces:
    """The photographs of a folder that holds one folder for each label; a tenth of each target is
    spread over all labels, since one person's label is doubtful."""
    images, labels = [], []
    for index, label in enumerate(LABELS):
        for path in sorted((folder / label).iterdir()):
            images.append(cv2.cvtColor(_square(read_image(path)), cv2.COLOR_RGB2GRAY))
            labels.append(index)
    return Faces(np.stack(images), soft_targets(torch.tensor(labels), len(LABELS)))


def load_ferplus(file: Path) -> Faces:
    """The photographs of an archive with `images` (N, 48, 48) uint8 and FER+'s `votes` (N, 10).

    Those that most people call something else than one of `LABELS` are left out. Single votes count
    as slips, as Barsoum et al., "Training deep networks for facial expression recognition with
    crowd-sourced label distribution", 2016, take them.
    """
    try:
        with np.load(file) as archive:
            images, votes = archive["images"], archive["votes"]
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"'{file}' is not an archive with images and votes: {error}.") from error
    columns = [VOTED.index(label) for label in LABELS]
    kept = np.isin(votes.argmax(1), columns) & (votes.max(1) > 1)  # or nothing would be left
    counted = votes[kept][:, columns].astype(np.float32)
    counted[counted <= 1] = 0
    large = [cv2.resize(i, (CACHE_SIDE, CACHE_SIDE), interpolation=cv2.INTER_LINEAR)
             for i in images[kept]]  # fmt: skip
    return Faces(np.stack(large), torch.from_numpy(counted / counted.sum(1, keepdims=True)))


def without_copies(faces: Faces, others: Faces) -> Faces:
    """The faces of which there is no copy, mirror images included, among others."""
    theirs = _thumbnails(others.images)
    alike = np.zeros(len(faces.images), bool)
    for flipped in (False, True):
        ours = _thumbnails(faces.images[:, :, ::-1] if flipped else faces.images)
        for start in range(0, len(ours), 2048):
            found = ours[start : start + 2048] @ theirs.T >= COPY_COSINE
            alike[start : start + 2048] |= found.any(1)
    return faces.take(~alike)


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Images as vectors of length 1 without their mean."""
    side = (THUMBNAIL, THUMBNAIL)
    small = [cv2.resize(image, side, interpolation=cv2.INTER_AREA) for image in images]
    flat = np.stack(small).reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def divided(faces: Faces, share: float, rng: np.random.Generator) -> tuple[Faces, Faces]:
    """Faces without a share of them, and that share, in which every label has its part.

    Those that are kept do not have copies in the share.
    """
    labels = faces.labels.numpy()
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        chosen[places[: round(share * len(places))]] = True
    apart = faces.take(chosen)
    return without_copies(faces.take(~chosen), apart), apart


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


def grey_input(grey: Tensor) -> Tensor:
    """Grey clips (B, T, H, W) uint8 as the model's input (B, 3, T, H, W), with equal channels.

    Mean and deviation are those of grey, not of each colour; see `fold_luminance`.
    """
    levels = (grey.float() / 255 - GREY_MEAN) / GREY_STD
    return levels[:, None].expand(-1, 3, -1, -1, -1)
