"""The phases of the default model hand their weights on without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from svfap_edge.errors import SourceError
from svfap_edge.training.model import IMAGENET_MEAN, IMAGENET_STD, TPSBT, preset
from svfap_edge.training.recipes.classifiers import (
    StemClassifier,
    TubeletClassifier,
    fold_luminance,
    fold_temperature,
    start_later_stages_as_identity,
)
from svfap_edge.training.recipes.lite_faces import MINUTES, make
from svfap_edge.training.recipes.phases import Phase, Views, middle_answer
from svfap_edge.training.recipes.photographs import (
    LABELS,
    LUMA,
    VOTED,
    Faces,
    divided,
    grey_input,
    load_faces,
    load_ferplus,
    resized,
    without_copies,
)

SMALL = preset(
    "lite", outputs=7, size=32, patch=16, stem=(8, 8, 8, 8), width=32, heads=2, depths=(1, 1, 1)
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
        wanted = stem[0](grey_input(torch.from_numpy(grey[:, None]))[:, :, 0])
        fold_luminance(model)
        shape = (1, 3, 1, 1)
        mean, std = torch.tensor(IMAGENET_MEAN).view(shape), torch.tensor(IMAGENET_STD).view(shape)
        found = stem[0]((rgb - mean) / std)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_probabilities_are_made_to_fit_the_labels() -> None:
    torch.manual_seed(0)
    fitting = torch.randn(4000, 7)
    labels = torch.distributions.Categorical(logits=fitting).sample()
    model = TPSBT(SMALL)
    before = model.head.weight.clone(), model.head.bias.clone()
    fold_temperature(model, fitting / 3, labels)  # unsure of all
    for now, was in zip((model.head.weight, model.head.bias), before, strict=True):
        torch.testing.assert_close(now, 3 * was, rtol=0.1, atol=1e-6)


def test_a_tubelet_model_is_the_whole_one_on_one_step(greys: np.ndarray) -> None:
    model = TPSBT(SMALL).eval()
    still = grey_input(torch.from_numpy(resized(greys, SMALL.frames, 32).copy()))
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
    assert faces.images.shape == (7, 128, 128)
    assert faces.labels.tolist() == list(range(7))
    assert (faces.images == 200).all()


def test_a_teacher_sees_the_middle_frame(greys: np.ndarray) -> None:
    teachers = [StemClassifier(SMALL.stem, 7).eval() for _ in range(2)]
    frames = grey_input(torch.from_numpy(np.stack([greys, 255 - greys, greys], axis=1)))
    with torch.no_grad():
        wanted = sum(teacher(frames[:, :, 1:2]).softmax(1) for teacher in teachers) / 2
        torch.testing.assert_close(middle_answer(teachers, frames), wanted)


def voted(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in (*VOTED, "unknown", "no_face")]


def test_votes_are_shares_and_single_ones_slips(greys: np.ndarray, tmp_path: Path) -> None:
    votes = [
        voted(sadness=6, anger=3, fear=1),
        voted(contempt=5, neutral=4, disgust=1),  # none of our labels
        voted(unknown=6, neutral=4),
        voted(surprise=5, fear=5),
    ]
    images = np.repeat(greys[:1], 4, axis=0)
    np.savez(tmp_path / "a.npz", images=images, votes=np.array(votes, np.uint8))
    faces = load_ferplus(tmp_path / "a.npz")
    assert faces.images.shape == (2, 128, 128)
    at = LABELS.index
    wanted = torch.zeros(2, 7)
    wanted[0, at("sadness")], wanted[0, at("anger")] = 6 / 9, 3 / 9
    wanted[1, at("surprise")] = wanted[1, at("fear")] = 0.5
    torch.testing.assert_close(faces.targets, wanted)
    with pytest.raises(SourceError, match="not an archive with images and votes"):
        load_ferplus(tmp_path / "b.npz")


def random_faces(count: int, seed: int = 0) -> Faces:
    images = np.random.default_rng(seed).integers(0, 256, (count, 128, 128), dtype=np.uint8)
    for image in images:  # smooth, as faces are
        smooth = cv2.GaussianBlur(image, (0, 0), 12)
        cv2.normalize(smooth, image, 20, 235, cv2.NORM_MINMAX)
    return Faces(images, torch.eye(7)[torch.arange(count) % 7])


def test_copies_are_found_mirrored_brighter_and_smaller() -> None:
    faces = random_faces(21)
    copies = faces.images[[3, 5, 8]].copy()
    copies[0] = copies[0, :, ::-1]
    copies[1] = copies[1] // 2 + 60
    copies[2] = cv2.resize(cv2.resize(copies[2], (48, 48)), (128, 128))
    kept = without_copies(faces, Faces(copies, faces.targets[:3]))
    assert len(kept.images) == 18
    np.testing.assert_array_equal(kept.images, np.delete(faces.images, [3, 5, 8], axis=0))


def test_every_label_has_its_part_apart() -> None:
    rest, apart = divided(random_faces(140), 0.1, np.random.default_rng(0))
    assert torch.bincount(apart.labels).tolist() == [2] * 7
    assert torch.bincount(rest.labels).tolist() == [18] * 7


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    faces = random_faces(70)
    views = Views(faces, 32, Phase("a", 1, 2, 8, 1e-3, seed=3))
    clips, targets = views[5]
    assert clips.shape == (8, 2, 32, 32)
    assert targets.shape == (8, 7)
    again, same = Views(faces, 32, Phase("a", 1, 2, 8, 1e-3, seed=3))[5]
    assert torch.equal(clips, again)
    assert torch.equal(targets, same)
    assert not torch.equal(clips, views[6][0])


def test_all_phases_and_a_run_that_goes_on(
    greys: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faces = Faces(np.repeat(greys, 16, axis=0), torch.eye(7)[torch.arange(64) % 7])
    config = replace(SMALL, frames=8)
    minutes = dict.fromkeys(MINUTES, 0.005)
    output = tmp_path / "small.pth"
    made = partial(make, config, faces, faces, minutes, output, teacher=(8, 8))
    weights = made()
    told = phases_told(capsys)
    assert list(dict.fromkeys(told)) == list(MINUTES)
    (tmp_path / "small.clips").unlink()
    went_on = made()
    assert set(phases_told(capsys)) == {"clips"}
    again = made()
    assert capsys.readouterr().out == ""
    assert weights.keys() == again.keys()
    assert all(torch.equal(again[name], went_on[name]) for name in again)
    TPSBT(config).load_state_dict(again)
