"""From the official release of a data set to lists for training, validation and test.

`prepare` reads a release (`DATASETS`), takes validation from the training part in whole groups
(persons, where the data set tells them), and writes `train.txt`, `val.txt`, `test.txt` with one
`path label` per line, and `prepared.json`, which says what the lists hold and keep apart. In the
published preparation code the test list is the validation list too; here it never is.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.datalist import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from svfap_edge.errors import SourceError
from svfap_edge.tasks import TASKS
from svfap_edge.training.release import PARTS, DataSet, Found, Part, Release
from svfap_edge.training.release_images import find_images
from svfap_edge.training.release_posed import find_crema_d, find_enterface05, find_ravdess
from svfap_edge.training.release_wild import RUN, find_dfew, find_ferv39k, find_mafw

MISSING_LIMIT = 0.01
"""Share of the officially listed clips that may be absent from the disk."""


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        name: Data set.
        labels: Output order; the lists hold indices into it.
        fold, folds: Which fold, of how many.
        lists: The file of each part.
        counts: Clips of each label in each part.
        groups: Number of groups (persons, scenes, ...) in each part; `group` says what they are.
        person_disjoint: True where no person can be in two parts.
        missing: Officially listed clips that are not on disk.
        notes: What the split keeps apart and what it cannot, and what was left out.
        citation: Who made the data set.
        val_share, seed: How validation was chosen.
    """

    name: str
    labels: tuple[str, ...]
    fold: int
    folds: int
    lists: dict[str, Path]
    counts: dict[str, dict[str, int]]
    groups: dict[str, int]
    group: str
    person_disjoint: bool
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    citation: str
    val_share: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """As `prepared.json` and `--json` have it."""
        return {**asdict(self), "lists": {part: str(path) for part, path in self.lists.items()}}


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
        root: Folder of the release as it unpacks.
        out: Folder for the lists; made if absent.
        fold: 1 to the number of folds.
        val_share: Share of the training part that becomes validation, in whole groups.
        seed: Of the choice of groups; the same seed gives the same lists.
        clips: Folder of clips of the official names in place of the release's own, such as face
            crops made by you.
        relative: Write paths relative to the list instead of absolute ones.
        force: Replace lists that are there and differ.
        missing_limit: Share of the officially listed clips that may be absent.

    Raises:
        SourceError: unknown data set or fold, a layout that is not the release's, too many clips
            missing, nothing to validate on, or other lists in `out`. Nothing was written.
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
    return _write(data, labels, fold, release, target, val_share, seed, relative, force)


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

    Parts that are there (`root/{train,val,test}/<label>/*.jpg`) are kept; validation is taken
    from the training part where there is none. Who is seen is not known.

    Args:
        labels: Output order; the sorted names of the folders by default.

    Raises:
        SourceError: as `prepare`.
    """
    order, release = find_images(root, labels)
    return _write(_IMAGES, order, 1, release, out, val_share, seed, relative, force)


def hold_out(clips: Sequence[Found], share: float, seed: int) -> set[str]:
    """Names of the groups that become validation: about `share` of every label.

    Groups are taken in a random order, each if it brings the counts of the labels nearer to their
    share (squared distance, divided by the label's count); at least one, and never all.

    Raises:
        SourceError: fewer than two groups, or a share outside 0 to 0.5.
    """
    if not 0 < share <= 0.5:
        raise SourceError(f"The validation share must be over 0 and at most 0.5; got {share}.")
    names = sorted({clip.group for clip in clips})
    if len(names) < 2:
        raise SourceError(
            f"The training part holds {len(names)} group(s) of clips that must stay together; "
            "validation needs one and training another."
        )
    random.Random(seed).shuffle(names)
    row = {name: index for index, name in enumerate(names)}
    table = np.zeros((len(names), max(clip.label for clip in clips) + 1))
    for clip in clips:
        table[row[clip.group], clip.label] += 1
    total = table.sum(0)

    def distance(counts: np.ndarray) -> np.ndarray:  # (..., labels) -> (...)
        return ((counts - share * total) ** 2 / np.maximum(total, 1)).sum(-1)

    held: set[str] = set()
    counts = np.zeros_like(total)
    for name, of_group in zip(names, table, strict=True):
        if distance(counts + of_group) < distance(counts) and len(held) < len(names) - 1:
            held.add(name)
            counts += of_group
    return held or {names[int(distance(table).argmin())]}


def _check_missing(title: str, release: Release, limit: float) -> None:
    listed = len(release.clips) + len(release.missing)
    if len(release.missing) <= limit * listed:
        return
    shown = ", ".join(release.missing[:5]) + (", ..." if len(release.missing) > 5 else "")
    raise SourceError(
        f"{title}: {len(release.missing)} of {listed} officially listed clips are not on disk, "
        f"over the limit of {limit:.1%}: {shown}. Unpack all archives of the clips."
    )


def _write(
    data: DataSet,
    labels: tuple[str, ...],
    fold: int,
    release: Release,
    out: Path,
    val_share: float,
    seed: int,
    relative: bool,
    force: bool,
) -> Prepared:
    parts = _divide(release.clips, val_share, seed)
    for part in ("train", "test") if data is not _IMAGES else ("train",):
        if part not in parts:
            raise SourceError(f"{data.title}, fold {fold}: no clip on disk is for {part}.")
    notes = [data.caution, *release.notes]
    if release.missing:
        shown = ", ".join(release.missing[:5]) + (", ..." if len(release.missing) > 5 else "")
        count = len(release.missing)
        notes.append(f"Officially listed clips that are not on disk: {count} ({shown}).")
    for part, clips in parts.items():
        absent = [x for i, x in enumerate(labels) if not any(clip.label == i for clip in clips)]
        if absent:
            notes.append(f"No clip of {', '.join(absent)} in {part}.")
    out = out.absolute()
    prepared = Prepared(
        name=data.name,
        labels=labels,
        fold=fold,
        folds=data.folds,
        lists={part: out / f"{part}.txt" for part in parts},
        counts={
            part: {x: sum(clip.label == i for clip in clips) for i, x in enumerate(labels)}
            for part, clips in parts.items()
        },
        groups={part: len({clip.group for clip in clips}) for part, clips in parts.items()},
        group=data.group,
        person_disjoint=data.group == "person",
        missing=release.missing,
        notes=tuple(notes),
        citation=data.citation,
        val_share=val_share,
        seed=seed,
    )
    texts = {prepared.lists[part]: _text(clips, out, relative) for part, clips in parts.items()}
    record = json.dumps(prepared.to_json(), indent=1, ensure_ascii=False) + "\n"
    _save(texts, {out / "prepared.json": record}, force)
    return prepared


def _divide(clips: Iterable[Found], val_share: float, seed: int) -> dict[Part, list[Found]]:
    """Clips of each part that has any; validation from training, unless it is there."""
    parts: dict[Part, list[Found]] = {part: [] for part in PARTS}
    for clip in clips:
        parts[clip.part].append(clip)
    if parts["train"] and not parts["val"]:
        held = hold_out(parts["train"], val_share, seed)
        parts["val"] = [clip for clip in parts["train"] if clip.group in held]
        parts["train"] = [clip for clip in parts["train"] if clip.group not in held]
    return {part: found for part, found in parts.items() if found}


def _text(clips: Sequence[Found], out: Path, relative: bool) -> str:
    lines = []
    for clip in clips:
        path = clip.path.absolute()
        name = Path(os.path.relpath(path, out)).as_posix() if relative else str(path)
        known_end = name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        if " ".join(name.split()) != name or (" " in name and not known_end):
            raise SourceError(
                f"'{name}' cannot be written in a list: a folder of frames must have no space in "
                "its path. Rename the folder, or write relative paths (--relative)."
            )
        lines.append(f"{name} {clip.label}\n")
    return "".join(lines)


def _save(lists: Mapping[Path, str], others: Mapping[Path, str], force: bool) -> None:
    """Write all files, each whole or not at all; refuse to replace a list that differs."""
    for path, text in lists.items():
        if not force and path.is_file() and path.read_bytes() != text.encode():
            raise SourceError(
                f"'{path}' is there and differs from what would be written. Nothing was written. "
                "Choose another folder, or replace it with --force."
            )
    for path, text in {**lists, **others}.items():
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(text.encode())
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise SourceError(f"'{path}' cannot be written: {error}.") from error


_OFFICIAL = (
    "{title} does not tell persons: its official train and test lists may share people and "
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
)
