"""A few seconds of tests/fuzz.py. `python -m tests.fuzz --minutes 5` runs it for five minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from . import fuzz

NAMES = (
    "manifest: any JSON",
    "manifest: a valid one, changed",
    "bundle: a valid manifest, changed",
    "bundle: any bytes as manifest",
    "bundle: damaged manifest",
    "bundle: damaged model file",
    "model: odd, with the right digest",
    "model: damaged, with the right digest",
    "source: odd names",
    "source: addresses",
    "data list",
    "training configuration",
    "training configuration: a whole one, changed",
    "checkpoint: damaged",
    "checkpoint: any bytes",
    "checkpoint: odd contents",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fuzz.Target]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    return {target.name: target for target in fuzz.targets(folder)}


def test_every_target_is_tried(targets: dict[str, fuzz.Target]) -> None:
    assert tuple(targets) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_only_our_errors_come_out(targets: dict[str, fuzz.Target], name: str) -> None:
    """What is valid gives no error at all: the strategies make some of that too."""
    assert fuzz.explore(targets[name], start=0, examples=40).total() >= 10


def test_an_unexpected_exception_does_come_out() -> None:
    def careless(case: int) -> None:
        if case > 100:
            raise IndexError

    from hypothesis import strategies

    with pytest.raises(IndexError):
        fuzz.explore(fuzz.Target("careless", strategies.integers(), careless), 0, 100)
