"""Lists of labelled files, in the published format: `path label` per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import SourceError
from .media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .tasks import Task


@dataclass(frozen=True)
class Item:
    """One labelled file.

    Attributes:
        path: A video, a folder of frames, or an image.
        target: As written: a class index or label, or several numbers; empty where unknown.
    """

    path: Path
    target: tuple[str, ...] = ()


def find_items(path: Path, *, labelled: bool = True) -> list[Item]:
    """Items of a list file, of a folder, or the one video or image given.

    In a folder of folders the first level names the labels, as in `faces/happiness/1.jpg`; a
    folder that holds images beside no other media and lies deeper than that is a video in frames
    (`faces/happiness/clip7/0001.jpg`).

    Args:
        labelled: Whether every line of a list must have a label.

    Raises:
        SourceError: nothing there, or a line that is not `path label`.
    """
    if path.is_dir():
        items = _folder_items(path)
        if not items:
            known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            raise SourceError(f"'{path}' holds no videos or images ({known}).")
        return items
    if not path.is_file():
        raise SourceError(f"No file or folder '{path}'.")
    if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        return [Item(path)]
    return read_list(path, labelled=labelled)


def _folder_items(root: Path) -> list[Item]:
    items = [Item(file) for file in _media(root)]
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        target = (folder.name,)
        items += [Item(file, target) for file in _media(folder)]
        for deeper in sorted(p for p in folder.rglob("*") if p.is_dir()):
            found = _media(deeper)
            if found and all(f.suffix.lower() in IMAGE_SUFFIXES for f in found):
                items.append(Item(deeper, target))
            else:
                items += [Item(file, target) for file in found]
    return items


def _media(folder: Path) -> list[Path]:
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file())


def read_list(path: Path, *, labelled: bool = True) -> list[Item]:
    """Read `path label [label ...]` lines; relative paths are relative to the list.

    A path may hold spaces if it ends in a known suffix, or if labels need not be there and the
    whole line is the path of a folder of frames.

    Raises:
        SourceError: unreadable, empty, or a line without a label (its number is named).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors write a mark
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"'{path}' is not a readable list: {error}") from error
    items = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, target = _split_line(line)
        if not labelled and target and (path.parent / line.strip()).is_dir():
            name, target = line.strip(), ()
        if not name or (labelled and not target):
            raise SourceError(f"'{path}', line {number}: expected 'path label', got '{line:.80}'.")
        items.append(Item(path.parent / name, target))
    if not items:
        raise SourceError(f"'{path}' is an empty list.")
    return items


def _split_line(line: str) -> tuple[str, tuple[str, ...]]:
    words = line.split()
    for end in range(len(words), 0, -1):
        if words[end - 1].lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES):
            return " ".join(words[:end]), tuple(words[end:])
    return words[0], tuple(words[1:])  # a folder of frames


def leave_out(
    items: Sequence[Item], labels: Sequence[str], task: Task | None
) -> tuple[list[Item], list[str]]:
    """The items of other labels, in whatever form list and `labels` name them: "happy" and "0".

    Args:
        labels: To be left out. Beside the task's they may be others that the list has, such as
            the name of a folder that is no class.
        task: None compares names only.

    Returns:
        The items that stay, and what of `labels` neither the task nor any item has.
    """
    words = {label.lower() for label in labels}
    index = _class_finder(task)
    classes = {index(word) for word in words} - {-1}
    kept, met = [], set()
    for item in items:
        text = item.target[0].lower() if len(item.target) == 1 else ""
        if text in words or index(text) in classes:
            met.add(text)
        else:
            kept.append(item)
    return kept, [x for x in labels if x.lower() not in met and index(x.lower()) == -1]


def class_targets(items: Sequence[Item], task: Task) -> np.ndarray:
    """Class indices (n,) of items labelled by index or by name.

    Raises:
        SourceError: a label that is not one of the task's, with the file and the labels named.
    """
    index = _class_finder(task)
    found = np.empty(len(items), int)
    for row, item in enumerate(items):
        found[row] = index(item.target[0].lower() if len(item.target) == 1 else "")
        if found[row] < 0:
            raise SourceError(
                f"'{item.path}' is labelled '{' '.join(item.target)}', which is outside task "
                f"'{task.name}': 0 to {len(task.labels) - 1}, or {', '.join(task.labels)}."
            )
    return found


def _class_finder(task: Task | None) -> Callable[[str], int]:
    """Maps a label in lower case, a name or an index, to the class index; -1 if it is none."""
    labels = task.labels if task is not None and task.kind == "classes" else ()
    names = {label.lower(): index for index, label in enumerate(labels)}

    def find(text: str) -> int:
        index = names.get(text, int(text) if text.isdecimal() and len(text) < 10 else -1)
        return index if index < len(labels) else -1

    return find


def require_order(path: Path, items: Sequence[Item], task: Task) -> None:
    """Refuse a list of `svfap-edge prepare` whose indices mean other labels than the task's.

    The list's own order is in the `prepared.json` beside it; without one nothing is known.

    Raises:
        SourceError: a class index that is used has another name there.
    """
    labels = _prepared_labels(path)
    names = {label.lower() for label in task.labels}
    for item in items if labels else ():
        text = item.target[0] if len(item.target) == 1 else ""
        if text.lower() in names or not text.isdecimal() or int(text) >= len(labels):
            continue
        if int(text) < len(task.labels) and labels[int(text)] != task.labels[int(text)].lower():
            raise SourceError(
                f"'{path}' holds indices into {', '.join(labels)} (prepared.json beside it), but "
                f"the order here is {', '.join(task.labels)}: {text} would change its meaning. "
                "Take the labels in the order of the list, or write names into it."
            )


def _prepared_labels(path: Path) -> list[str]:
    """In lower case; empty where `svfap-edge prepare` did not write the list."""
    try:
        found = json.loads((path.parent / "prepared.json").read_text(encoding="utf-8"))
        lists = {Path(name).name for name in found["lists"].values()}
        return [label.lower() for label in found["labels"]] if path.name in lists else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def value_targets(items: Sequence[Item], task: Task) -> np.ndarray:
    """Values (n, L) of items labelled with numbers.

    Raises:
        SourceError: a line without exactly L numbers, or one outside the task's range.
    """
    slack = 1e-6 * (task.high - task.low)  # of values that were rescaled to the range
    rows = []
    for item in items:
        try:
            row = [float(word.rstrip(",")) for word in item.target]
        except ValueError:
            row = []
        if len(row) != len(task.labels) or not np.isfinite(row).all():
            raise SourceError(
                f"'{item.path}' is labelled '{' '.join(item.target)}'; expected "
                f"{len(task.labels)} numbers: {', '.join(task.labels)}."
            )
        if min(row) < task.low - slack or max(row) > task.high + slack:
            raise SourceError(
                f"'{item.path}' is labelled '{' '.join(item.target)}', which is outside the range "
                f"of task '{task.name}', {task.low:g} to {task.high:g}. Rescale the values."
            )
        rows.append(row)
    return np.array(rows)


def stratified(items: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """Up to `count` items with the labels as even as the data allow, in a reproducible order."""
    random = np.random.default_rng(seed)
    groups: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(item.target if len(item.target) == 1 else (), []).append(item)
    queues = [[group[i] for i in random.permutation(len(group))] for group in groups.values()]
    chosen: list[Item] = []
    while queues and len(chosen) < count:
        chosen += [queue.pop() for queue in queues][: count - len(chosen)]
        queues = [queue for queue in queues if queue]
    return chosen


def file_digest(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file, or of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest()[:16]
