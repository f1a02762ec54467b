"""Splitting a fold and writing its lists; validation is taken from training in whole groups.

`train.txt`, `val.txt` and `test.txt` have one `path label` on each line; `prepared.json` says what
is in them. Groups are persons if the data set says who is seen. In the published preparation code
the test list is the validation list too; here it never is.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.atomic import write_text_atomically
from svfap_edge.errors import SourceError
from svfap_edge.media import is_media

from .release import PARTS, Fold, Found, Part


@dataclass(frozen=True)
class Prepared:
    """The lists that were written, and what is in them.

    Attributes:
        name: Name of the data set.
        labels: Output order; the lists hold indices into it.
        fold: Number of the fold, from 1.
        folds: Number of folds.
        lists: Path of the list of each part.
        counts: Number of clips of each label in each part.
        groups: Number of groups in each part.
        group: What the groups are: "person", "scene", ...
        person_disjoint: Whether it is known that no person is in two parts.
        missing: Names of officially listed clips that are not on disk.
        notes: What the split keeps apart and what it cannot, and what was left out.
        citation: The authors of the data set and the year.
        val_share: Wanted share of the training part in validation, in 0..0.5.
        seed: Seed of the choice of groups.
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
        """The content of `prepared.json` and of `--json`."""
        return {**asdict(self), "lists": {part: str(path) for part, path in self.lists.items()}}


def write_lists(
    fold: Fold,
    out: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    relative: bool = False,
    force: bool = False,
) -> Prepared:
    """Write the lists of one fold and `prepared.json`.

    Existing parts are kept; without "val", validation is taken from the training part.

    Args:
        fold: What was found on disk.
        out: Folder for the lists, made if absent; where there are several folds, each has a folder
            `fold<N>` in it.
        val_share: Share of the training part that becomes validation, in whole groups, in 0..0.5.
        seed: Seed of the choice of groups; the same seed gives the same lists.
        relative: Write paths relative to the list instead of absolute ones.
        force: Replace lists that exist and differ.

    Raises:
        SourceError: a required part is empty, there is nothing to validate on, a list cannot hold a
            path, or `out` holds other lists. Nothing was written.
    """
    data, labels, release = fold.data, fold.labels, fold.release
    parts = _divide(release.clips, val_share, seed)
    for part in data.required:
        if part not in parts:
            raise SourceError(f"{data.title}, fold {fold.number}: no clip on disk is for {part}.")
    notes = [data.caution, *release.notes]
    if release.missing:
        found = f"{len(release.missing)} ({release.missing_shown})"
        notes.append(f"Officially listed clips that are not on disk: {found}.")
    for part, clips in parts.items():
        absent = [x for i, x in enumerate(labels) if not any(clip.label == i for clip in clips)]
        if absent:
            notes.append(f"No clip of {', '.join(absent)} in {part}.")
    out = (out / f"fold{fold.number}" if data.folds > 1 else out).absolute()
    prepared = Prepared(
        name=data.name,
        labels=labels,
        fold=fold.number,
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
    for path, text in texts.items():
        if not force and path.is_file() and path.read_bytes() != text.encode():
            raise SourceError(
                f"'{path}' is there and differs from what would be written. Nothing was written. "
                "Choose another folder, or replace it with --force."
            )
    for path, text in {**texts, out / "prepared.json": record}.items():
        write_text_atomically(path, text, SourceError)
    return prepared


def hold_out(clips: Sequence[Found], share: float, seed: int) -> set[str]:
    """Names of the groups that become validation: about `share` of every label.

    Groups are looked at in a random order, and each is taken if it brings the counts of the labels
    nearer to their share (squared distance, divided by the label's count). At least one group is
    taken, and never all.
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


def _divide(clips: Iterable[Found], val_share: float, seed: int) -> dict[Part, list[Found]]:
    """Clips of each part that has any; without "val", it is taken from "train"."""
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
        if " ".join(name.split()) != name or (" " in name and not is_media(name)):
            raise SourceError(
                f"'{name}' cannot be written in a list: a folder of frames must have no space in "
                "its path. Rename the folder, or write relative paths (--relative)."
            )
        lines.append(f"{name} {clip.label}\n")
    return "".join(lines)
