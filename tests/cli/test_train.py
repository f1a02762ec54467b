"""What the training commands say at their end."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from svfap_edge.cli.train import _export_command
from svfap_edge.tasks import find_task

pytest.importorskip("torch")

from svfap_edge.training.settings import DataSettings


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (DataSettings(task="dfew"), {"--task": "dfew"}),
        (DataSettings(labels=("1", "2")), {"--task": "own", "--labels": "1,2"}),
        (
            DataSettings(
                task="mine", labels=("very glad", "sad"), kind="values", range=(-1.0, 1.5)
            ),
            {
                "--task": "mine",
                "--labels": "very glad,sad",
                "--kind": "values",
                "--range": "-1,1.5",
            },
        ),
    ],
)
def test_the_next_command_names_the_task_as_it_was(
    data: DataSettings, options: dict[str, str]
) -> None:
    words = shlex.split(_export_command(Path("a run/best.pth"), data))
    assert words[:3] == ["svfap-edge", "export", "a run/best.pth"]
    assert words[-2:] == ["-o", "BUNDLE"]
    assert dict(zip(words[3:-2:2], words[4:-2:2], strict=True)) == options
    name = find_task(data.task, data.labels, data.kind, data.range).name
    assert name == options["--task"]
