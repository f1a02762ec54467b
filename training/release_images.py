"""A folder of labelled images as if it were a release: photographs of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svfap_edge.datalist import IMAGE_SUFFIXES
from svfap_edge.training.release import PARTS, Found, Part, Release, no_layout


def find_images(root: Path, labels: Sequence[str] = ()) -> tuple[tuple[str, ...], Release]:
    """Labels and images of `root/<label>/*.jpg`, or of `root/{train,val,test}/<label>/*.jpg`.

    Args:
        root: Folder of one folder per label, or of parts that were made before.
        labels: Output order; the sorted names of the folders by default. Folders of other names
            are left out, and the notes say so.

    Raises:
        SourceError: no folder of images, or a label without a folder.
    """
    parts = [part for part in PARTS if (root / part).is_dir()]
    places: dict[Part, Path] = {part: root / part for part in parts} or {"train": root}
    images = {
        part: {
            folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            for folder in sorted(place.iterdir() if place.is_dir() else ())
            if folder.is_dir()
        }
        for part, place in places.items()
    }
    there = sorted({label for found in images.values() for label, files in found.items() if files})
    order = tuple(labels) or tuple(there)
    absent = [label for label in order if label not in there]
    if not there or absent:
        raise no_layout(
            "Images", root, [f"{label}/*.jpg" for label in absent or ("LABEL",)], "the photographs"
        )
    clips = [
        Found(path, order.index(label), str(path), part)
        for part, found in images.items()
        for label, files in found.items()
        if label in order
        for path in files
    ]
    unused = [label for label in there if label not in order]
    notes = [f"Folders that are not among the labels are left out: {', '.join(unused)}."]
    return order, Release(tuple(clips), notes=tuple(notes if unused else ()))
