"""Mixup and CutMix: shares of the pixels are shares of the targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svfap_edge.training.clips.mixing import MixSettings, cut_box, mix, soft_targets

LABELS = torch.tensor([0, 2, 1, 2])


def batch() -> torch.Tensor:
    """Clip i is i everywhere: its pixels tell what was mixed into it."""
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


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        MixSettings(mixup=-1)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        MixSettings(switch=2)
