"""What a release of a data set holds on disk, and how its clips are found.

The finders of single data sets are in `posed` and `wild`. No clip is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svfap_edge.errors import SourceError
from svfap_edge.media import VIDEO_SUFFIXES, is_hidden, is_image, is_video

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Found:
    """One clip on disk.

    Attributes:
        path: A video, a folder of frames, or an image.
        label: Index of its label in the labels of the task.
        group: Person, scene or run of numbers (`DataSet.group`); a group is never divided
            between training and validation.
        part: Part of the fold; clips for validation are taken from "train" later.
    """

    path: Path
    label: int
    group: str
    part: Part


@dataclass(frozen=True)
class Release:
    """What a finder found."""

    clips: tuple[Found, ...]
    missing: tuple[str, ...] = ()  # names of officially listed clips that are not on disk
    notes: tuple[str, ...] = ()  # sentences about what a user should know

    @property
    def missing_shown(self) -> str:
        """The first names that are missing."""
        return ", ".join(self.missing[:5]) + (", ..." if len(self.missing) > 5 else "")


@dataclass(frozen=True)
class DataSet:
    """One data set that can be prepared.

    Attributes:
        name: Key in `DATASETS`, and name of the task whose label order the lists use.
        title: Name as the authors write it.
        find: Function of root, fold and clips to a `Release`; `clips` replaces the official folder
            of clips where it is not None.
        folds: Number of folds of the field's protocol; folds are counted from 1.
        group: What `Found.group` is; only "person" makes the parts person-disjoint.
        caution: What the split does and does not keep apart; printed with every list.
        citation: The authors and the year.
        required: Parts without which nothing is written.
    """

    name: str
    title: str
    find: Callable[[Path, int, Path | None], Release]
    folds: int
    group: str
    caution: str
    citation: str
    required: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True)
class Fold:
    """One fold of a data set, as it is on disk; its number starts at 1."""

    data: DataSet
    labels: tuple[str, ...]  # in the order of the outputs
    number: int
    release: Release


def first_folder(root: Path, known: Sequence[str], title: str, unpack: str) -> Path:
    """The first of the known folders in a release; the error for none says what to unpack."""
    for relative in known:
        if (root / relative).is_dir():
            return root / relative
    raise no_layout(title, root, known, unpack)


def no_layout(title: str, root: Path, known: Sequence[str], unpack: str) -> SourceError:
    """The error for a folder that is not laid out as the release; it names what is there."""
    if not root.is_dir():
        return SourceError(f"{title}: no folder '{root}'.")
    names = sorted(p.name + "/" * p.is_dir() for p in root.iterdir() if not is_hidden(p))
    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    folders = (p for p in sorted(root.iterdir()) if p.is_dir())
    deeper = [folder for folder in folders if any((folder / name).is_dir() for name in known)]
    advice = (
        f"It is in '{deeper[0]}': give that folder."
        if deeper
        else f"Unpack {unpack} there, or give the folder that holds it."
    )
    return SourceError(
        f"{title}: '{root}' is not laid out as the official release. "
        f"Looked for {' or '.join(known)}; found {shown or 'nothing'}. {advice}"
    )


def clip_at(base: Path, name: str) -> Path | None:
    """The folder of frames or the video of a name; None if there is neither."""
    folder = base / name
    if folder.is_dir():
        return folder if _holds_images(folder) else None
    videos = (base / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((video for video in videos if video.is_file()), None)


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def scan(base: Path) -> Iterator[Path]:
    """Every video and every folder of images under a folder, in order."""
    for place, folders, files in os.walk(base, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        if any(is_image(file) for file in files):
            folders.clear()
            yield Path(place)
        else:
            videos = [file for file in sorted(files) if is_video(file)]
            yield from (Path(place, file) for file in videos)


def stem(path: Path) -> str:
    """Name of a clip: that of a folder of frames, or that of a video without its suffix."""
    return path.stem if is_video(path) else path.name


def nothing_found(title: str, base: Path, example: str, others: Sequence[str]) -> SourceError:
    """The error for a folder whose clips have other names than in the release."""
    seen = f"clips of other names, such as '{others[0]}'" if others else "no videos or frames"
    return SourceError(
        f"{title}: no clip named as '{example}' under '{base}'; found {seen}. "
        "Unpack the videos there, or name the folder that holds them with --clips."
    )


def left_out(others: Sequence[str]) -> tuple[str, ...]:
    """A note on clips whose names do not belong to the release; empty if there are none."""
    note = "Clips of other names or folders are left out: {}, such as '{}'."
    return (note.format(len(others), others[0]),) if others else ()
