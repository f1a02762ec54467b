"""The phases of the default model hand their weights on without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from svfap_edge.training.model import IMAGENET_MEAN, IMAGENET_STD, TPSBT, preset
from svfap_edge.training.recipes.classifiers import (
    StemClassifier,
    TubeletClassifier,
    fold_luminance,
    fold_temperature,
    start_later_stages_as_identity,
)
from svfap_edge.training.recipes.lite_faces import MINUTES, make
from svfap_edge.training.recipes.phases import middle_answer
from svfap_edge.training.recipes.photographs import (
    LABELS,
    LUMA,
    Faces,
    grey_input,
    load_faces,
    resized,
)

SMALL = preset(
    "lite", outputs=6, size=32, patch=16, stem=(8, 8, 8, 8), width=32, heads=2, depths=(1, 1, 1)
)


@pytest.fixture
def greys() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)


def phases_told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["phase"] for line in capsys.readouterr().out.splitlines()]


def test_colour_is_read_as_the_luminance_that_was_learned() -> None:
    model = TPSBT(SMALL).eval()
    stem = model.patch_embed.stem
    assert isinstance(stem, nn.Sequential)
    rgb = torch.rand(2, 3, 32, 32)
    grey = (rgb * LUMA.view(1, 3, 1, 1)).sum(1).numpy() * 255
    with torch.no_grad():
        wanted = stem[0](grey_input(grey[:, None])[:, :, 0])
        fold_luminance(model)
        shape = (1, 3, 1, 1)
        mean, std = torch.tensor(IMAGENET_MEAN).view(shape), torch.tensor(IMAGENET_STD).view(shape)
        found = stem[0]((rgb - mean) / std)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_probabilities_are_made_to_fit_the_labels() -> None:
    torch.manual_seed(0)
    fitting = torch.randn(4000, 6)
    labels = torch.distributions.Categorical(logits=fitting).sample()
    model = TPSBT(SMALL)
    before = model.head.weight.clone(), model.head.bias.clone()
    fold_temperature(model, fitting / 3, labels)  # unsure of all
    for now, was in zip((model.head.weight, model.head.bias), before, strict=True):
        torch.testing.assert_close(now, 3 * was, rtol=0.1, atol=1e-6)


def test_a_tubelet_model_is_the_whole_one_on_one_step(greys: np.ndarray) -> None:
    model = TPSBT(SMALL).eval()
    still = grey_input(resized(greys, SMALL.frames, 32))
    with torch.no_grad():
        start_later_stages_as_identity(model)
        found = TubeletClassifier(model).eval()(still[:, :, :1])
        tokens = model.patch_embed(still) + model.position_code
        first = tokens[:, : SMALL.positions]
        wanted = model.classify(model.fc_norm(model.blocks[0](first).mean(1)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_an_oblong_photograph_is_cut_not_filled(tmp_path: Path) -> None:
    for label in LABELS:
        (tmp_path / label).mkdir()
        oblong = np.zeros((96, 128, 3), np.uint8)
        oblong[:, 16:112] = 200  # the middle square
        cv2.imwrite(str(tmp_path / label / "a.png"), oblong)
    faces = load_faces(tmp_path)
    assert faces.images.shape == (6, 128, 128)
    assert (faces.images == 200).all()


def test_a_teacher_sees_the_middle_frame(greys: np.ndarray) -> None:
    stem = StemClassifier(TPSBT(SMALL)).eval()
    frames = grey_input(np.stack([greys, 255 - greys, greys], axis=1))
    with torch.no_grad():
        wanted = stem(frames[:, :, 1:2]).softmax(1)
        torch.testing.assert_close(middle_answer(stem, frames), wanted)


def test_all_phases_and_a_run_that_goes_on(
    greys: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faces = Faces(np.repeat(greys, 16, axis=0), torch.arange(64) % 6)
    config = replace(SMALL, frames=8)
    minutes = dict.fromkeys(MINUTES, 0.005)
    output = tmp_path / "small.pth"
    weights = make(config, faces, faces, minutes, output)
    assert phases_told(capsys) == list(MINUTES)
    (tmp_path / "small.clips").unlink()
    went_on = make(config, faces, faces, minutes, output)
    assert phases_told(capsys) == ["clips"]
    again = make(config, faces, faces, minutes, output)
    assert capsys.readouterr().out == ""
    assert weights.keys() == again.keys()
    assert all(torch.equal(again[name], went_on[name]) for name in again)
    TPSBT(config).load_state_dict(again)
