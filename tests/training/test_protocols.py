"""Evaluating a list: clips go in batches, a recording's answer is the mean over its clips, and the
streaming protocol reads a recording as the runtime does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from svfap_edge.bundle import Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.evaluation.face_clips import ClipRecorder
from svfap_edge.lists import Item
from svfap_edge.runtimes import Engine
from svfap_edge.sources.opening import open_source
from svfap_edge.tasks import Task
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.protocols import EvaluationClips, figures, run_list, streamed_clips

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
    found = run_list(fabric, Brightness(), Levels(), 1, MOODS, batch=8)[0]
    calm = (1 / (1 + np.exp(-9)) + 2 / (1 + np.exp(2))) / 3
    assert found == pytest.approx((calm, 1 - calm), abs=1e-6)
    assert found.argmax() == 1  # the mean of the logits, (3, 4/3), says calm
    values = Task("levels", "values", ("calm", "glad"), low=-9, high=9)
    found = run_list(fabric, Brightness(), Levels(), 1, values, batch=8)[0]
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
    streamed = EvaluationClips(clips, ClipSpec(8, 8 * MOODS.spacing_s, 8), streaming=True)
    row = figures(run_list(fabric, model, streamed, 1, MOODS, batch=4), clips, MOODS)
    assert sum(model.batches) > 10 and max(model.batches) == 4
    assert row["war"] == 1.0


def recording(folder: Path, times: np.ndarray, shape: tuple[int, int] = (12, 20)) -> Path:
    """Frames that differ, at these times."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(len(times)):
        image = random.integers(0, 255, (*shape, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    rows = [f"{index}.png,{time_s:.3f}\n" for index, time_s in enumerate(times)]
    (folder / "timestamps.csv").write_text("".join(rows))
    return folder


@pytest.mark.parametrize("hop_s", [0.1, 0.3, 0.4, 0.7])
@pytest.mark.parametrize("camera", ["8 fps", "25 fps", "29.97 fps", "60 fps", "irregular", "gap"])
def test_streamed_clips_are_those_of_the_runtime(tmp_path: Path, camera: str, hop_s: float) -> None:
    """Their ends and their pixels, those of frames that are not square included."""
    if camera == "irregular":
        times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.2, 60))
    elif camera == "gap":
        times = np.concatenate([np.arange(0, 2, 0.04), np.arange(5.3, 7, 0.04)])
    else:
        times = np.arange(0, 5, 1 / float(camera.split()[0]))
    spec = ClipSpec(8, 1.6, 8)
    path = recording(tmp_path / "frames", times)
    recorder, ends, clips = ClipRecorder(spec, 2), [], []
    with Engine(recorder, Manifest("recorder", MOODS, spec, 0.0, {})) as engine:
        stream = engine.open_stream("face", hop_s=hop_s)
        with open_source(path) as source:
            for frame in source:
                for prediction in stream.push(frame.image, frame.timestamp_s):
                    assert recorder.batch is not None
                    ends.append(prediction.end_s)
                    clips.append(recorder.batch[0].copy())
    found = streamed_clips(path, spec, hop_s)
    assert len(ends) >= 3
    assert [clip.end_s for clip in found] == ends
    assert np.array_equal(np.stack([clip.frames for clip in found]), np.stack(clips))


def test_the_clips_of_a_camera_of_25_frames_a_second(tmp_path: Path) -> None:
    """16 slots of 4 frames: half of them are there after 28 frames; then a hop is 16."""
    times = np.arange(80) / 25
    path = recording(tmp_path / "frames", times)
    found = streamed_clips(path, ClipSpec(16, 2.56, 8))
    assert [round(clip.end_s * 25) for clip in found] == [28, 44, 60, 76]


def test_a_short_recording_and_an_image_give_one_clip(tmp_path: Path) -> None:
    path = recording(tmp_path / "frames", np.arange(3) / 25)
    image = path / "0.png"
    clips = LabelledClips([Item(path), Item(image)], np.array([0, 1]), Sampling(frames=8))
    streamed = EvaluationClips(clips, ClipSpec(8, 1.6, 8), streaming=True)
    _, short = streamed[0]
    _, still = streamed[1]
    assert isinstance(short, np.ndarray) and isinstance(still, np.ndarray)
    assert short.shape == still.shape == (1, 8, 8, 8, 3)
    assert np.array_equal(still[0, 0], short[0, 0])  # the oldest frame, fitted alike
    assert (still[0] == still[0, 0]).all()
