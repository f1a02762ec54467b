"""Reading clips of videos, folders of frames and images, and the items that cannot be read.

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
from svfap_edge.media import is_picture
from svfap_edge.sources.files import TIMESTAMPS, folder_times, read_image
from svfap_edge.tasks import Task

from .video import read_video


@dataclass(frozen=True)
class Sampling:
    """Which frames make a clip.

    Attributes:
        frames: Number of frames T of a clip.
        spacing_s: Seconds between two frames, for videos and for folders of frames with
            `timestamps.csv`. Published: 0.16, which is 4 frames at 25 fps.
        stride: Number of frames from one frame to the next, for other folders of frames.
            Published: 4, and 1 for FERV39k.
        views: Number of clips of an item in evaluation, spread evenly over it. Published: 2, the
            first at the beginning and the second at the end.
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

    def choose(
        self, times: np.ndarray, spacing: float, rng: np.random.Generator | None, view: int
    ) -> np.ndarray:
        """Indices (T,) into increasing `times` (n,), `spacing` apart in the same unit.

        Each slot takes the frame nearest in time. A clip that is longer than the recording
        starts with it and repeats the last frame, as published; motion keeps its speed.

        In training a generator draws the start of the clip; without one, it is that of the view,
        and views count from 0.
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
        items: Paths of videos, folders of frames and images, with their labels.
        targets: Class indices (n,), or values (n, L).
        sampling: Which frames make a clip.
        unknown: Ignored labels that are neither in the task nor in this list.
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
            task: Task whose labels are read; None reads no labels, and every target is 0.
            ignore: Labels whose items are left out, each a name or an index.

        Raises:
            SourceError: the list is missing, empty or malformed, holds ignored labels only, has a
                label outside the task, or its indices mean other labels.
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
        """Check before a long run that all files exist and are not empty; thousands take seconds.

        Files that exist but cannot be read are found in training. As in `Unreadable`, SourceError
        is raised for more than a share of the list.
        """
        reasons = {str(item.path): _why_absent(item.path) for item in self.items}
        absent = {path: reason for path, reason in reasons.items() if reason}
        Unreadable(len(self), share, reasons=absent).check()

    def __len__(self) -> int:
        return len(self.items)

    def spread(self, count: int) -> np.ndarray:
        """Numbers of at most `count` items, spread evenly over the list."""
        last = len(self) - 1
        return np.linspace(0, last, min(count, len(self))).round().astype(int)

    def read(self, index: int, rng: np.random.Generator | None = None, view: int = 0) -> np.ndarray:
        """One clip (T, H, W, 3) uint8 RGB of an item; the item is given by its number, from 0.

        The frames are those of `Sampling.choose`. For an image it is a read-only view that repeats
        one frame.

        Raises:
            UnreadableClip: the item cannot be read; nothing else is read in its place.
        """
        path, sampling = self.items[index].path, self.sampling
        if path.is_dir():
            return _read_folder(path, sampling, rng, view)
        if not path.is_file():
            raise UnreadableClip(str(path), "no such file")
        if is_picture(path):
            image = read_image(path)
            return np.broadcast_to(image, (sampling.frames, *image.shape))
        return read_video(path, lambda times: sampling.choose(times, sampling.spacing_s, rng, view))


def _read_folder(
    path: Path, sampling: Sampling, rng: np.random.Generator | None, view: int
) -> np.ndarray:
    """Chosen frames of a folder, all resized to the size of the first one."""
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
            images[index] = read_image(path / names[index])
        except UnreadableClip as error:
            raise UnreadableClip(str(path), f"{names[index]}: {error.reason}") from error
    height, width = images[chosen[0]].shape[:2]
    for index, image in images.items():
        if image.shape[:2] != (height, width):
            images[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.stack([images[index] for index in chosen])


def _why_absent(path: Path) -> str:
    """Why nothing can be read at a path, judged by name and size; empty if something may be."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return "" if next(entries, None) else "an empty folder"
        return "" if path.stat().st_size else "an empty file"
    except OSError as error:
        return (error.strerror or str(error)).lower()


@dataclass
class Unreadable:
    """The items of a list that could not be read, up to a limit.

    Attributes:
        total: Number of items in the list.
        share: Share of the list that may be unreadable, in 0..1; 0 allows no unreadable item.
        reasons: Path of an item to the reason. An item that fails in several epochs counts once.
    """

    total: int
    share: float = 0.01
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """Number of items that may be unreadable: at least 10, or half of a short list."""
        if self.share == 0:
            return 0
        return max(int(self.share * self.total), min(10, self.total // 2))

    def add(self, error: UnreadableClip) -> None:
        """Count an item, name it on standard error if it is new, and check the limit."""
        if error.path not in self.reasons:
            print(f"Left out: {error}", file=sys.stderr, flush=True)
            self.reasons[error.path] = error.reason
        self.check()

    def check(self) -> None:
        """Raise SourceError, which names the first five, if more items than the limit are here."""
        if len(self.reasons) > self.limit:
            raise SourceError(
                f"{len(self.reasons)} of {self.total} items cannot be read, more than the limit "
                f"of {self.limit}. {self} Repair the files or take them out of the list."
            )

    def __str__(self) -> str:
        shown = [f"'{path}' ({reason})" for path, reason in list(self.reasons.items())[:5]]
        more = len(self.reasons) - len(shown)
        return "Unreadable: " + ", ".join(shown) + (f", and {more} more." if more else ".")
