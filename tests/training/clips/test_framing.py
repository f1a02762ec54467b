"""Views that reach beyond the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from svfap_edge.training.clips.mixing import FramingSettings, zoomed_out

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


@pytest.mark.parametrize("settings", [{"zoom_out": 2}, {"least_scale": 0}])
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="FramingSettings: zoom_out"):
        FramingSettings(**settings)
