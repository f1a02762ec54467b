"""Lists of labelled files, in the published format: `path label` per line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import SourceError
from .media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_foreign, is_hidden, is_image, is_media
from .tasks import Task


@dataclass(frozen=True)
class Item:
    """One labelled file.

    Attributes:
        path: A video, a folder of frames, or an image.
        target: The label as it is written: one class index or name, or several numbers; empty
            where there is none.
        reading: What a number as the label of a class is: a "name" where it is that of a folder, an
            "index" in a list by `svfap-edge prepare`, and "either" in any other list.
    """

    path: Path
    target: tuple[str, ...] = ()
    reading: Literal["name", "index", "either"] = "either"


def find_items(path: Path, *, labelled: bool = True) -> list[Item]:
    """Find the items of a list file or of a folder, or the one item that a video or image is.

    In a folder of folders the first level names the labels, as in `faces/happiness/1.jpg`. A
    folder below that level which holds images and no videos is a video in frames, as in
    `faces/happiness/clip7/0001.jpg`.

    Args:
        path: A list file, a folder, a video or an image.
        labelled: Whether every line of a list must have a label.

    Raises:
        SourceError: nothing is there, or a line is not `path label`.
    """
    if path.is_dir():
        items = _folder_items(path)
        if not items:
            known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            foreign = next((file for file in path.rglob("*") if is_foreign(file)), None)
            hint = "" if foreign is None else f" It holds '{foreign}', which has to be converted."
            raise SourceError(f"'{path}' holds no videos or images ({known}).{hint}")
        return items
    if not path.is_file():
        raise SourceError(f"No file or folder '{path}'.")
    return [Item(path)] if is_media(path) else read_list(path, labelled=labelled)


def _folder_items(root: Path) -> list[Item]:
    items = [Item(file) for file in _media(root)]
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p)):
        target = (folder.name,)
        items += [Item(file, target, "name") for file in _media(folder)]
        for deeper in sorted(p for p in folder.rglob("*") if p.is_dir()):
            if any(is_hidden(part) for part in deeper.relative_to(folder).parts):
                continue
            found = _media(deeper)
            if found and all(is_image(file) for file in found):
                items.append(Item(deeper, target, "name"))
            else:
                items += [Item(file, target, "name") for file in found]
    return items


def _media(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_media(path) and path.is_file())


def read_list(path: Path, *, labelled: bool = True) -> list[Item]:
    """Read `path label [label ...]` lines; relative paths are relative to the list.

    A path may hold spaces if it ends in a known suffix, or if labels may be missing and the whole
    line is the path of a folder of frames. A list that is empty or not UTF-8 and a line without a
    label, which the message numbers, are errors as in `find_items`.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # -sig: a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"'{path}' is not a readable list: {error}") from error
    items = []
    reading: Literal["index", "either"] = "index" if _prepared_labels(path) else "either"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, target = _split_line(line)
        if not labelled and target and (path.parent / line.strip()).is_dir():
            name, target = line.strip(), ()
        if not name or (labelled and not target):
            raise SourceError(f"'{path}', line {number}: expected 'path label', got '{line:.80}'.")
        items.append(Item(path.parent / name, target, reading))
    if not items:
        raise SourceError(f"'{path}' is an empty list.")
    return items


def _split_line(line: str) -> tuple[str, tuple[str, ...]]:
    words = line.split()
    for end in range(len(words), 0, -1):
        if is_media(words[end - 1]):
            return " ".join(words[:end]), tuple(words[end:])
    return words[0], tuple(words[1:])  # the path is a folder of frames


def leave_out(
    items: Sequence[Item], labels: Sequence[str], task: Task | None
) -> tuple[list[Item], list[str]]:
    """Leave out the items that have one of some labels.

    A label may be written as a name in one place and as an index in another: "happy" and "0"; None
    for the task compares names only. Returns the items that stay, and those of `labels` that
    neither the task nor any item has.
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
    """Class indices, (n,) int, of items labelled by index or by name; SourceError for a label that
    is not one of the task's, or that is one class as a name and another as an index."""
    index = _class_finder(task)
    found = np.empty(len(items), int)
    for row, item in enumerate(items):
        text = item.target[0].lower() if len(item.target) == 1 else ""
        found[row] = index(text)
        as_index = int(text) if text.isdecimal() and int(text) < len(task.labels) else -1
        if item.reading == "index" and text.isdecimal():
            found[row] = as_index
        elif item.reading == "either" and -1 < as_index != found[row]:
            raise SourceError(
                f"'{item.path}' is labelled '{text}', which is class {found[row]} by its name and "
                f"class {as_index}, '{task.labels[as_index]}', as an index. Write labels that are "
                "no numbers, or let `svfap-edge prepare` write the list."
            )
        if found[row] < 0:
            raise SourceError(
                f"'{item.path}' is labelled '{' '.join(item.target)}', which is outside task "
                f"'{task.name}': 0 to {len(task.labels) - 1}, or {', '.join(task.labels)}."
            )
    return found


def _class_finder(task: Task | None) -> Callable[[str], int]:
    """A function from a label in lower case, name or index, to its class index; -1 for others."""
    labels = task.labels if task is not None and task.kind == "classes" else ()
    names = {label.lower(): index for index, label in enumerate(labels)}

    def find(text: str) -> int:
        index = names.get(text, int(text) if text.isdecimal() and len(text) < 10 else -1)
        return index if index < len(labels) else -1

    return find


def require_order(path: Path, items: Sequence[Item], task: Task) -> None:
    """Raise SourceError for a list by `svfap-edge prepare` that uses an index which means another
    label there than in the task. The list's own order is in the `prepared.json` beside it; without
    that file nothing is checked."""
    labels = _prepared_labels(path)
    for item in items if labels else ():
        text = item.target[0] if len(item.target) == 1 else ""
        if not text.isdecimal() or int(text) >= len(labels):
            continue
        if int(text) < len(task.labels) and labels[int(text)] != task.labels[int(text)].lower():
            raise SourceError(
                f"'{path}' holds indices into {', '.join(labels)} (prepared.json beside it), but "
                f"the order here is {', '.join(task.labels)}: {text} would change its meaning. "
                "Take the labels in the order of the list, or write names into it."
            )


def _prepared_labels(path: Path) -> list[str]:
    """Labels of a list in order, in lower case; empty if `svfap-edge prepare` did not write it."""
    try:
        found = json.loads((path.parent / "prepared.json").read_text(encoding="utf-8"))
        lists = {Path(name).name for name in found["lists"].values()}
        return [label.lower() for label in found["labels"]] if path.name in lists else []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def value_targets(items: Sequence[Item], task: Task) -> np.ndarray:
    """Values, (n, L) float, of items labelled with numbers; SourceError for an item that has not
    exactly L of them, or one outside the task's range."""
    slack = 1e-6 * (task.high - task.low)  # for values that were rescaled to the range
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
    """Choose up to `count` items, labels as even as the data allow, in a reproducible order."""
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
