"""Masked pre-training of the default model's stem and first stage on single photographs.

A photograph is a clip of one frame here, in one tubelet, so that a batch costs a thirtieth of one
of clips. `start_from` spreads what was learned over the tubelets of the model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from svfap_edge.training.augment import AugmentSettings
from svfap_edge.training.masked import (
    DecoderConfig,
    MaskedAutoencoder,
    encoder_state,
    masked_loss,
    pixel_targets,
    reconstruct,
    to_pixels,
    tube_mask,
)
from svfap_edge.training.model import TPSBT, TPSBTConfig
from svfap_edge.training.photographs import Faces, augmented, grey_input, resized
from svfap_edge.training.pictures import reconstruction_picture
from svfap_edge.training.sampling import generator
from svfap_edge.training.timed import Pace, train_for

BATCH = 192
RATE = 2e-3
WARM_UP = 200  # steps
MASK_RATIO = 0.75  # of photographs, He et al. 2022
DECODER = DecoderConfig(width=192, depth=3, heads=6)
LITTLE = replace(AugmentSettings.none(), crop_area=0.5, crop_ratio=4 / 3, flip=0.5)
JUDGED = 512  # photographs of `val` whose loss is told
SHOWN = 4


def photograph_autoencoder(config: TPSBTConfig) -> MaskedAutoencoder:
    """Stem and first stage of a model, on clips of one frame."""
    first = replace(config, frames=1, tubelet=1, depths=config.depths[:1], bottleneck_tokens=())
    model = MaskedAutoencoder(first, DECODER)
    assert model.encoder.patch_embed.stem is not None
    model.encoder.patch_embed.stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def pretrain(
    config: TPSBTConfig, train: Faces, val: Faces, minutes: float, seed: int, picture: Path
) -> dict[str, Tensor]:
    """Train for a set time; tells the loss as it goes and writes a picture of reconstructions.

    Returns:
        The weights that `start_from` takes.
    """
    model = photograph_autoencoder(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    model.train()

    def loss_of(step: int) -> Tensor:
        rng = generator("default-masked", seed, step)
        chosen = train.images[rng.integers(0, len(train.images), BATCH)]
        return _loss(model, grey_input(augmented(chosen, 1, config.size, rng, LITTLE)), None)

    def tell(minutes: float, step: int, loss: float | None) -> None:
        row = {"phase": "masked", "minutes": round(minutes, 1), "step": step, "loss": loss}
        print(json.dumps(row | {"val_loss": round(judge(model, val), 4)}), flush=True)

    train_for(Pace(minutes, RATE, 1e-5, WARM_UP), optimizer, loss_of, tell)
    _draw(model, val, picture)
    return encoder_state(model)


def _loss(model: MaskedAutoencoder, clips: Tensor, seed: int | None) -> Tensor:
    draw = None if seed is None else torch.Generator().manual_seed(seed)
    mask = tube_mask(len(clips), 1, model.config.positions, MASK_RATIO, draw)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(clips, mask)
    return masked_loss(prediction, pixel_targets(clips, mask, model.config))


@torch.no_grad()
def judge(model: MaskedAutoencoder, val: Faces) -> float:
    """Mean loss of photographs spread over `val`, with the same masks at every call."""
    model.eval()
    chosen = np.linspace(0, len(val.images) - 1, JUDGED).round().astype(int)
    found = [
        _loss(model, grey_input(resized(val.images[part], 1, model.config.size)), seed).item()
        for seed, part in enumerate(np.split(chosen, JUDGED // 64))
    ]
    model.train()
    return float(np.mean(found))


@torch.no_grad()
def _draw(model: MaskedAutoencoder, val: Faces, picture: Path) -> None:
    model.eval()
    chosen = np.linspace(0, len(val.images) - 1, SHOWN + 2).round().astype(int)[1:-1]
    clips = grey_input(resized(val.images[chosen], 1, model.config.size))
    draw = torch.Generator().manual_seed(0)
    mask = tube_mask(SHOWN, 1, model.config.positions, MASK_RATIO, draw)
    rebuilt = reconstruct(clips, mask, model(clips, mask), model.config)
    shown = reconstruction_picture(
        to_pixels(clips).numpy(), mask.numpy(), rebuilt.numpy(), tubelet=1
    )
    cv2.imwrite(str(picture), shown[..., ::-1])


@torch.no_grad()
def start_from(model: TPSBT, state: dict[str, Tensor]) -> None:
    """Give a model the stem and the first stage of `pretrain`.

    The projection of one frame becomes that of a tubelet: each frame an equal share, so that a
    photograph held still gives the token that it gave alone.
    """
    own = model.state_dict()
    name = "patch_embed.proj.weight"
    shared = state[name] / own[name].shape[2]
    state = {**state, name: shared.expand_as(own[name]).contiguous()}
    model.load_state_dict({**own, **state})
