"""Drawn faces: the files written, and that expressions show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from svfap_edge.errors import SourceError
from svfap_edge.lists import file_digest, read_list
from svfap_edge.tasks import Task
from svfap_edge.training.clips.epochs import generator
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.datasets.drawing import LABELS, Person
from svfap_edge.training.datasets.drawn_faces import face_clip, write_faces

TASK = Task("drawn", "classes", LABELS)


def people(path: Path) -> set[str]:
    return {item.path.name.split("_")[0] for item in read_list(path)}


@pytest.mark.parametrize("form", ["videos", "frames"])
def test_lists_are_readable_and_person_disjoint(tmp_path: Path, form: str) -> None:
    train, val = write_faces(
        tmp_path / "drawn", people=4, frames=12, size=48, form=form  # type: ignore[arg-type]
    )  # fmt: skip
    assert people(train) == {"p00", "p01", "p02"}
    assert people(val) == {"p03"}
    for path in (train, val):
        clips = LabelledClips.open(path, TASK, Sampling(frames=4, spacing_s=0.12, stride=3))
        for index, item in enumerate(clips.items):
            assert LABELS[clips.targets[index]] in item.path.name
            assert clips.read(index).shape == (4, 48, 48, 3)
    assert len(read_list(train)) == 3 * len(LABELS)


def test_files_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        options = {"people": 2, "frames": 3, "size": 32, "labels": ("neutral", "happiness")}
        train, _ = write_faces(tmp_path / name, seed=seed, form="frames", **options)  # type: ignore[arg-type]
        return [file_digest(item.path) for item in read_list(train)]

    assert digests("a", 0) == digests("b", 0)
    assert digests("c", 1) != digests("a2", 0)


def test_the_expression_moves_from_neutral_to_its_apex() -> None:
    person = Person.draw(generator("person", 0, 0))
    changes = {}
    for label in LABELS:
        clip = face_clip(person, label, np.random.default_rng(4), 24, 64).astype(float)
        neutral = face_clip(person, "neutral", np.random.default_rng(4), 24, 64)
        changes[label] = np.abs(clip - neutral).mean((1, 2, 3))
    for label, change in changes.items():
        assert change[0] == 0  # every clip starts neutral
        if label == "neutral":
            assert change.max() == 0
        else:
            assert change[12:].min() > 5 * max(0.05, change[1])


def test_people_differ() -> None:
    first, second = (Person.draw(generator("person", 0, number)) for number in (0, 1))
    assert first != second
    assert first == Person.draw(generator("person", 0, 0))


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match="is not empty"):
        write_faces(tmp_path)
    with pytest.raises(ValueError, match="at least 2 people"):
        write_faces(tmp_path / "x", people=1)
    with pytest.raises(ValueError, match="labels among neutral"):
        write_faces(tmp_path / "x", labels=("neutral", "bored"))
