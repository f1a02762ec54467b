"""Clips of faces from files, cut exactly as a deployment would cut them.

Calibration and evaluation stand on this: the same detector, tracker, crop, sampling and coverage
as `Perceiver`, with a recorder where the model would be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.bundle import Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import SourceError
from svfap_edge.media import is_picture
from svfap_edge.perception.detectors import Box, Detector, crop_face
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine, ModelSpec, Outputs
from svfap_edge.schedule import MIN_COVERAGE
from svfap_edge.sources.files import read_image
from svfap_edge.sources.opening import open_source

CLIPS_PER_SPAN = 2
"""Clips overlap by half: a hop is half a span."""

PADDING = 0.3
"""A photograph in which no face is found is tried again with this border around it: detectors miss
faces that fill the picture."""

CoveredClip = tuple[np.ndarray, float]
"""A clip (T, size, size, 3) and its coverage."""


class ClipRecorder:
    """A backend that keeps the clips it is given and predicts nothing."""

    def __init__(self, clip: ClipSpec, outputs: int) -> None:
        self.spec = ModelSpec(clip, outputs, 0, "recorder", "recorder", "none")
        self.batch: np.ndarray | None = None

    def run(self, clips: np.ndarray) -> Outputs:
        self.batch = clips
        return Outputs(np.zeros((len(clips), self.spec.outputs), np.float32), None)

    def close(self) -> None:
        self.batch = None


@dataclass(frozen=True)
class FaceClips:
    """The clips of one file's main person, who is the one seen in most of them.

    Attributes:
        clips: (N, T, size, size, 3) uint8 RGB; N is 0 where no face was found.
        coverage: (N,) share of real frames in each clip.
    """

    clips: np.ndarray
    coverage: np.ndarray


def face_clips(path: Path, manifest: Manifest, detector: Detector) -> FaceClips:
    """Cut the clips of a video, a folder of frames, or an image (its face, repeated).

    A video too short for a covered clip gives the best covered one.

    Raises:
        SourceError: The file cannot be read.
    """
    if is_picture(path) and not path.is_dir():
        image = read_image(path)
        box = find_face(image, detector)
        if box is None:
            return _no_clips(manifest.clip)
        face = crop_face(image, box, manifest.margin, manifest.clip.size)
        clip = np.repeat(face[None, None], manifest.clip.frames, axis=1)
        return FaceClips(clip, np.ones(1))
    return _video_clips(path, manifest, detector)


def find_face(image: np.ndarray, detector: Detector) -> Box | None:
    """The largest face of a photograph, also one that fills it; None if there is none."""
    found = detector.detect(image)
    if found:
        return found[0]
    pad = round(PADDING * max(image.shape[:2]))
    framed = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    found = detector.detect(framed)
    return found[0].moved(-pad, -pad) if found else None


def _no_clips(spec: ClipSpec) -> FaceClips:
    return FaceClips(np.empty((0, *spec.shape), np.uint8), np.empty(0))


def _video_clips(path: Path, manifest: Manifest, detector: Detector) -> FaceClips:
    spec = manifest.clip
    people = _watch(path, manifest, detector, spec.span_s / CLIPS_PER_SPAN)
    if not people:
        return _no_clips(spec)
    chosen = [entry for entry in _main_person(people) if entry[1] >= MIN_COVERAGE]
    if not chosen:  # too short for its hops: look again at every tubelet, take the best
        people = _watch(path, manifest, detector, spec.spacing_s)
        chosen = [max(_main_person(people), key=lambda entry: entry[1])]
    clips, coverage = zip(*chosen, strict=True)
    return FaceClips(np.stack(clips), np.array(coverage))


def _main_person(people: dict[str, list[CoveredClip]]) -> list[CoveredClip]:
    return max(people.values(), key=lambda clips: len(clips))


def _watch(
    path: Path, manifest: Manifest, detector: Detector, hop_s: float
) -> dict[str, list[CoveredClip]]:
    """Clips and their coverage by person, as a perceiver of the video makes them."""
    recorder = ClipRecorder(manifest.clip, len(manifest.task.labels))
    people: dict[str, list[CoveredClip]] = {}
    frames = 0
    with Engine(recorder, manifest) as engine, open_source(path) as source:
        least = 1 / manifest.clip.frames
        perceiver = Perceiver(engine, detector=detector, hop_s=hop_s, min_coverage=least)
        for frame in source:
            frames += 1
            if frame.gap:
                perceiver.reset()
            for row, p in enumerate(perceiver.process(frame.image, frame.timestamp_s).predictions):
                assert recorder.batch is not None
                clip = recorder.batch[row].copy()  # the engine gathers the next in the same memory
                people.setdefault(p.stream, []).append((clip, p.coverage))
    if not frames:
        raise SourceError(f"'{path}' has no readable frame.")
    return people
