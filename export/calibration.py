"""Clips to check and calibrate an export on: cut from real files, or made up."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.bundle import Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import SourceError
from svfap_edge.evaluation.face_clips import face_clips
from svfap_edge.lists import file_digest, find_items, stratified
from svfap_edge.perception.detectors import Detector


@dataclass(frozen=True)
class Calibration:
    """Real clips, kept on disk and read one at a time.

    Attributes:
        clips: (n, T, size, size, 3) uint8 RGB, a memory-mapped file.
        digests: First 16 hexadecimal digits of the SHA-256 of each clip's file.
        labels: Label of each clip's file as written, empty where unknown.
        skipped: Files without a face, or unreadable.
    """

    clips: np.ndarray
    digests: tuple[str, ...]
    labels: tuple[str, ...]
    skipped: tuple[str, ...]


def collect_clips(
    path: Path,
    manifest: Manifest,
    detector: Detector,
    count: int,
    store: Path,
) -> Calibration:
    """One clip each of `count` files of a list or folder, labels as even as they can be.

    The clips are kept in the file `store`; memory holds one file's clips at a time. SourceError if
    there is nothing readable or no face in any file, OSError if there is no room for the clips.
    """
    items = find_items(path)
    items = stratified(items, len(items))
    shape = (min(count, len(items)), *manifest.clip.shape)
    clips = np.lib.format.open_memmap(store, mode="w+", dtype=np.uint8, shape=shape)
    _reserve(store)
    digests: list[str] = []
    labels: list[str] = []
    skipped: list[str] = []
    for item in items:
        if len(digests) == len(clips):
            break
        try:
            found = face_clips(item.path, manifest, detector)
        except SourceError:
            skipped.append(str(item.path))
            continue
        if not len(found.clips):
            skipped.append(str(item.path))
            continue
        clips[len(digests)] = found.clips[int(found.coverage.argmax())]
        digests.append(file_digest(item.path))
        labels.append(item.target[0] if len(item.target) == 1 else "")
    if not digests:
        raise SourceError(
            f"No face was found in any of the {len(items)} files of '{path}' by the "
            f"{detector.name} detector. Give face videos or photographs, or --detector none if "
            "the files are face crops."
        )
    return Calibration(clips[: len(digests)], tuple(digests), tuple(labels), tuple(skipped))


def _reserve(file: Path) -> None:
    """Take the disk space of a file now: a full disk under a memory map would end the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


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
