"""The phases of the default model hand their weights on without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svfap_edge.training import default_masked
from svfap_edge.training.default_model import fold_luminance
from svfap_edge.training.masked import encoder_state
from svfap_edge.training.model import IMAGENET_MEAN, IMAGENET_STD, TPSBT, preset
from svfap_edge.training.photographs import LUMA, Faces, grey_input, resized

SMALL = preset(
    "lite", outputs=6, size=32, patch=16, stem=(8, 8, 8, 8), width=32, heads=2, depths=(1, 1, 1)
)


@pytest.fixture
def greys() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)


def test_a_still_photograph_gives_the_tokens_that_it_was_pretrained_with(
    greys: np.ndarray,
) -> None:
    masked = default_masked.photograph_autoencoder(SMALL).eval()
    model = TPSBT(SMALL).eval()
    default_masked.start_from(model, encoder_state(masked))
    with torch.no_grad():
        wanted = masked.encoder.patch_embed(grey_input(resized(greys, 1, 32)))
        tokens = model.patch_embed(grey_input(resized(greys, SMALL.frames, 32)))
    steps = tokens.unflatten(1, (SMALL.time_steps, -1))
    torch.testing.assert_close(steps, wanted[:, None].expand_as(steps), atol=1e-5, rtol=0)
    code = masked.encoder.position_code
    assert torch.equal(code, model.position_code[:, : code.shape[1]])


def test_pretraining_hands_on_what_it_learned(
    greys: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(default_masked, "BATCH", 8)
    monkeypatch.setattr(default_masked, "JUDGED", 64)
    faces = Faces(np.repeat(greys, 32, axis=0), torch.zeros(128, dtype=torch.int64))
    torch.manual_seed(0)
    state = default_masked.pretrain(SMALL, faces, faces, 0.02, 0, tmp_path / "seen.png")
    model = TPSBT(SMALL)
    default_masked.start_from(model, state)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name])
    assert (tmp_path / "seen.png").stat().st_size > 0
    assert '"phase": "masked"' in capsys.readouterr().out


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
