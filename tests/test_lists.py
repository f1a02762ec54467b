"""Labels that are numbers: names of folders, indices of prepared lists, and lists that could be
either."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap_edge.errors import SourceError
from svfap_edge.lists import class_targets, find_items, require_order
from svfap_edge.tasks import Task
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
