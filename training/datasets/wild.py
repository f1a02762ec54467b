"""Releases of clips from films and the web, with official lists: DFEW, FERV39k, MAFW.

None of them says who is seen or which film a clip is from. FERV39k has 22 scenes; in the others,
runs of neighbouring clip numbers are kept together, in case they were cut from one film.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from svfap_edge.errors import SourceError
from svfap_edge.tasks import TASKS

from .release import Found, Part, Release, clip_at, first_folder

RUN = 20  # neighbouring clips that are kept together if the source of a clip is unknown


def find_dfew(root: Path, fold: int, clips: Path | None = None) -> Release:
    """DFEW: `EmoLabel_DataSplit/{train,test}(single-labeled)/set_<fold>.csv`, frames by number.

    Labels 1..7 are happy, sad, neutral, angry, surprise, disgust, fear, the order of the task.
    `Clip/clip_224x224` has all frames of a clip, `clip_224x224_16f` sixteen interpolated ones.
    """
    known = ("Clip/clip_224x224", "Clip/clip_224x224_16f")
    base = clips or first_folder(root, known, "DFEW", "the clip_224x224 archives")
    rows = {}
    for part in ("train", "test"):
        spellings = [f"EmoLabel_DataSplit/{part}(single{dash}labeled)" for dash in "-_"]
        folder = first_folder(root, spellings, "DFEW", "the archives of EmoLabel_DataSplit")
        rows[part] = _read_dfew(folder / f"set_{fold}.csv")
    bases = [base, *sorted(base.glob("clip_224x224_part_*"))]

    def clip(name: str) -> Path | None:
        return next(filter(None, (clip_at(folder, name) for folder in bases)), None)

    release = _from_official(rows, clip, _run_of_numbers)
    if base.name.endswith("_16f"):
        note = "Clips are 16 interpolated frames (clip_224x224_16f): train with stride 1, not 4."
        return Release(release.clips, release.missing, (*release.notes, note))
    return release


def find_ferv39k(root: Path, fold: int, clips: Path | None = None) -> Release:
    """FERV39k: `4_setups/All_scenes/{train,test}_All.csv`, frames in `Scene/Emotion/Number`."""
    base = clips or first_folder(
        root, ["2_ClipsforFaceCrop"], "FERV39k", "the archive of 2_ClipsforFaceCrop"
    )
    lists = first_folder(root, ["4_setups/All_scenes"], "FERV39k", "4_setups")
    labels = TASKS["ferv39k"].labels
    rows = {part: _read_pairs(lists / f"{part}_All.csv", labels) for part in ("train", "test")}
    return _from_official(rows, lambda name: clip_at(base, name), lambda name: name.split("/")[0])


def find_mafw(root: Path, fold: int, clips: Path | None = None) -> Release:
    """MAFW, single labels: `Train & Test Set/single/no_caption/set_<fold>/{train,test}.txt`."""
    known = ("data/frames", "data/clips", "frames", "clips")
    base = clips or first_folder(root, known, "MAFW", "the clips, or put frames in data/frames")
    lists = first_folder(
        root, [f"Train & Test Set/single/no_caption/set_{fold}"], "MAFW", "Train & Test Set"
    )
    labels = TASKS["mafw"].labels
    rows = {part: _read_pairs(lists / f"{part}.txt", labels) for part in ("train", "test")}
    return _from_official(rows, lambda name: clip_at(base, name), _run_of_numbers)


def _read_text(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"'{path}' is not a readable list of the release: {error}") from error


def _read_dfew(path: Path) -> list[tuple[str, int]]:
    """Rows `video_name,label` below a header, as five-digit names and labels from 0."""
    rows = []
    for number, row in enumerate(csv.DictReader(_read_text(path)), 2):
        name, label = row.get("video_name") or "", row.get("label") or ""
        if not name.strip().isdecimal() or label.strip() not in tuple("1234567"):
            raise SourceError(
                f"'{path}', line {number}: expected video_name,label with a number and 1 to 7; "
                f"got '{name},{label}'."
            )
        rows.append((f"{int(name):05d}", int(label) - 1))
    return rows


def _read_pairs(path: Path, labels: Sequence[str]) -> list[tuple[str, int]]:
    """Lines `name label`: the name without a suffix, the label by name in any case."""
    rows = []
    for number, line in enumerate(_read_text(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1].lower() not in labels:
            raise SourceError(
                f"'{path}', line {number}: expected 'name label' with one of "
                f"{', '.join(labels)}; got '{line:.80}'."
            )
        name = PurePosixPath(words[0].replace("\\", "/"))
        rows.append((str(name.parent / name.stem), labels.index(words[1].lower())))
    return rows


def _from_official(
    rows: Mapping[str, Sequence[tuple[str, int]]],
    clip: Callable[[str], Path | None],
    group: Callable[[str], str],
) -> Release:
    """The clips of official train and test lists.

    A clip that is in both lists is kept for test only. `clip` maps a name to its path, or to None
    if it is not on disk, and `group` maps it to its group.
    """
    test, train = dict(rows["test"]), dict(rows["train"])
    both = sorted(train.keys() & test.keys())
    only = {name: label for name, label in train.items() if name not in test}
    parts: dict[Part, dict[str, int]] = {"train": only, "test": test}
    found, missing = [], []
    for part, labels in parts.items():
        for name, label in labels.items():
            path = clip(name)
            if path is None:
                missing.append(name)
            else:
                found.append(Found(path, label, group(name), part))
    notes: tuple[str, ...] = ()
    if both:
        notes = (f"In both official lists, kept for test only: {len(both)}, such as '{both[0]}'.",)
    return Release(tuple(found), tuple(missing), notes)


def _run_of_numbers(name: str) -> str:
    """The run of neighbouring numbers that a clip belongs to."""
    first = int(name) // RUN * RUN if name.isdecimal() else name
    return f"from {first}"
