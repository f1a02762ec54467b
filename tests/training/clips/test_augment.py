"""Augmentation: alike over frames, reproducible, and centred where it should be."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.lists import find_items
from svfap_edge.training.clips.augment import OPS, AugmentSettings, augment, centre, is_still
from svfap_edge.training.clips.reading import LabelledClips, Sampling

OFF = AugmentSettings.none()
ALIKE = replace(AugmentSettings(), noise=0.0, motion=0.0)


def picture(height: int = 40, width: int = 40) -> np.ndarray:
    """A smooth coloured picture with a bright spot up on the left."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    image = np.stack((60 + 80 * x, 60 + 80 * y, 140 - 60 * x * y), -1).astype(np.uint8)
    return cv2.circle(image, (width // 4, height // 4), 4, (250, 240, 230), -1)


def moving(steps: int = 6) -> np.ndarray:
    return np.stack([np.roll(picture(), 2 * step, axis=1) for step in range(steps)])


def still(steps: int = 6) -> np.ndarray:
    return np.repeat(picture()[None], steps, axis=0)


def test_shape_dtype_and_input_left_alone() -> None:
    frames = moving()
    before = frames.copy()
    for seed in range(30):
        clip = augment(frames, 32, np.random.default_rng(seed), AugmentSettings())
        assert clip.shape == (6, 32, 32, 3)
        assert clip.dtype == np.uint8
    assert np.array_equal(frames, before)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (17, 17), (400, 300), (1, 5)])
def test_any_frame_size(shape: tuple[int, int]) -> None:
    frames = np.repeat(picture(*shape)[None], 3, axis=0)
    clip = augment(frames, 24, np.random.default_rng(0), AugmentSettings())
    assert clip.shape == centre(frames, 24).shape == (3, 24, 24, 3)


@pytest.mark.parametrize("frames", [moving(), still(), np.broadcast_to(picture(), (6, 40, 40, 3))])
def test_a_function_of_the_generator_alone(frames: np.ndarray) -> None:
    def run(seed: int) -> np.ndarray:
        return augment(frames, 32, np.random.default_rng(seed), AugmentSettings())

    first = [run(seed) for seed in range(10)]
    assert all(np.array_equal(first[seed], run(seed)) for seed in reversed(range(10)))
    assert len({clip.tobytes() for clip in first}) == 10


def test_every_frame_alike_without_motion() -> None:
    for seed in range(60):
        clip = augment(still(), 32, np.random.default_rng(seed), ALIKE)
        assert all(np.array_equal(clip[0], frame) for frame in clip)
    repeated = np.broadcast_to(picture(), (6, 40, 40, 3))
    for seed in range(10):  # the short way for photographs gives the same
        clips = [augment(f, 32, np.random.default_rng(seed), ALIKE) for f in (still(), repeated)]
        assert np.array_equal(*clips)


def test_videos_get_no_motion_of_ours() -> None:
    for seed in range(10):
        settings = replace(AugmentSettings(), noise=0.0)
        rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
        assert np.array_equal(
            augment(moving(), 32, rng, settings), augment(moving(), 32, other, ALIKE)
        )


def test_photographs_move_smoothly() -> None:
    settings = replace(OFF, motion=1.0)
    for seed in range(10):
        clip = augment(still(16), 40, np.random.default_rng(seed), settings).astype(float)
        steps = np.abs(np.diff(clip, axis=0)).mean((1, 2, 3))
        assert not np.array_equal(clip[0], clip[-1])
        assert steps.max() < 8
    quiet = augment(still(16), 40, np.random.default_rng(0), replace(OFF, motion=0.2))
    lively = augment(still(16), 40, np.random.default_rng(0), settings)
    assert np.ptp(quiet.astype(int), 0).mean() < np.ptp(lively.astype(int), 0).mean()


def test_nothing_switched_on_is_the_evaluation_clip() -> None:
    assert np.array_equal(augment(moving(), 40, np.random.default_rng(0), OFF), moving())
    assert np.array_equal(centre(moving(), 40), moving())
    wide = np.repeat(picture(30, 60)[None], 3, axis=0)
    clip = augment(wide, 60, np.random.default_rng(0), OFF)
    assert np.array_equal(clip, centre(wide, 60))
    assert np.array_equal(clip[:, 15:45], wide)
    assert (clip[:, :15] == clip[:, 15:16]).all()
    larger = augment(moving(), 57, np.random.default_rng(0), OFF).astype(int)
    assert np.abs(larger - centre(moving(), 57)).mean() < 1  # warpAffine steps by 1/32 pixel
    smaller = augment(moving(), 31, np.random.default_rng(0), OFF).astype(int)
    assert np.abs(smaller - centre(moving(), 31)).mean() < 2


def test_a_large_frame_is_shrunk_without_aliasing() -> None:
    board = np.indices((400, 400)).sum(0) % 2 * 255
    frames = np.repeat(board[None, ..., None], 2, 0).repeat(3, -1).astype(np.uint8)
    clip = augment(frames, 50, np.random.default_rng(0), OFF).astype(float)
    assert clip.std() < 5


def test_flip() -> None:
    clip = augment(moving(), 40, np.random.default_rng(0), replace(OFF, flip=1.0))
    assert np.array_equal(clip, moving()[:, :, ::-1])


def test_crop_keeps_its_share() -> None:
    y, x = np.mgrid[0:200, 0:200]
    frames = np.stack((x, y, x), -1).astype(np.uint8)[None]
    areas = []
    for seed in range(200):
        settings = replace(OFF, crop_area=0.5, crop_ratio=4 / 3)
        clip = augment(frames, 50, np.random.default_rng(seed), settings).astype(float)
        width, height = np.ptp(clip[0, 25, :, 0]) / 196, np.ptp(clip[0, :, 25, 1]) / 196
        areas.append(width * height)
        assert 0.7 < width / height < 1.43
    assert 0.46 < min(areas) < 0.55
    assert 0.95 < max(areas) <= 1.02


def test_grey() -> None:
    clip = augment(moving(), 32, np.random.default_rng(0), replace(AugmentSettings(), grey=1.0))
    noiseless = augment(moving(), 32, np.random.default_rng(0), replace(ALIKE, grey=1.0))
    assert np.ptp(noiseless.astype(int), axis=-1).max() == 0
    assert clip.shape == noiseless.shape


def test_erasing_covers_one_box_through_the_clip() -> None:
    shares = []
    for seed in range(100):
        settings = replace(OFF, erase=1.0, erase_area=0.2)
        clip = augment(moving(), 40, np.random.default_rng(seed), settings)
        covered = (clip != moving()).any(-1).any(0)
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        box = clip[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (box == box[0, 0, 0]).all()
        shares.append(covered.mean())
    assert 0.01 < min(shares) < max(shares) < 0.23
    touched = [
        not np.array_equal(
            augment(moving(), 40, np.random.default_rng(s), replace(OFF, erase=0.25)), moving()
        )
        for s in range(400)
    ]
    assert 0.17 < np.mean(touched) < 0.33


@pytest.mark.parametrize("op", OPS)
def test_each_operation_changes_the_clip_but_not_its_subject(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "svfap_edge.training.clips.augment.choose_ops", lambda rng, settings: {op: 0.7}
    )
    clip = augment(moving(), 40, np.random.default_rng(0), OFF)
    assert not np.array_equal(clip, moving())
    assert np.corrcoef(clip.ravel(), moving().ravel())[0, 1] > 0.4


def test_softness_and_noise() -> None:
    def detail(settings: AugmentSettings) -> float:
        clip = augment(moving(), 40, np.random.default_rng(1), settings).astype(float)
        return float(np.abs(np.diff(clip, axis=2)).mean())

    assert detail(replace(OFF, soft=1.0, soft_side=8)) < detail(OFF)
    assert detail(replace(OFF, noise=0.1)) > 1.5 * detail(OFF)
    clip = augment(still(), 40, np.random.default_rng(1), replace(OFF, noise=0.1))
    assert not np.array_equal(clip[0], clip[1])


def test_still() -> None:
    assert is_still(still())
    assert is_still(np.broadcast_to(picture(), (3, 40, 40, 3)))
    assert not is_still(moving())
    late = still()
    late[-1, 0, 0] += 1
    assert not is_still(late)


def test_every_setting_is_explained() -> None:
    text = AugmentSettings.__doc__ or ""
    assert all(f"{field.name}: " in text for field in fields(AugmentSettings))


def test_real_faces_keep_their_light(faces: Path) -> None:
    """Few clips may become too dark, too bright or too flat to read."""
    items = find_items(faces / "val")[::40]
    clips = LabelledClips(items, np.zeros(len(items), int), Sampling())
    contrast = []
    for index in range(len(clips)):
        clip = augment(clips.read(index), 112, np.random.default_rng(index), AugmentSettings())
        contrast.append(clip.std())
    assert np.mean(np.array(contrast) > 15) > 0.95
