"""Lists for training, validation and test from the official release of a data set.

`DATASETS` is the table of the releases that `prepare` can read; `split` writes the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from svfap_edge.errors import SourceError
from svfap_edge.tasks import TASKS

from .posed import find_crema_d, find_enterface05, find_ravdess
from .release import DataSet, Release, find_images
from .split import Prepared, write_lists
from .wild import RUN, find_dfew, find_ferv39k, find_mafw

MISSING_LIMIT = 0.01
"""Greatest share of the officially listed clips that may be absent from the disk."""


def prepare(
    name: str,
    root: Path,
    out: Path,
    fold: int = 1,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    clips: Path | None = None,
    relative: bool = False,
    force: bool = False,
    missing_limit: float = MISSING_LIMIT,
) -> Prepared:
    """Write the lists of one fold, into `out/fold<N>`, or into `out` where there is one fold.

    Args:
        name: Key in `DATASETS`.
        root: Folder of the unpacked release.
        out: Folder for the lists; made if absent.
        fold: Number of the fold, from 1.
        val_share: Share of the training part that becomes validation, in whole groups, in 0..0.5.
        seed: Seed of the choice of groups; the same seed gives the same lists.
        clips: Folder of clips with the official names that replaces the release's own, such as
            face crops made by you.
        relative: Write paths relative to the list instead of absolute ones.
        force: Replace lists that exist and differ.
        missing_limit: Greatest share of the officially listed clips that may be absent, in 0..1.

    Raises:
        SourceError: the data set or fold is unknown, the folder is not laid out as the release, too
            many clips are missing, there is nothing to validate on, or `out` holds other lists.
            Nothing was written.
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
    _check_missing(data.title, release, missing_limit)
    target = out / f"fold{fold}" if data.folds > 1 else out
    labels = TASKS[data.name].labels
    return write_lists(
        data, labels, fold, release, target,
        val_share=val_share, seed=seed, relative=relative, force=force,
    )  # fmt: skip


def prepare_images(
    root: Path,
    out: Path,
    *,
    labels: Sequence[str] = (),
    val_share: float = 0.1,
    seed: int = 0,
    relative: bool = False,
    force: bool = False,
) -> Prepared:
    """Write the lists of a folder of labelled images, `root/<label>/*.jpg`.

    Existing parts (`root/{train,val,test}/<label>/*.jpg`) are kept; without `val`, validation is
    taken from the training part. Who is in the images is not known.

    Args:
        root: Folder of the images.
        labels: Output order; the sorted names of the folders by default.
        out, val_share, seed, relative, force: As in `prepare`.

    Raises:
        SourceError: there are no images, a label has no folder, there is nothing to validate on, or
            `out` holds other lists. Nothing was written.
    """
    order, release = find_images(root, labels)
    return write_lists(
        _IMAGES, order, 1, release, out,
        val_share=val_share, seed=seed, relative=relative, force=force,
    )  # fmt: skip


def _check_missing(title: str, release: Release, limit: float) -> None:
    listed = len(release.clips) + len(release.missing)
    if len(release.missing) <= limit * listed:
        return
    raise SourceError(
        f"{title}: {len(release.missing)} of {listed} officially listed clips are not on disk, "
        f"over the limit of {limit:.1%}: {release.missing_shown}. Unpack all archives of the clips."
    )


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
    lambda root, fold, clips: find_images(root)[1],
    1,
    "image",
    "Who is seen is not known: validation that is taken from the training part is not known to "
    "be person-disjoint.",
    "your own",
    required=("train",),
)
