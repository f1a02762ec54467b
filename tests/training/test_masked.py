"""Masked-autoencoder pre-training: the published outputs, masks, targets, pictures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from svfap_edge.training.checkpoint import FRESH, load_checkpoint
from svfap_edge.training.masked import (
    FUSIONS,
    DecoderConfig,
    MaskedAutoencoder,
    clips_of,
    masked_loss,
    patches_of,
    pixel_mask,
    pixel_targets,
    reconstruct,
    to_pixels,
    token_order,
    tube_mask,
)
from svfap_edge.training.model import IMAGENET_MEAN, IMAGENET_STD, TPSBT, TPSBTConfig
from svfap_edge.training.trainer.curves import reconstruction_picture
from tests.models import TINY, golden_weights

STEMMED = TPSBTConfig.from_dict({**TINY.to_dict(), "stem": (8, 16)})
DECODER = DecoderConfig(width=32, depth=2, heads=4)
BOTH = pytest.mark.parametrize("config", [TINY, STEMMED], ids=["plain", "stem"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips_for(config: TPSBTConfig, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, config.frames, config.size, config.size, generator=seeded())


def mask_for(config: TPSBTConfig, batch: int = 2, ratio: float = 0.75) -> torch.Tensor:
    return tube_mask(batch, config.time_steps, config.positions, ratio, seeded())


def autoencoder(config: TPSBTConfig, fusion: str = "published") -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config, replace(DECODER, fusion=fusion)).eval()


def test_matches_published_outputs(golden: Path) -> None:
    reference = np.load(golden / "pretrain_tiny.npz")
    shapes = json.loads(str(reference["state"]))
    config = TPSBTConfig.from_dict({**TINY.to_dict(), "frames": 16})
    model = MaskedAutoencoder(config, DECODER).eval()
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == shapes
    model.load_state_dict(golden_weights(shapes))
    clips = np.random.default_rng(0).standard_normal((2, 3, 16, 32, 32)).astype(np.float32)
    with torch.no_grad():
        prediction = model(torch.from_numpy(clips), torch.from_numpy(reference["mask"]))
    assert np.abs(prediction.numpy() - reference["prediction"]).max() <= 1e-5


def test_fusions_differ_only_where_several_positions_are_visible() -> None:
    model, other = autoencoder(TINY), autoencoder(TINY, "aligned")
    other.load_state_dict(model.state_dict())
    clips = clips_for(TINY)
    several, one = mask_for(TINY), mask_for(TINY, ratio=0.95)
    with torch.no_grad():
        assert not torch.allclose(model(clips, several), other(clips, several), atol=1e-4)
        torch.testing.assert_close(model(clips, one), other(clips, one))


def test_aligned_fusion_adds_time_steps_of_the_same_position() -> None:
    encoder = autoencoder(TINY, "aligned").encoder
    first, second = torch.zeros(1, 4 * 3, 1), torch.arange(6.0).view(1, 6, 1)  # 3 positions
    fused = encoder.fuse([first, second]).view(4, 3)
    assert fused.tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]


def test_aligned_fusion_keeps_a_position_to_itself() -> None:
    """With attention off, a patch reaches its own position only, at all of its time steps."""
    mask = mask_for(TINY, batch=1)
    visible, _ = token_order(mask, TINY)
    positions = visible[0] % TINY.positions
    chosen = int(positions[1])
    clips = clips_for(TINY, batch=1)
    here = torch.zeros(1, TINY.time_steps, TINY.positions, dtype=torch.bool)
    here[:, :, chosen] = True
    other = clips + pixel_mask(here.flatten(1), TINY)

    def moved(fusion: str) -> torch.Tensor:
        model = autoencoder(TINY, fusion)
        for name, weight in model.encoder.named_parameters():
            if re.search(r"(attn|cross_attn)\.proj", name):
                nn.init.zeros_(weight)
        with torch.no_grad():
            before, after = (model.encoder(x, mask, visible)[0] for x in (clips, other))
        found: torch.Tensor = (before - after).abs().amax(1) > 1e-6
        return found

    assert torch.equal(moved("aligned"), positions == chosen)
    astray = moved("published") & (positions != chosen)
    assert astray.any()


def test_tube_mask_hides_the_same_positions_at_all_time_steps() -> None:
    mask = tube_mask(64, 8, 100, generator=seeded())
    tube = mask.view(64, 8, 100)
    assert mask.dtype == torch.bool
    assert (tube == tube[:, :1]).all()
    assert (tube[:, 0].sum(dim=1) == 90).all()
    assert len({tuple(row.tolist()) for row in tube[:, 0]}) == 64
    assert tube[:, 0].float().mean(0).sub(0.9).abs().max() < 0.2  # no position is favoured
    assert torch.equal(mask, tube_mask(64, 8, 100, generator=seeded()))


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.05])
def test_mask_ratio_that_hides_all_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="positions"):
        tube_mask(1, 4, 16, ratio)


def test_masks_that_are_no_tubes_are_refused() -> None:
    model, clips = autoencoder(TINY), clips_for(TINY)
    good = mask_for(TINY)
    uneven = good.clone()
    uneven[0, int(good[0].byte().argmin())] = True
    unequal = torch.cat((mask_for(TINY, 1, 0.5), mask_for(TINY, 1, 0.75)))
    for bad in (uneven, unequal, torch.ones_like(good)):
        with pytest.raises(ValueError, match="tube_mask"):
            model(clips, bad)
    for bad in (good[:, 1:], good.float()):
        with pytest.raises(ValueError, match=r"\(B, 64\) bool"):
            model(clips, bad)


@BOTH
@pytest.mark.parametrize("training", [False, True])
def test_masked_pixels_do_not_change_the_prediction(config: TPSBTConfig, training: bool) -> None:
    model = autoencoder(config).train(training)
    clips, mask = clips_for(config), mask_for(config)
    hidden = pixel_mask(mask, config).expand_as(clips)
    other = torch.where(hidden, torch.full_like(clips, 7.0), clips)
    shown = torch.where(hidden, clips, clips + 1)
    with torch.no_grad():
        before, after, changed = model(clips, mask), model(other, mask), model(shown, mask)
    assert torch.equal(before, after)
    assert not torch.allclose(before, changed, atol=1e-3)


@BOTH
def test_masked_patches_are_the_masked_pixels(config: TPSBTConfig) -> None:
    mask = mask_for(config)
    pixels = pixel_mask(mask, config).expand(-1, 3, -1, -1, -1)
    by_patch = patches_of(pixels, config)
    assert torch.equal(by_patch.flatten(2).all(2), mask)
    assert torch.equal(by_patch.flatten(2).any(2), mask)


def test_patches_are_the_tokens_of_the_patch_projection() -> None:
    """A patch and its token have the same index; values run frame, row, column, colour."""
    embed, clips = TPSBT(TINY).patch_embed, clips_for(TINY)
    weight = embed.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)
    tokens = patches_of(clips, TINY).flatten(2) @ weight.T + embed.proj.bias
    torch.testing.assert_close(tokens, embed(clips), atol=1e-5, rtol=1e-4)


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return (pixels - mean.view(3, 1, 1, 1)) / std.view(3, 1, 1, 1)


@BOTH
def test_the_targets_reconstruct_the_clip(config: TPSBTConfig) -> None:
    pixels = torch.rand(2, 3, config.frames, config.size, config.size, generator=seeded())
    clips = normalized(pixels)
    torch.testing.assert_close(to_pixels(clips), pixels)
    mask = mask_for(config)
    targets = pixel_targets(clips, mask, config)
    assert targets.shape == (2, int(mask[0].sum()), 2 * 8 * 8 * 3)
    per_channel = targets.unflatten(2, (-1, 3))
    assert per_channel.mean(2).abs().max() < 1e-4
    assert per_channel.var(2).sub(1).abs().max() < 1e-3  # unbiased
    torch.testing.assert_close(reconstruct(clips, mask, targets, config), pixels)
    torch.testing.assert_close(clips_of(patches_of(clips, config), config), clips)
    blank = reconstruct(clips, mask, torch.zeros_like(targets), config)
    hidden = pixel_mask(mask, config).expand_as(blank)
    torch.testing.assert_close(blank[~hidden], pixels[~hidden])
    assert not torch.allclose(blank[hidden], pixels[hidden], atol=0.1)


def test_flat_patches_have_finite_targets() -> None:
    mask = mask_for(TINY)
    targets = pixel_targets(torch.full((2, 3, 8, 32, 32), 0.3), mask, TINY)
    assert targets.isfinite().all() and targets.abs().max() < 1


@BOTH
@pytest.mark.parametrize("fusion", FUSIONS)
def test_prediction_has_the_shape_of_the_targets_and_the_loss_falls(
    config: TPSBTConfig, fusion: str
) -> None:
    model = autoencoder(config, fusion).train()
    stripes = torch.linspace(0, 30, config.size).sin()  # structure that goes on under the mask
    clips = stripes.expand(2, 3, config.frames, config.size, -1) + 0.1 * clips_for(config)
    mask = mask_for(config)
    targets = pixel_targets(clips, mask, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        prediction = model(clips, mask)
        assert prediction.shape == targets.shape
        loss = masked_loss(prediction, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_bfloat16_is_close_to_float32() -> None:
    model, clips, mask = autoencoder(STEMMED), clips_for(STEMMED), mask_for(STEMMED)
    targets = pixel_targets(clips, mask, STEMMED)
    with torch.no_grad():
        exact = masked_loss(model(clips, mask), targets)
        with torch.autocast("cpu", torch.bfloat16):
            rough = masked_loss(model(clips, mask), targets)
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.02)


def encoder_weights(source: MaskedAutoencoder) -> dict[str, torch.Tensor]:
    """What a fine-tuning model starts from: all of the encoder but its last norm."""
    state = source.encoder.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("norm.")}


@BOTH
def test_fine_tuning_starts_from_the_same_encoder(config: TPSBTConfig) -> None:
    source, clips = autoencoder(config), clips_for(config)
    model = TPSBT(config).eval()
    missing, extra = model.load_state_dict(encoder_weights(source), strict=False)
    assert extra == [] and all(name.startswith(FRESH) for name in missing)
    empty = torch.zeros(2, config.time_steps * config.positions, dtype=torch.bool)
    visible, masked = token_order(empty, config)
    assert masked.shape == (2, 0)
    with torch.no_grad():
        ours = source.encoder.stages(source.encoder.embed(clips, empty, visible))
        theirs = model.stages(model.patch_embed(clips) + model.position_code)
    assert [x.shape[1] for x in ours] == [64, 32, 16]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert source(clips, empty).shape == (2, 0, 384)


@BOTH
def test_saved_autoencoder_opens_as_pre_trained(tmp_path: Path, config: TPSBTConfig) -> None:
    source = autoencoder(config)
    path = tmp_path / "pre.pth"
    torch.save({"model": source.state_dict(), "config": config.to_dict()}, path)
    loaded = load_checkpoint(path, outputs=5)
    assert loaded.kind == "pre-trained"
    assert loaded.model.head.weight.shape == (5, 48)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[n], value) for n, value in encoder_weights(source).items())


def test_initialisation() -> None:
    model = autoencoder(TINY)
    linear = model.encoder.blocks[0].mlp.fc1.weight
    limit = (6 / sum(linear.shape)) ** 0.5
    assert 0.95 * limit < linear.abs().max() <= limit
    projection = model.encoder.patch_embed.proj.weight
    limit = (6 / (48 + 384)) ** 0.5
    assert 0.95 * limit < projection.abs().max() <= limit
    assert 0 < model.mask_token.abs().max() <= 0.02


@pytest.mark.parametrize(
    ("changes", "word"), [({"heads": 5}, "heads"), ({"depth": 0}, "block"), ({"fusion": "x"}, "x")]
)
def test_inconsistent_decoder_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        DecoderConfig(**changes)  # type: ignore[arg-type]


def test_picture_shows_input_mask_and_reconstruction() -> None:
    clips = np.full((1, 3, 8, 32, 32), 0.2, np.float32)
    hidden = pixel_mask(mask_for(TINY)[:1], TINY).numpy()
    picture = reconstruction_picture(clips, hidden, np.full_like(clips, 0.8), columns=3)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    cell = picture[20:, 112:]  # without the labels
    third = cell.shape[0] // 3
    assert (cell[:96, :96] == 51).all()
    share = (cell[third : third + 96, :96] == 128).mean()
    assert share == pytest.approx(0.75)
    assert (cell[2 * third : 2 * third + 96, :96] == 204).all()
    assert picture[20:, :112].any() and picture[:20, 112:].any()  # labels


def test_pictures_of_several_clips_are_stacked() -> None:
    clips = np.random.default_rng(0).random((2, 3, 8, 32, 32))
    hidden = pixel_mask(mask_for(TINY), TINY).numpy()
    one = reconstruction_picture(clips[:1], hidden[:1], clips[:1])
    two = reconstruction_picture(clips, hidden, clips)
    assert two.shape[1] == one.shape[1]
    assert np.array_equal(two[: len(one)], one)
    assert len(two) - len(one) == len(one) - 20


def test_picture_of_a_mask_of_another_model_is_refused() -> None:
    clips = np.zeros((1, 3, 8, 32, 32))
    with pytest.raises(ValueError, match="broadcast"):
        reconstruction_picture(clips, np.zeros((1, 1, 8, 16, 16), bool), clips)
