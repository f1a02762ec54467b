"""Mixup and CutMix share pixels as they share targets; views reach beyond the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from svfap_edge.training.clips.mixing import (
    FramingSettings,
    MixSettings,
    cut_box,
    mix,
    soft_targets,
    zoomed_out,
)

LABELS = torch.tensor([0, 2, 1, 2])


def batch() -> torch.Tensor:
    """Clip i is i everywhere: its pixels show what was mixed into it."""
    return torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 20, 30).clone()


def test_soft_targets_add_up_to_one() -> None:
    targets = soft_targets(LABELS, 5, 0.1)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert targets[1].tolist() == pytest.approx([0.02, 0.02, 0.92, 0.02, 0.02])
    assert torch.equal(soft_targets(LABELS, 3, 0.0).argmax(1), LABELS)


@pytest.mark.parametrize(
    "settings", [MixSettings(cutmix=0.0), MixSettings(mixup=0.0), MixSettings()]
)
def test_targets_are_mixed_as_the_pixels_are(settings: MixSettings) -> None:
    owners = torch.eye(4)  # a target of its own for every clip
    for seed in range(50):
        clips, targets = mix(batch(), owners, np.random.default_rng(seed), settings)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        means = clips.mean((1, 2, 3, 4))
        assert torch.allclose(means, targets @ torch.arange(4.0), atol=1e-5)
        assert torch.equal(clips[:, :, 0], clips[:, :, 1])  # the same in all frames


def test_values_are_mixed_linearly() -> None:
    values = torch.tensor([[-1.0, 0.5], [0.0, 0.2], [1.0, -0.3], [0.4, 0.4]])
    owners = torch.eye(4)
    for seed in range(20):
        _, mixed = mix(batch(), values, np.random.default_rng(seed), MixSettings())
        _, shares = mix(batch(), owners, np.random.default_rng(seed), MixSettings())
        assert torch.allclose(mixed, shares @ values, atol=1e-6)


def test_both_kinds_come_up_and_the_input_stays() -> None:
    clips, owners = batch(), torch.eye(4)
    whole = 0
    for seed in range(200):
        mixed, _ = mix(clips, owners, np.random.default_rng(seed), MixSettings())
        whole += bool((mixed == mixed.round()).all())  # CutMix leaves whole pixels
    assert 70 < whole < 130
    assert torch.equal(clips, batch())


def test_deterministic_and_switched_off() -> None:
    owners = torch.eye(4)
    first, again = (mix(batch(), owners, np.random.default_rng(7), MixSettings()) for _ in "ab")
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for off in (MixSettings(mixup=0, cutmix=0), MixSettings(probability=0)):
        clips, targets = mix(batch(), owners, np.random.default_rng(7), off)
        assert torch.equal(clips, batch())
        assert torch.equal(targets, owners)


def test_box_is_cut_off_at_the_border() -> None:
    assert cut_box(0.75, 20, 40, np.array((0.5, 0.5))) == (slice(5, 15), slice(10, 30))
    assert cut_box(0.75, 20, 40, np.array((0.0, 0.999))) == (slice(0, 5), slice(29, 40))
    rows, columns = cut_box(1.0, 20, 40, np.array((0.5, 0.5)))
    assert rows.start == rows.stop
    assert columns.start == columns.stop


OFTEN = FramingSettings(zoom_out=1.0, least_scale=0.5)


@pytest.fixture
def ramp() -> Tensor:
    """Brighter to the right; the colours and the two frames differ by a constant."""
    levels = torch.linspace(-1, 1, 32).expand(6, 3, 2, 32, 32)
    return levels + torch.arange(6.0).view(1, 3, 2, 1, 1)


def test_a_zoomed_out_view_repeats_its_border(ramp: Tensor) -> None:
    seen = zoomed_out(ramp, np.random.default_rng(0), OFTEN)
    assert seen.shape == ramp.shape
    row = seen[:, 0, 0, 16]
    assert row.abs().max() < 1.001
    inside = (row.diff(dim=1) > 1e-4).sum(1)  # the rest is border
    assert (inside >= 14).all()  # the least scale is a half
    assert inside.min() < 20


def test_all_colours_and_frames_of_a_clip_move_alike(ramp: Tensor) -> None:
    seen = zoomed_out(ramp, np.random.default_rng(0), OFTEN) - torch.arange(6.0).view(1, 3, 2, 1, 1)
    torch.testing.assert_close(seen, seen[:, :1, :1].expand_as(seen), atol=1e-5, rtol=0)
    assert not torch.allclose(seen[0, 0, 0], seen[1, 0, 0], atol=1e-3)


def test_about_the_wanted_share_is_changed() -> None:
    clips = torch.rand(400, 1, 1, 8, 8)
    seen = zoomed_out(clips, np.random.default_rng(0), FramingSettings(zoom_out=0.25))
    changed = (seen - clips).flatten(1).abs().amax(1) > 1e-4
    assert 70 < changed.sum() < 130


def test_off_nothing_is_drawn(ramp: Tensor) -> None:
    rng = np.random.default_rng(0)
    assert zoomed_out(ramp, rng, FramingSettings()) is ramp
    assert rng.random() == np.random.default_rng(0).random()
