"""Lists of labelled files, in the published format: `path label` per line."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import SourceError
from .list_file import read_rows
from .media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_foreign, is_hidden, is_image, is_media
from .tasks import Task


@dataclass(frozen=True)
class Item:
    """One labelled file.

    Attributes:
        path: A video, a folder of frames, or an image.
        target: The label as it is written, in words: a class's index or name, or several numbers;
            empty where there is none.
        reading: What a number as the label of a class is: a "name" where it is that of a folder, an
            "index" in a list by `svfap-edge prepare`, and "either" in any other list.
    """

    path: Path
    target: tuple[str, ...] = ()
    reading: Literal["name", "index", "either"] = "either"

    @property
    def label(self) -> str:
        """The label in one piece, in lower case."""
        return " ".join(self.target).lower()


def find_items(path: Path, *, labelled: bool = True) -> list[Item]:
    """Find the items of a list file or of a folder, or the one item that a video or image is.

    In a folder of folders the first level names the labels, as in `faces/happiness/1.jpg`. A
    folder below that level which holds images and no videos is a video in frames, as in
    `faces/happiness/clip7/0001.jpg`.

    Args:
        path: A list file, a folder, a video or an image.
        labelled: Whether every line of a list must have a label.

    Raises:
        SourceError: nothing is there, a line is not `path label`, or folders differ by case only.
    """
    if os.path.isdir(path):
        items = _folder_items(path)
        if not items:
            known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            foreign = next((file for file in path.rglob("*") if is_foreign(file)), None)
            hint = "" if foreign is None else f" It holds '{foreign}', which has to be converted."
            raise SourceError(f"'{path}' holds no videos or images ({known}).{hint}")
        return items
    if not os.path.isfile(path):
        raise SourceError(f"No file or folder '{path}'.")
    return [Item(path)] if is_media(path) else read_list(path, labelled=labelled)


def _folder_items(root: Path) -> list[Item]:
    items = [Item(file) for file in _media(root)]
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p))
    require_distinct([folder.name for folder in folders], f"'{root}'")
    for folder in folders:
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


def require_distinct(labels: Sequence[str], where: str) -> None:
    """Raise SourceError if two labels differ by case only."""
    seen: dict[str, str] = {}
    for label in labels:
        other = seen.setdefault(label.lower(), label)
        if other != label:
            raise SourceError(
                f"{where} has labels that differ by case only, '{other}' and '{label}'. Labels are "
                "compared without it; rename or merge them."
            )


def _media(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_media(path) and path.is_file())


def read_list(path: Path, *, labelled: bool = True) -> list[Item]:
    """The items of a list; see `read_rows` for its lines. A list that is empty is an error too."""
    reading: Literal["index", "either"] = "index" if _prepared_labels(path) else "either"
    items = [Item(file, target, reading) for file, target in read_rows(path, labelled=labelled)]
    if not items:
        raise SourceError(f"'{path}' is an empty list.")
    return items


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
        if item.label in words or index(item.label) in classes:
            met.add(item.label)
        else:
            kept.append(item)
    return kept, [x for x in labels if x.lower() not in met and index(x.lower()) == -1]


def class_targets(items: Sequence[Item], task: Task) -> np.ndarray:
    """Class indices, (n,) int, of items labelled by index or by name.

    Raises:
        SourceError: a label is not one of the task's, or is one class as a name and another as an
            index; or a file is there twice, with two labels.
    """
    index = _class_finder(task)
    found = np.empty(len(items), int)
    seen: dict[str, int] = {}
    for row, item in enumerate(items):
        text = item.label
        found[row] = index(text)
        as_index = _number(text) if _number(text) < len(task.labels) else -1
        if item.reading == "index" and text.isdecimal():
            found[row] = as_index
        elif item.reading == "either" and -1 < as_index != found[row]:
            raise SourceError(
                f"'{item.path}' is labelled '{text}', which is class {found[row]} by its name and "
                f"class {as_index}, '{task.labels[as_index]}', as an index. Write labels that are "
                "no numbers, or let `svfap-edge prepare` write the list."
            )
        if found[row] < 0:
            raise SourceError(_outside(item, items, task))
        before = seen.setdefault(os.path.abspath(item.path), row)
        if found[before] != found[row]:
            raise SourceError(
                f"'{item.path}' is there twice, labelled '{items[before].label}' and '{text}'. "
                "Keep the one that is right."
            )
    return found


def _outside(item: Item, items: Sequence[Item], task: Task) -> str:
    """What to say of a label that is not one of the task's."""
    if not item.target:
        return (
            f"'{item.path}' has no label. Expected a list of 'path label' lines, or a folder for "
            f"each label of task '{task.name}': {', '.join(task.labels)}."
        )
    text = (
        f"'{item.path}' is labelled '{' '.join(item.target)}', which is outside task "
        f"'{task.name}': 0 to {len(task.labels) - 1}, or {', '.join(task.labels)}."
    )
    numbers = {_number(each.label) for each in items if each.label.isdecimal()}
    if numbers and min(numbers) == 1 and max(numbers) == len(task.labels):
        return f"{text} The numbers in it begin at 1; subtract 1 from each."
    return f"{text} --ignore (data.ignore in training) leaves out the files of a label."


def absent_classes(targets: np.ndarray, task: Task) -> str | None:
    """A sentence about the classes that no file has; None where each has one."""
    if task.kind != "classes":
        return None
    there = set(targets.tolist())
    absent = [label for index, label in enumerate(task.labels) if index not in there]
    if not absent:
        return None
    count = len(task.labels)
    return f"No file of: {', '.join(absent)}. UAR is over {count - len(absent)} of {count} classes."


def copies(one: Sequence[Item], other: Sequence[Item]) -> list[tuple[Path, Path]]:
    """Files of one list whose content a file of the other has, under whatever name, with that file.

    Only files of equal size are read. Folders of frames are not compared.
    """
    sizes, found = _by_size(one), []
    for size, paths in _by_size(other).items():
        known = {file_digest(path): path for path in sizes.get(size, ())}
        for path in paths if known else ():
            digest = file_digest(path)
            found += [(known[digest], path)] if digest in known else []
    return sorted(found, key=lambda pair: pair[1])


def _by_size(items: Sequence[Item]) -> dict[int, list[Path]]:
    """The files of items, each once, by their size in bytes."""
    sizes: dict[int, list[Path]] = {}
    for path in sorted({item.path for item in items}):
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    return sizes


def _number(text: str) -> int:
    """An index as it is written; -1 for what is none, or has more digits than any."""
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _class_finder(task: Task | None) -> Callable[[str], int]:
    """A function from a label in lower case, name or index, to its class index; -1 for others."""
    labels = task.labels if task is not None and task.kind == "classes" else ()
    names = {label.lower(): index for index, label in enumerate(labels)}

    def find(text: str) -> int:
        index = names.get(text, _number(text))
        return index if index < len(labels) else -1

    return find


def require_order(path: Path, items: Sequence[Item], task: Task) -> None:
    """Raise SourceError for a list by `svfap-edge prepare` that uses an index which means another
    label there than in the task. The list's own order is in the `prepared.json` beside it; without
    that file nothing is checked."""
    labels = _prepared_labels(path)
    for item in items if labels else ():
        text = item.label
        index = _number(text)
        if not -1 < index < len(labels):
            continue
        if index < len(task.labels) and labels[index] != task.labels[index].lower():
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
    groups: dict[str, list[Item]] = {}
    for item in items:
        numbers = len(item.target) > 1 and all(_is_number(word) for word in item.target)
        groups.setdefault("" if numbers else item.label, []).append(item)
    queues = [[group[i] for i in random.permutation(len(group))] for group in groups.values()]
    chosen: list[Item] = []
    while queues and len(chosen) < count:
        chosen += [queue.pop() for queue in queues][: count - len(chosen)]
        queues = [queue for queue in queues if queue]
    return chosen


def _is_number(word: str) -> bool:
    try:
        float(word.rstrip(","))
    except ValueError:
        return False
    return True


def file_digest(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a file, or of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            total.update(file.read_bytes())
    return total.hexdigest()[:16]
