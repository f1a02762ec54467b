"""Train the default `lite` model on a folder of labelled face photographs.

    python -m svfap_edge.training.default_model FACES -o lite-faces.pth

FACES holds `train/` and `val/`, each with one folder of images per label. Two phases:

1. Photographs: stage 1 alone on single tubelets (both frames the same photograph), at random
   time steps of the position code.
2. Clips: the whole model on clips made from photographs by smooth random motion and light, from
   the weights of phase 1; the later stages start as the identity on a temporal average. The
   result is a mean of the weights before and after (Wortsman et al. 2022), which on `val` keeps
   more of what phase 1 knew.

Faces are learned in grey: in the photographs this was written for, colour tells the source and
thereby the label. The weights are folded afterwards so that RGB input is read as luminance.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap_edge.training.model import TPSBT, CrossSelfBlock, TemporalDownsample, preset

LABELS = ("neutral", "happiness", "surprise", "anger", "sadness", "disgust")
CACHE_SIDE = 128
LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601
MEAN = torch.tensor([0.485, 0.456, 0.406])  # ImageNet, as the published loaders
STD = torch.tensor([0.229, 0.224, 0.225])
GREY_STD = 0.225
AFTER_SHARE = 0.75  # chosen on `val` among 0, 0.25, 0.5, 0.75, 1


@dataclass(frozen=True)
class Faces:
    """Grey squares (n, CACHE_SIDE, CACHE_SIDE) uint8 and label indices (n,)."""

    images: Tensor
    labels: Tensor


def load_faces(folder: Path) -> Faces:
    images, labels = [], []
    for index, label in enumerate(LABELS):
        for path in sorted((folder / label).iterdir()):
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise ValueError(f"{path} is not a readable image.")
            height, width = image.shape
            pad_y, pad_x = max(0, width - height), max(0, height - width)
            image = cv2.copyMakeBorder(
                image,
                pad_y // 2,
                pad_y - pad_y // 2,
                pad_x // 2,
                pad_x - pad_x // 2,
                cv2.BORDER_REPLICATE,
            )
            shrink = image.shape[0] > CACHE_SIDE
            side = (CACHE_SIDE, CACHE_SIDE)
            images.append(cv2.resize(image, side, interpolation=3 if shrink else 1))
            labels.append(index)
    return Faces(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def uniform(*shape: int, low: float, high: float) -> Tensor:
    return torch.rand(*shape) * (high - low) + low


def random_path(batch: int, frames: int, spread: float, drift: float) -> Tensor:
    """(batch, frames): a random level of +-spread, moving smoothly by about +-drift."""
    level = uniform(batch, 1, low=-spread, high=spread)
    if frames == 1:
        return level
    phase = uniform(batch, 1, low=0, high=2 * torch.pi)
    turns = uniform(batch, 1, low=0.2, high=1.2)
    time_axis = torch.linspace(0, 1, frames)
    return level + drift * torch.rand(batch, 1) * torch.sin(
        2 * torch.pi * turns * time_axis + phase
    )


def augment(images: Tensor, frames: int, size: int) -> Tensor:
    """Photographs (B, S, S) uint8 to moving, relit, partly hidden clips (B, frames, size, size)."""
    batch = images.shape[0]
    angle = random_path(batch, frames, 0.26, 0.08)
    scale = random_path(batch, frames, 0.16, 0.05).exp()
    ratio = uniform(batch, 1, low=-0.08, high=0.08).exp()
    shear = uniform(batch, 1, low=-0.1, high=0.1)
    flip = torch.where(torch.rand(batch, 1) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack(
        (
            torch.stack((flip * cos * ratio, flip * (-sin + shear), dx_dy(batch, frames)), -1),
            torch.stack((sin, cos / ratio, dx_dy(batch, frames)), -1),
        ),
        dim=-2,
    )  # (B, frames, 2, 3)
    source = images.float().div(255)[:, None]
    blurred = torch.rand(batch) < 0.3  # small or soft faces
    if blurred.any():
        side = int(torch.randint(28, 80, ()))
        low = F.interpolate(source[blurred], size=(side, side), mode="area")
        source[blurred] = F.interpolate(low, size=source.shape[-2:], mode="bilinear")
    source = source.repeat_interleave(frames, 0)
    grid = F.affine_grid(rows.flatten(0, 1), [batch * frames, 1, size, size], align_corners=False)
    clips = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
    clips = clips.view(batch, frames, size, size)
    gamma = random_path(batch, frames, 0.4, 0.1).exp()[..., None, None]
    contrast = random_path(batch, frames, 0.35, 0.05).exp()[..., None, None]
    light = random_path(batch, frames, 0.15, 0.05)[..., None, None]
    clips = clips.clamp(1e-3, 1).pow(gamma)
    slope = uniform(batch, 2, 1, 1, low=-0.25, high=0.25)  # light from one side
    axis = torch.linspace(-1, 1, size)
    shade = slope[:, 0] * axis[:, None] + slope[:, 1] * axis[None]
    clips = (clips - 0.5) * contrast + 0.5 + light + shade[:, None]
    clips = clips + torch.randn_like(clips) * uniform(batch, 1, 1, 1, low=0, high=0.04)
    for item in range(batch):
        if torch.rand(()) < 0.4:  # an occluder that stays in place
            h, w = (int(torch.randint(size // 8, size // 2, ())) for _ in range(2))
            y, x = int(torch.randint(0, size - h, ())), int(torch.randint(0, size - w, ()))
            clips[item, :, y : y + h, x : x + w] = torch.rand(())
    return clips.clamp(0, 1)


def dx_dy(batch: int, frames: int) -> Tensor:
    return random_path(batch, frames, 0.14, 0.08)


def network_input(grey: Tensor) -> Tensor:
    """Grey clips (B, T, H, W) in 0..1 to the model's (B, 3, T, H, W) before `fold_luminance`."""
    return ((grey - (LUMA * MEAN).sum()) / GREY_STD)[:, None].expand(-1, 3, -1, -1, -1)


@torch.no_grad()
def fold_luminance(model: TPSBT) -> None:
    """Make the first convolution read normalized RGB as the luminance it was trained on; exact."""
    stem = model.patch_embed.stem
    assert stem is not None
    first = stem[0]
    assert isinstance(first, nn.Conv2d)
    channels = (LUMA * STD / GREY_STD).view(1, 3, 1, 1)
    first.weight.copy_(first.weight.sum(1, keepdim=True) * channels)


class PhotographModel(nn.Module):
    """Stage 1 of a clip model on single tubelets, without spending time on the repeated frame."""

    def __init__(self, clip_model: TPSBT) -> None:
        super().__init__()
        self.clip_model = clip_model

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 1, H, W)
        model = self.clip_model
        embed, config = model.patch_embed, model.config
        assert embed.stem is not None
        maps = embed.stem(images[:, :, 0])
        weight = embed.proj.weight.sum(2)
        tokens = F.conv2d(maps, weight, embed.proj.bias, stride=weight.shape[-1])
        tokens = tokens.flatten(2).transpose(1, 2)
        code = model.position_code.view(config.time_steps, config.positions, -1)
        step = torch.randint(config.time_steps, (images.shape[0],)) if self.training else 0
        tokens = tokens + code[step]
        for block in model.blocks[: config.depths[0]]:
            tokens = block(tokens)
        return model.classify(model.fc_norm(tokens.mean(1)))


@torch.no_grad()
def start_later_stages_as_identity(model: TPSBT) -> None:
    for downsample in model.temporal_downsamples:
        assert isinstance(downsample, TemporalDownsample)
        assert downsample.bias is not None
        eye = torch.eye(downsample.weight.shape[0]) / downsample.weight.shape[2]
        downsample.weight.copy_(eye[..., None].expand_as(downsample.weight))
        downsample.bias.zero_()
    for block in model.blocks:
        if isinstance(block, CrossSelfBlock):
            for last in (block.cross_attn.proj, block.attn.proj, block.mlp.fc2):
                last.weight.mul_(0.05)
                last.bias.zero_()


@torch.no_grad()
def average_weights(before: TPSBT, model: TPSBT, share: float) -> None:
    """Replace the weights w of `model` by share * w + (1 - share) * w_before."""
    for old, new in zip(before.state_dict().values(), model.state_dict().values(), strict=True):
        if new.dtype.is_floating_point:
            new.mul_(share).add_(old, alpha=1 - share)


def scores(logits: Tensor, labels: Tensor) -> dict[str, object]:
    guess = logits.argmax(1)
    confusion = torch.zeros(len(LABELS), len(LABELS), dtype=torch.long)
    confusion.index_put_((labels, guess), torch.ones_like(labels), accumulate=True)
    recall = confusion.diag() / confusion.sum(1)
    return {
        "uar": round(float(recall.mean()), 4),
        "war": round(float((guess == labels).float().mean()), 4),
        "recall": dict(zip(LABELS, [round(float(r), 3) for r in recall], strict=True)),
        "confusion": confusion.tolist(),
    }


@torch.no_grad()
def validate(model: nn.Module, faces: Faces, frames: int, size: int) -> dict[str, object]:
    model.eval()
    images = F.interpolate(faces.images[:, None].float() / 255, size=(size, size), mode="area")
    outputs = []
    for chunk in images.split(32):
        clip = network_input(chunk.expand(-1, frames, -1, -1))
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(clip).float())
    return scores(torch.cat(outputs), faces.labels)


def fit(
    model: nn.Module,
    clip_model: TPSBT,
    train: Faces,
    val: Faces,
    *,
    frames: int,
    minutes: float,
    batch: int,
    rate: float,
    balance: float,
    save: Path,
) -> TPSBT:
    """Train for a set time; returns the moving average of the weights."""
    size = clip_model.config.size
    counts = torch.bincount(train.labels, minlength=len(LABELS)).double()
    weight = counts[train.labels] ** (balance - 1)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    average = copy.deepcopy(model)
    start, step, seen, report_at = time.monotonic(), 0, 0, 0.0
    loss_sum, hits = 0.0, 0
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        progress = elapsed / minutes
        warm = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.5 + 0.5 * np.cos(np.pi * progress)) + 1e-6
        model.train()
        index = torch.multinomial(weight, batch, replacement=True)
        labels = train.labels[index]
        clips = augment(train.images[index], frames, size)
        target = F.one_hot(labels, len(LABELS)).float()
        if torch.rand(()) < 0.5:  # mixup (Zhang et al. 2018)
            mix = float(np.random.default_rng(step).beta(0.4, 0.4))
            other = torch.randperm(batch)
            clips = mix * clips + (1 - mix) * clips[other]
            target = mix * target + (1 - mix) * target[other]
        target = target * 0.9 + 0.1 / len(LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(network_input(clips)).float()
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += batch
        momentum = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(
                average.state_dict().values(), model.state_dict().values(), strict=True
            ):
                if mean.dtype.is_floating_point:
                    mean.lerp_(value, 1 - momentum)
        loss_sum += loss.item()
        hits += 1
        if elapsed >= report_at:
            report_at = elapsed + 2.5
            result = validate(average, val, frames, size)
            line = {
                "minutes": round(elapsed, 1),
                "step": step,
                "per_s": round(seen / max(1e-9, time.monotonic() - start), 1),
                "loss": round(loss_sum / hits, 4),
                **result,
            }
            print(json.dumps(line), flush=True)
            loss_sum, hits = 0.0, 0
            torch.save(average.state_dict(), save)
    clip_average = average.clip_model if isinstance(average, PhotographModel) else average
    assert isinstance(clip_average, TPSBT)
    print(json.dumps({"final": validate(average, val, frames, size)}), flush=True)
    return clip_average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--photograph-minutes", type=float, default=60)
    parser.add_argument("--clip-minutes", type=float, default=25)
    parser.add_argument("--start", type=Path, help="photograph weights of an earlier run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, val = load_faces(args.faces / "train"), load_faces(args.faces / "val")
    config = preset("lite", outputs=len(LABELS), drop_path=0.05)
    model = TPSBT(config)
    assert model.patch_embed.stem is not None
    model.patch_embed.stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save = args.output.with_suffix(".part")
    if args.start:
        model.load_state_dict(torch.load(args.start, weights_only=True))
    else:
        model = fit(
            PhotographModel(model), model, train, val, frames=1, batch=128,
            minutes=args.photograph_minutes, rate=1.5e-3, balance=0.45, save=save,
        )  # fmt: skip
        torch.save(model.state_dict(), args.output.with_suffix(".photographs"))
    start_later_stages_as_identity(model)
    before = copy.deepcopy(model)
    model = fit(
        model, model, train, val, frames=config.frames, batch=24,
        minutes=args.clip_minutes, rate=3e-4, balance=0.45, save=save,
    )  # fmt: skip
    average_weights(before, model, AFTER_SHARE)
    print(json.dumps({"averaged": validate(model, val, config.frames, config.size)}), flush=True)
    fold_luminance(model)
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, args.output)


if __name__ == "__main__":
    main()
