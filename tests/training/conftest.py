"""Drawn faces and settings small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from svfap_edge.training.datasets.drawn_faces import write_faces

LABELS = ("neutral", "happiness", "surprise", "anger")

TINY = (
    'data.task="drawn"',
    f"data.labels={list(LABELS)}",
    "model.size=32",
    "model.patch=8",
    "model.stem=[]",
    "model.width=32",
    "model.heads=2",
    "model.depths=[1, 1, 1]",
    "run.accelerator=cpu",
    "run.precision=32-true",
    "run.threads=1",
    "run.tensorboard=false",
    "optim.batch=4",
    "optim.warmup_epochs=0",
)
"""Overrides for a model of 32 px on the drawn faces."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train.txt` (8 clips of 2 people) and `val.txt` (4 clips of another)."""
    folder = tmp_path_factory.mktemp("drawn")
    write_faces(folder, people=3, labels=LABELS, size=48, form="frames", frames=20)
    return folder


def settings(drawn: Path, output: Path, *more: str) -> list[str]:
    lists = (f"data.train={drawn / 'train.txt'}", f"data.val={drawn / 'val.txt'}")
    return [*TINY, *lists, f"run.output={output}", *more]
