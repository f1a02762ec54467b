"""Evaluating a list: clips go in batches, and a recording's answer is the mean over its clips."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from svfap_edge.lists import Item
from svfap_edge.tasks import Task
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.model import TPSBTConfig
from svfap_edge.training.protocols import evaluate_streaming, run_list

MOODS = Task("moods", "classes", ("calm", "glad"))


class Brightness(nn.Module):
    """Logits by the level of a clip: dark ones are surely calm, bright ones rather glad."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, clips: Tensor) -> Tensor:
        self.batches.append(len(clips))
        bright = (clips.mean((1, 2, 3, 4)) > 0).float()
        return torch.stack((9 * (1 - bright), 2 * bright), 1)


class Levels(Dataset[tuple[int, np.ndarray]]):
    """One item of three clips, one of them dark."""

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        levels = np.array([0, 255, 255], np.uint8).reshape(3, 1, 1, 1, 1)
        return index, np.repeat(levels, 2 * 8 * 8 * 3).reshape(3, 2, 8, 8, 3)


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu")


def test_probabilities_are_averaged_for_classes_and_outputs_for_values(fabric: Fabric) -> None:
    found = run_list(fabric, Brightness(), Levels(), 1, MOODS, batch=8).values[0]
    calm = (1 / (1 + np.exp(-9)) + 2 / (1 + np.exp(2))) / 3
    assert found == pytest.approx((calm, 1 - calm), abs=1e-6)
    assert found.argmax() == 1  # the mean of the logits, (3, 4/3), says calm
    values = Task("levels", "values", ("calm", "glad"), low=-9, high=9)
    found = run_list(fabric, Brightness(), Levels(), 1, values, batch=8).values[0]
    assert found == pytest.approx((3, 4 / 3))


def test_a_long_recording_goes_through_in_batches(fabric: Fabric, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    for index in range(60):
        level = 255 if index >= 20 else 0
        cv2.imwrite(str(folder / f"{index}.png"), np.full((8, 8, 3), level, np.uint8))
    times = "".join(f"{index}.png,{index / 8}\n" for index in range(60))
    (folder / "timestamps.csv").write_text(times)
    clips = LabelledClips([Item(folder)], np.array([1]), Sampling(frames=8))
    model = Brightness()
    config = TPSBTConfig(frames=8, size=8, patch=8)
    row = evaluate_streaming(fabric, model, clips, MOODS, config, batch=4)
    assert sum(model.batches) > 12 and max(model.batches) == 4
    assert row["war"] == 1.0
