"""Labelled clips: which frames of a video, a frame folder or an image the model is shown.

Faces are expected to be cropped already, as in the published data sets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.lists import (
    Item,
    class_targets,
    find_items,
    leave_out,
    require_order,
    value_targets,
)
from svfap_edge.media import IMAGE_SUFFIXES
from svfap_edge.sources.files import TIMESTAMPS, folder_times, read_image
from svfap_edge.tasks import Task

from .video import read_video


@dataclass(frozen=True)
class Sampling:
    """Which frames make a clip.

    Attributes:
        frames: Frames T of a clip.
        spacing_s: Seconds between them, for videos and for frame folders with `timestamps.csv`.
            Published: 4 frames at 25 fps.
        stride: Frames from one to the next, for other frame folders. FERV39k: 1.
        views: Clips of an item in evaluation, spread evenly over it. Published: 2, the first at
            the beginning and the second at the end.
    """

    frames: int = 16
    spacing_s: float = 0.16
    stride: int = 4
    views: int = 2

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.views) < 1 or not self.spacing_s > 0:
            raise ValueError(
                f"Sampling: frames, stride and views start at 1, spacing_s is positive. Got {self}."
            )

    @classmethod
    def of_task(cls, task: Task, frames: int = 16, views: int = 2) -> Sampling:
        """Frames as far apart as the task's models were trained on."""
        return cls(frames, task.spacing_s, task.stride, views)

    def choose(
        self, times: np.ndarray, spacing: float, rng: np.random.Generator | None, view: int
    ) -> np.ndarray:
        """Indices (T,) into increasing `times` (n,), `spacing` apart in the same unit.

        Each slot takes the frame nearest in time. A clip that is longer than the recording
        starts with it and repeats the last frame, as published; motion keeps its speed.

        Args:
            rng: Draws the start, for training; None for evaluation.
            view: Number of the view in evaluation.
        """
        room = max(0.0, times[-1] - times[0] - (self.frames - 1) * spacing)
        if rng is not None:
            share = float(rng.random())
        elif not 0 <= view < self.views:
            raise ValueError(f"View {view} of {self.views} views.")
        else:
            share = 0.5 if self.views == 1 else view / (self.views - 1)
        slots = times[0] + share * room + spacing * np.arange(self.frames)
        right = np.searchsorted(times, slots).clip(0, len(times) - 1)
        left = (right - 1).clip(0)
        return np.where(slots - times[left] <= times[right] - slots, left, right)


@dataclass(frozen=True)
class LabelledClips:
    """Items of a list in the published format, read as clips.

    Attributes:
        items: Videos, folders of frames, images.
        targets: Class indices (n,), or values (n, L).
        sampling: Which frames make a clip.
        unknown: Labels to be ignored that neither the task nor this list has.
    """

    items: Sequence[Item]
    targets: np.ndarray
    sampling: Sampling
    unknown: tuple[str, ...] = ()

    @classmethod
    def open(
        cls, data: Path, task: Task | None, sampling: Sampling, ignore: Sequence[str] = ()
    ) -> LabelledClips:
        """Items of a list file, or of a folder whose subfolders name the labels.

        Args:
            task: None reads no labels; every target is 0.
            ignore: Labels whose items are left out, each a name or an index.

        Raises:
            SourceError: the list is missing, empty or malformed, holds nothing beside the labels
                to be ignored, a label is outside the task, or its indices mean other labels.
        """
        items, unknown = leave_out(find_items(data, labelled=task is not None), ignore, task)
        if not items:
            raise SourceError(f"'{data}' holds nothing beside the labels that are ignored.")
        if task is None:
            return cls(items, np.zeros(len(items), int), sampling, tuple(unknown))
        if task.kind != "classes":
            return cls(items, value_targets(items, task), sampling, tuple(unknown))
        require_order(data, items, task)
        return cls(items, class_targets(items, task), sampling, tuple(unknown))

    def require_files(self, share: float) -> None:
        """Look for all files, by name and size only: thousands in seconds, before a long run.

        What lies deeper is found while training (`Unreadable`).

        Raises:
            SourceError: more than the limit are missing or empty. `share` as in `Unreadable`.
        """
        reasons = {str(item.path): _why_absent(item.path) for item in self.items}
        absent = {path: reason for path, reason in reasons.items() if reason}
        Unreadable(len(self), share, reasons=absent).check()

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int, rng: np.random.Generator | None = None, view: int = 0) -> np.ndarray:
        """One clip of an item.

        Args:
            index: Number of the item.
            rng: Draws where the clip starts, for training; None for evaluation.
            view: Which of the `sampling.views` clips of the item, for evaluation.

        Returns:
            (T, H, W, 3) uint8 RGB. An image is repeated: then a read-only view of one frame.

        Raises:
            UnreadableClip: the item cannot be read; nothing else is read in its place.
        """
        path, sampling = self.items[index].path, self.sampling
        if path.is_dir():
            return _read_folder(path, sampling, rng, view)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            image = _read_image(path)
            return np.broadcast_to(image, (sampling.frames, *image.shape))
        return read_video(path, lambda times: sampling.choose(times, sampling.spacing_s, rng, view))


def _read_folder(
    path: Path, sampling: Sampling, rng: np.random.Generator | None, view: int
) -> np.ndarray:
    """Frames of a folder; those of another size than the first chosen one are resized to it."""
    try:
        timed = folder_times(path)
    except SourceError as error:
        raise UnreadableClip(str(path), str(error).rstrip(".")) from error
    if (path / TIMESTAMPS).is_file():
        times, spacing = np.array(list(timed.values())), sampling.spacing_s
    else:
        times, spacing = np.arange(len(timed), dtype=float), float(sampling.stride)
    names = list(timed)
    chosen = sampling.choose(times, spacing, rng, view).tolist()
    images = {}
    for index in sorted(set(chosen)):
        try:
            images[index] = _read_image(path / names[index])
        except UnreadableClip as error:
            raise UnreadableClip(str(path), f"{names[index]}: {error.reason}") from error
    height, width = images[chosen[0]].shape[:2]
    for index, image in images.items():
        if image.shape[:2] != (height, width):
            images[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.stack([images[index] for index in chosen])


def _read_image(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UnreadableClip(str(path), "no such file")
    try:
        return read_image(path)
    except SourceError as error:
        raise UnreadableClip(str(path), "damaged or not an image") from error


def _why_absent(path: Path) -> str:
    """Why there is nothing to read, as far as names and sizes tell; empty if there may be."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return "" if next(entries, None) else "an empty folder"
        return "" if path.stat().st_size else "an empty file"
    except OSError as error:
        return (error.strerror or str(error)).lower()


@dataclass
class Unreadable:
    """Counts and names the items that could not be read, up to a limit.

    Attributes:
        total: Items of the list.
        share: Limit, as a share of the list; 0 for none at all. Otherwise...
        at_least: ...this many may always be, in a short list half of it.
        reasons: Path to reason. An item that fails in several epochs counts once.
    """

    total: int
    share: float = 0.01
    at_least: int = 10
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """Items that may be unreadable."""
        if self.share == 0:
            return 0
        return max(int(self.share * self.total), min(self.at_least, self.total // 2))

    def add(self, error: UnreadableClip) -> None:
        """Count an item; one that is new is named on standard error.

        Raises:
            SourceError: more than the limit; the first few are named.
        """
        if error.path not in self.reasons:
            print(f"Left out: {error}", file=sys.stderr, flush=True)
            self.reasons[error.path] = error.reason
        self.check()

    def check(self) -> None:
        """Raises SourceError as `add`."""
        if len(self.reasons) > self.limit:
            raise SourceError(
                f"{len(self.reasons)} of {self.total} items cannot be read, more than the limit "
                f"of {self.limit}. {self} Repair the files or take them out of the list."
            )

    def __str__(self) -> str:
        shown = [f"'{path}' ({reason})" for path, reason in list(self.reasons.items())[:5]]
        more = len(self.reasons) - len(shown)
        return "Unreadable: " + ", ".join(shown) + (f", and {more} more." if more else ".")
