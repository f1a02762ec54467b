"""Lists: how lines are read, what their labels mean, and what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svfap_edge.errors import SourceError, TaskError
from svfap_edge.lists import (
    Item,
    absent_classes,
    class_targets,
    copies,
    find_items,
    require_order,
)
from svfap_edge.tasks import Task, find_task
from tests.cli.test_commands import call

NUMBERED = Task("raf", "classes", ("1", "2", "3"))
NAMED = Task("moods", "classes", ("calm", "glad", "sad"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of each of the classes 1, 2 and 3."""
    for label in "123":
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "data" / label / f"{number}.png").touch()
    return tmp_path / "data"


def test_folders_named_by_number_are_names(folder: Path) -> None:
    assert class_targets(find_items(folder), NUMBERED).tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(SourceError, match="labelled '3', which is outside task 'moods'"):
        class_targets(find_items(folder), NAMED)


def test_prepared_lists_hold_indices(folder: Path, tmp_path: Path) -> None:
    result = call("prepare", "images", folder, "-o", tmp_path / "lists", "--val-share", 0.5)
    assert result.exit_code == 0, result.output
    for path in (tmp_path / "lists").glob("*.csv"):
        items = find_items(path)
        require_order(path, items, NUMBERED)
        want = [NUMBERED.labels.index(item.path.parent.name) for item in items]
        assert class_targets(items, NUMBERED).tolist() == want


def test_a_list_that_can_be_read_in_two_ways_is_refused(folder: Path) -> None:
    path = folder.parent / "list.txt"
    path.write_text("data/1/0.png 1\n")
    with pytest.raises(SourceError, match="class 0 by its name and class 1, '2', as an index"):
        class_targets(find_items(path), NUMBERED)
    assert class_targets(find_items(path), NAMED).tolist() == [1]
    path.write_text("data/3/0.png 3\n")  # no index of three classes
    assert class_targets(find_items(path), NUMBERED).tolist() == [2]
    zero_based = Task("raf", "classes", ("0", "1", "2"))
    path.write_text("data/1/0.png 1\n")  # both readings agree
    assert class_targets(find_items(path), zero_based).tolist() == [1]


LINES = {
    "blanks": "a.png calm\nmy b.png very glad\n",
    "tabs": "a.png\tcalm\nmy b.png\tvery glad\n",
    "commas": "a.png,calm\nmy b.png,very glad\n",
    "commas, blanks": "a.png, calm\nmy b.png, very glad\n",
    "semicolons": "a.png;calm\nmy b.png;very glad\n",
    "quotes": '"a.png" calm\n"my b.png" "very glad"\n',
    "quotes, commas": '"a.png","calm"\n"my b.png","very glad"\n',
    "a header": "path,label\na.png,calm\nmy b.png,very glad\n",
    "a comment": "# mine\n\na.png calm\nmy b.png very glad\n\n",
    "Windows": "a.png calm\r\nmy b.png VERY GLAD\r\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", LINES)
def test_forms_of_lists(tmp_path: Path, form: str, encoding: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(LINES[form].encode(encoding))
    items = find_items(path)
    assert [item.path for item in items] == [tmp_path / "a.png", tmp_path / "my b.png"]
    task = Task("moods", "classes", ("very glad", "calm"))
    assert class_targets(items, task).tolist() == [1, 0]


def test_paths_from_windows(tmp_path: Path) -> None:
    (tmp_path / "my clips").mkdir()
    (tmp_path / "my clips" / "é.png").touch()
    (tmp_path / "l.txt").write_text("my clips\\e\u0301.png 0\n", encoding="utf-8")
    assert find_items(tmp_path / "l.txt")[0].path.is_file()


def test_labels_outside_the_task_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "l.txt"
    for text, word in {
        "a.png 1\nb.png 2\nc.png 3\n": "begin at 1; subtract 1",
        "a.png ?\n": "--ignore",
        "a.png 299 2\n": "labelled '299 2'",
        "a.png 0\n./a.png 1\n": "there twice, labelled '0' and '1'",
    }.items():
        path.write_text(text)
        with pytest.raises(SourceError, match=word):
            class_targets(find_items(path), NAMED)
    (tmp_path / "x.png").touch()
    with pytest.raises(SourceError, match="has no label"):
        class_targets(find_items(tmp_path), NAMED)


def test_labels_that_differ_by_case_only(tmp_path: Path) -> None:
    for label in ("Happy", "happy"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").touch()
    with pytest.raises(SourceError, match="'Happy' and 'happy'"):
        find_items(tmp_path)
    with pytest.raises(TaskError, match="not by case only"):
        Task("moods", "classes", ("Happy", "happy"))


def test_classes_without_files_are_named() -> None:
    assert absent_classes(np.array([0, 1, 2]), NAMED) is None
    assert absent_classes(np.array([0, 0]), NAMED) == (
        "No file of: glad, sad. UAR is over 1 of 3 classes."
    )


def test_copies_under_another_name(tmp_path: Path) -> None:
    contents = {"a.png": b"one", "b.png": b"two", "c.png": b"one", "d.png": b"other"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    one = [Item(tmp_path / name) for name in ("a.png", "b.png")]
    other = [Item(tmp_path / name) for name in ("c.png", "d.png", "gone.png")]
    assert copies(one, other) == [(tmp_path / "a.png", tmp_path / "c.png")]


def test_tasks_of_ones_own() -> None:
    task = find_task("mine", ("valence", "arousal"), "values", (-1.0, 1.0))
    assert (task.kind, task.low, task.high, task.metrics) == ("values", -1, 1, ("PCC", "CCC"))
    assert find_task("mine", ("a", "b")).kind == "classes"
    for arguments in (("mine", ("a",), "colours"), ("mine", ("a",), None, (0, 1)),
                      ("dfew", None, "values")):  # fmt: skip
        with pytest.raises(TaskError):
            find_task(*arguments)  # type: ignore[arg-type]
