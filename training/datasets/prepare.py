"""What can be prepared for training: the official releases in `DATASETS`, and folders of images.

`split` writes the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svfap_edge.errors import SourceError
from svfap_edge.lists import require_distinct
from svfap_edge.media import is_hidden, is_image
from svfap_edge.tasks import TASKS

from .posed import find_crema_d, find_enterface05, find_ravdess
from .release import PARTS, DataSet, Fold, Found, Part, Release, no_layout
from .wild import RUN, find_dfew, find_ferv39k, find_mafw

MISSING_LIMIT = 0.01  # greatest share of the officially listed clips that may be absent


def find_fold(name: str, root: Path, fold: int = 1, clips: Path | None = None) -> Fold:
    """Find the clips of one fold.

    Args:
        name: Key in `DATASETS`.
        root: Folder of the unpacked release.
        fold: Number of the fold, from 1.
        clips: Folder of clips with the official names that replaces the release's own, such as
            face crops made by you.

    Raises:
        SourceError: the data set or fold is unknown, the folder is not laid out as the release, or
            too many clips are missing.
    """
    data = DATASETS.get(name.lower())
    if data is None:
        known = ", ".join(DATASETS)
        raise SourceError(f"No preparation for '{name}'. Known data sets: {known}, or images.")
    if not 1 <= fold <= data.folds:
        raise SourceError(f"{data.title} has folds 1 to {data.folds}; got {fold}.")
    if clips is not None and not clips.is_dir():
        raise SourceError(f"{data.title}: no folder of clips '{clips}'.")
    release = data.find(root, fold, clips)
    missing, listed = len(release.missing), len(release.clips) + len(release.missing)
    if missing > MISSING_LIMIT * listed:
        raise SourceError(
            f"{data.title}: {missing} of {listed} officially listed clips are not on disk, over "
            f"the limit of {MISSING_LIMIT:.1%}: {release.missing_shown}. "
            "Unpack all archives of the clips."
        )
    return Fold(data, TASKS[data.name].labels, fold, release)


def find_images(root: Path, labels: Sequence[str] = ()) -> Fold:
    """Find images in `root/<label>/*.jpg`, or in `root/{train,val,test}/<label>/*.jpg`.

    Args:
        root: A folder that holds one folder for each label, or the parts of an earlier split.
        labels: Output order; the sorted names of the folders by default. Folders of other names
            are left out, and the notes say so.

    Raises:
        SourceError: there is no folder of images, or a label has no folder.
    """
    parts = [part for part in PARTS if (root / part).is_dir()]
    places: dict[Part, Path] = {part: root / part for part in parts} or {"train": root}
    images = {
        part: {
            folder.name: sorted(p for p in folder.iterdir() if is_image(p))
            for folder in sorted(place.iterdir() if place.is_dir() else ())
            if folder.is_dir() and not is_hidden(folder)
        }
        for part, place in places.items()
    }
    there = sorted({label for found in images.values() for label, files in found.items() if files})
    require_distinct(there, f"'{root}'")
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
    note = f"Folders that are not among the labels are left out: {', '.join(unused)}."
    return Fold(_IMAGES, order, 1, Release(tuple(clips), notes=(note,) if unused else ()))


_OFFICIAL = (
    "{title} does not say who is seen: its official train and test lists may share people and "
    "sources. Validation is taken from the training list and keeps {group} together; it is not "
    "known to be person-disjoint."
)
_PERSONS = (
    "Train, validation and test share no person (known from the {where}). {title} has no official "
    "split: {folds} folds of persons in numerical order, as in the published lists of MAE-DFER."
)
_NUMBERS = f"runs of {RUN} neighbouring clip numbers"

DATASETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        DataSet(
            "dfew", "DFEW", find_dfew, 5, _NUMBERS,
            _OFFICIAL.format(title="DFEW", group=_NUMBERS), "Jiang et al. 2020",
        ),
        DataSet(
            "ferv39k", "FERV39k", find_ferv39k, 1, "scene",
            _OFFICIAL.format(title="FERV39k", group="whole scenes (of 22)"), "Wang et al. 2022",
        ),
        DataSet(
            "mafw", "MAFW", find_mafw, 5, _NUMBERS,
            _OFFICIAL.format(title="MAFW", group=_NUMBERS), "Liu et al. 2022",
        ),
        DataSet(
            "crema-d", "CREMA-D", find_crema_d, 5, "person",
            _PERSONS.format(title="CREMA-D", where="file names", folds=5), "Cao et al. 2014",
        ),
        DataSet(
            "ravdess", "RAVDESS", find_ravdess, 6, "person",
            _PERSONS.format(title="RAVDESS", where="file names", folds=6),
            "Livingstone and Russo 2018",
        ),
        DataSet(
            "enterface05", "eNTERFACE'05", find_enterface05, 5, "person",
            _PERSONS.format(title="eNTERFACE'05", where="folder names", folds=5),
            "Martin et al. 2006",
        ),
    )
}  # fmt: skip

_IMAGES = DataSet(
    "images",
    "Images",
    lambda root, fold, clips: find_images(root).release,
    1,
    "image",
    "Who is seen is not known: validation that is taken from the training part is not known to "
    "be person-disjoint.",
    "your own",
    required=("train",),
)
