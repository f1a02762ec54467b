"""The examples run as they are, on the sample, and are short."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def say(tmp_path: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in text


def test_the_robot_waves_once(tmp_path: Path) -> None:
    said = say(tmp_path, "robot_loop.py")
    assert said.count("wave at person-1") == 1


def test_the_driver_smiles_and_is_lost(tmp_path: Path) -> None:
    said = say(tmp_path, "driver_monitor.py")
    assert said.startswith("a prediction every 0.48 s")
    assert "happiness" in said and said.rstrip().endswith("nobody is seen, stale")


def test_the_lab_has_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pylsl", reason="pylsl or liblsl is not installed", exc_type=Exception)
    said = say(tmp_path, "lab_recording.py", "session-7", "3", "sample")
    assert "predictions of 1 people" in said
    lines = [json.loads(line) for line in (tmp_path / "session-7.jsonl").read_text().splitlines()]
    assert sum(line["type"] == "prediction" for line in lines) >= 4
