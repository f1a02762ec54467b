"""Clips to check an export on: from real videos and photographs, or made up."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from svfap_edge.clip import ClipSpec
from svfap_edge.datalist import find_media
from svfap_edge.errors import SourceError
from svfap_edge.faces import crop_face, whole_frame
from svfap_edge.sources import open_source


def clips_of(path: Path, spec: ClipSpec, count: int) -> np.ndarray:
    """Clips (count or fewer, T, H, W, 3) spread over a list, a folder, a video or an image.

    Raises:
        SourceError: nothing readable there.
    """
    media = find_media(path)
    picks = np.unique(np.linspace(0, len(media) - 1, min(count, len(media))).round().astype(int))
    return np.stack([clip_from_file(media[i].path, spec) for i in picks])


def clip_from_file(path: Path, spec: ClipSpec) -> np.ndarray:
    """(T, H, W, 3): the first clip of a video or frame folder, or an image repeated.

    A slot takes the frame nearest to its time; a source shorter than the clip ends on its last
    frame.
    """
    times = np.arange(spec.frames) * spec.spacing_s
    frames: list[np.ndarray] = []
    stamps: list[float] = []
    with open_source(str(path)) as source:
        for frame in source:
            frames.append(crop_face(frame.image, whole_frame(frame.image), 0.0, spec.size))
            stamps.append(frame.timestamp_s)
            if frame.timestamp_s - stamps[0] > times[-1]:
                break
    if not frames:
        raise SourceError(f"'{path}' has no readable frame.")
    offsets = np.array(stamps) - stamps[0]
    nearest = np.abs(offsets[None] - times[:, None]).argmin(1)
    return np.stack([frames[i] for i in nearest])


def synthetic_clips(spec: ClipSpec, count: int, seed: int = 0) -> np.ndarray:
    """Clips of drifting colour clouds with noise: they touch all weights, and mean nothing."""
    random = np.random.default_rng(seed)
    clips = np.empty((count, *spec.shape), np.uint8)
    for clip in clips:
        first, last = random.uniform(0, 255, (2, 6, 6, 3)).astype(np.float32)
        for index, share in enumerate(np.linspace(0, 1, spec.frames)):
            coarse = (1 - share) * first + share * last
            cloud = cv2.resize(coarse, (spec.size, spec.size), interpolation=cv2.INTER_CUBIC)
            noise = random.normal(0, 12, cloud.shape)
            clip[index] = (cloud + noise).clip(0, 255).astype(np.uint8)
    return clips
