"""Releases of people who pose emotions: CREMA-D, RAVDESS, eNTERFACE'05.

File names say who is seen and what is expressed. None of the releases has an official split: folds
are those of the lists published with MAE-DFER (Sun et al. 2023, by the authors of SVFAP), with
persons in numerical order.
"""

from __future__ import annotations

import re
from pathlib import Path

from svfap_edge.errors import SourceError
from svfap_edge.tasks import TASKS

from .release import Found, Release, first_folder, left_out, no_layout, nothing_found, scan, stem

CREMA_D_CODES = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
CREMA_D_BROKEN = ("1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX")
"""Recordings that the release lists as damaged; the published lists leave them out."""


def find_crema_d(root: Path, fold: int, clips: Path | None = None) -> Release:
    """CREMA-D: `VideoFlash/<actor>_<sentence>_<emotion>_<level>.flv`, actors 1001 to 1091.

    Each fold has 18 actors; the fifth has 19.
    """
    base = clips or first_folder(root, ["VideoFlash"], "CREMA-D", "the folder VideoFlash")
    name = re.compile(rf"(1\d{{3}})_[A-Z]{{3}}_({'|'.join(CREMA_D_CODES)})_[A-Z]{{1,2}}")
    found, others, broken = [], [], 0
    for path in scan(base):
        match = name.fullmatch(stem(path))
        if stem(path) in CREMA_D_BROKEN:
            broken += 1
        elif match and 1001 <= int(match[1]) <= 1091:
            test = min((int(match[1]) - 1001) // 18, 4) + 1 == fold
            label = CREMA_D_CODES.index(match[2])
            found.append(Found(path, label, match[1], "test" if test else "train"))
        else:
            others.append(path.name)
    if not found:
        raise nothing_found("CREMA-D", base, "1001_DFA_ANG_XX.flv", others)
    _refuse_pointer(found[0].path)
    note = f"Recordings that the release lists as damaged are left out: {broken}."
    return Release(tuple(found), notes=((note,) if broken else ()) + left_out(others))


def find_ravdess(root: Path, fold: int, clips: Path | None = None) -> Release:
    """RAVDESS speech: `Actor_NN/<modality>-<channel>-<emotion>-...-<actor>.mp4`, 24 actors.

    Each fold has four actors. Each recording is taken once: without sound (modality 02) as in the
    published lists, or with sound (01) if there is no other.
    """
    base = clips or root
    if not any(base.glob("Actor_*")):
        raise no_layout("RAVDESS", base, ["Actor_01", "Actor_02"], "the Video_Speech archives")
    name = re.compile(r"(0[12])-(0[12])-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)")
    recordings: dict[str, Found] = {}
    others, songs = [], 0
    for path in scan(base):
        match = name.fullmatch(stem(path))
        if not match or not 1 <= int(match[4]) <= 24:
            others.append(path.name)
        elif match[2] == "02":
            songs += 1
        elif match[1] == "02" or stem(path)[3:] not in recordings:
            test = (int(match[4]) - 1) // 4 + 1 == fold
            clip = Found(path, int(match[3]) - 1, match[4], "test" if test else "train")
            recordings[stem(path)[3:]] = clip
    if not recordings:
        raise nothing_found("RAVDESS", base, "02-01-06-01-02-01-12.mp4", others)
    notes = (f"Songs are left out, as the benchmark is speech: {songs}.",) if songs else ()
    return Release(tuple(recordings.values()), notes=notes + left_out(others))


def find_enterface05(root: Path, fold: int, clips: Path | None = None) -> Release:
    """eNTERFACE'05: `subject N/<emotion>/sentence M/*.avi`, 44 subjects.

    Each fold has nine subjects; the fifth has seven. Subject 6 is left out, because the recordings
    are not cut into sentences.
    """
    base = clips or next(
        (f for f in (root, root / "enterface database") if any(f.glob("subject*"))), None
    )
    if base is None:
        known = ["subject 1", "enterface database/subject 1"]
        raise no_layout("eNTERFACE'05", root, known, "the database")
    emotions = TASKS["enterface05"].labels
    name = re.compile(
        rf"subject[ _-]?(\d+)/({'|'.join(emotions)})/sentence[ _-]?\d+/[^/]+", re.IGNORECASE
    )
    found, others = [], []
    for path in scan(base):
        match = name.fullmatch(path.relative_to(base).as_posix())
        subject = int(match[1]) if match else 6
        if match and subject != 6:
            test = (subject - 1 - (subject > 6)) // 9 + 1 == fold
            label = emotions.index(match[2].lower())
            found.append(Found(path, label, str(subject), "test" if test else "train"))
        else:
            others.append(path.name)
    if not found:
        raise nothing_found("eNTERFACE'05", base, "subject 1/anger/sentence 1/s1_an_1.avi", others)
    return Release(tuple(found), notes=left_out(others))


def _refuse_pointer(path: Path) -> None:
    """Raise SourceError for a repository cloned without Git LFS, which holds no videos."""
    if path.is_file() and path.stat().st_size < 1024:
        with path.open("rb") as file:
            if b"git-lfs" in file.read(80):
                raise SourceError(
                    f"'{path}' is a Git LFS pointer, not a video. Run 'git lfs pull' in its folder."
                )
