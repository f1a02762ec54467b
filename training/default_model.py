"""Train the default `lite` model on a folder of labelled face photographs.

    python -m svfap_edge.training.default_model FACES -o lite-faces.pth

FACES holds `train/` and `val/`, each with one folder of images per label. Three phases, each with a
moving average of the weights:

1. `stem`: the residual stem alone, pooled, on photographs: what convolutions learn soonest.
2. `tubelets`: from there, stem and stage 1 on single tubelets (both frames the same photograph) at
   random time steps of the position code. From here on half of each target is what the model of
   phase 1 says of the untouched photograph (Hinton et al. 2015), since many of the labels are
   doubtful.
3. `clips`: the whole model on photographs in smooth motion. The later stages start as the identity
   on a temporal average; the stem is not trained any more.

With `--masked MINUTES`, phase 2 starts from a stem and a stage 1 that were pre-trained as a masked
auto-encoder of the photographs; phase 1 is the teacher alone.

Faces are learned in grey: in the photographs this was written for, colour tells the source and
thereby the label. The weights are folded afterwards so that RGB input is read as luminance.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svfap_edge.tasks import Task
from svfap_edge.training.augment import AugmentSettings
from svfap_edge.training.default_masked import pretrain, start_from
from svfap_edge.training.evaluation import class_figures
from svfap_edge.training.mixing import MixSettings, mix, soft_targets
from svfap_edge.training.model import (
    IMAGENET_STD,
    TPSBT,
    CrossSelfBlock,
    TemporalDownsample,
    preset,
)
from svfap_edge.training.optim import cross_entropy, move_average, rate_at
from svfap_edge.training.photographs import (
    GREY_STD,
    LABELS,
    LUMA,
    Faces,
    augmented,
    grey_input,
    load_faces,
    resized,
)
from svfap_edge.training.report import draw
from svfap_edge.training.sampling import generator

BALANCE = 0.45  # classes are drawn by count ** BALANCE
TEACHER_SHARE = 0.5

PHOTOGRAPHS = AugmentSettings(
    crop_area=0.55, tilt=15, ops=1, magnitude=5, erase=0.4, grey=0, soft=0.3, shade=0.25, noise=0.04
)
MIXING = MixSettings(mixup=0.4, cutmix=1.0, switch=0.3, probability=0.6)


@torch.no_grad()
def fold_luminance(model: TPSBT) -> None:
    """Make the first convolution read normalized RGB as the luminance it was trained on; exact."""
    assert model.patch_embed.stem is not None
    first = model.patch_embed.stem[0]
    assert isinstance(first, nn.Conv2d)
    channels = (LUMA * torch.tensor(IMAGENET_STD) / GREY_STD).view(1, 3, 1, 1)
    first.weight.copy_(first.weight.sum(1, keepdim=True) * channels)


class StemClassifier(nn.Module):
    """The stem of a model, pooled: (B, 3, 1, H, W) to (B, L)."""

    def __init__(self, model: TPSBT) -> None:
        super().__init__()
        assert model.patch_embed.stem is not None
        self.stem = model.patch_embed.stem
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(model.config.stem[-1], model.config.outputs)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.stem(images[:, :, 0]).mean((2, 3))))


class TubeletClassifier(nn.Module):
    """Stem and stage 1 of a model on single tubelets, without computing the repeated frame."""

    def __init__(self, model: TPSBT) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, 1, H, W)
        model, config = self.model, self.model.config
        embed = model.patch_embed
        assert embed.stem is not None
        maps = embed.stem(images[:, :, 0])
        weight = embed.proj.weight.sum(2)
        tokens = F.conv2d(maps, weight, embed.proj.bias, stride=weight.shape[-1])
        tokens = tokens.flatten(2).transpose(1, 2)
        code = model.position_code.view(config.time_steps, config.positions, -1)
        step = torch.randint(config.time_steps, (len(images),)) if self.training else 0
        tokens = tokens + code[step]
        for block in model.blocks[: config.depths[0]]:
            tokens = block(tokens)
        return model.classify(model.fc_norm(tokens.mean(1)))


class ClipClassifier(nn.Module):
    """The whole model with a stem that is not trained: (B, 3, T, H, W) to (B, L)."""

    def __init__(self, model: TPSBT) -> None:
        super().__init__()
        self.model = model
        assert model.patch_embed.stem is not None
        model.patch_embed.stem.requires_grad_(False)

    def train(self, mode: bool = True) -> ClipClassifier:
        super().train(mode)
        assert self.model.patch_embed.stem is not None
        self.model.patch_embed.stem.eval()
        return self

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips)


@torch.no_grad()
def start_later_stages_as_identity(model: TPSBT) -> None:
    for downsample in model.temporal_downsamples:
        assert isinstance(downsample, TemporalDownsample) and downsample.bias is not None
        eye = torch.eye(downsample.weight.shape[0]) / downsample.weight.shape[2]
        downsample.weight.copy_(eye[..., None].expand_as(downsample.weight))
        downsample.bias.zero_()
    for block in model.blocks:
        if isinstance(block, CrossSelfBlock):
            for last in (block.cross_attn.proj, block.attn.proj, block.mlp.fc2):
                last.weight.mul_(0.05)
                last.bias.zero_()


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, frames: int, size: int) -> Tensor:
    """Logits (n, L) of photographs, held still for `frames`."""
    model.eval()
    outputs = []
    for start in range(0, len(images), 32):
        clips = grey_input(resized(images[start : start + 32], frames, size))
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(clips).float())
    return torch.cat(outputs)


@dataclass(frozen=True)
class Phase:
    """How long and how one phase is trained."""

    name: str
    minutes: float
    frames: int
    batch: int
    rate: float
    seed: int
    augment: AugmentSettings = PHOTOGRAPHS


def fit(
    model: nn.Module, train: Faces, val: Faces, size: int, phase: Phase, teacher: Tensor | None
) -> nn.Module:
    """Train for a set time; returns the moving average of the weights.

    Args:
        teacher: Probabilities (n, L) of the training photographs by an earlier model.
    """
    counts = torch.bincount(train.labels, minlength=len(LABELS)).double()
    weight = counts[train.labels] ** (BALANCE - 1)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in trained if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.rate)
    average = copy.deepcopy(model)
    start, step, losses, report_at = time.monotonic(), 0, [], 2.5
    while (elapsed := (time.monotonic() - start) / 60) < phase.minutes:
        done = rate_at(int(1e6 * elapsed / phase.minutes), 10**6, 0, phase.rate, 1e-6)
        for group in optimizer.param_groups:
            group["lr"] = done * min(1.0, (step + 1) / 100)
        model.train()
        rng = generator("default-model", phase.seed, step)
        index = torch.multinomial(weight, phase.batch, replacement=True)
        clips = augmented(train.images[index], phase.frames, size, rng, phase.augment)
        targets = soft_targets(train.labels[index], len(LABELS))
        if teacher is not None:
            targets = (1 - TEACHER_SHARE) * targets + TEACHER_SHARE * teacher[index]
        mixed, targets = mix(grey_input(clips), targets, rng, MIXING)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(mixed).float()
        loss = cross_entropy(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        move_average(average, model, 0.998, step)
        if elapsed >= report_at:
            report_at = elapsed + 2.5
            _tell(
                phase, elapsed, step, losses, predict(average, val.images, phase.frames, size), val
            )
            losses = []
    _tell(phase, phase.minutes, step, losses, predict(average, val.images, phase.frames, size), val)
    return average


def _tell(
    phase: Phase, elapsed: float, step: int, losses: list[float], logits: Tensor, val: Faces
) -> None:
    loss = round(float(np.mean(losses)), 4) if losses else None
    row = {"phase": phase.name, "minutes": round(elapsed, 1), "step": step, "loss": loss}
    figures = class_figures(val.labels.numpy(), logits.argmax(1).numpy(), LABELS)
    print(json.dumps(row | figures), flush=True)


def draw_log(log: Path, picture: Path) -> None:
    """Curves, confusion matrix and recall from what this script printed."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    history, before = [], 0.0
    for row, following in zip(rows, [*rows[1:], rows[-1]], strict=True):
        shown = {name: row[name] for name in ("loss", "val_loss", "uar", "war") if name in row}
        history.append({"minutes": before + row["minutes"], **shown})
        if following["phase"] != row["phase"]:
            before += row["minutes"]
    task = Task("faces", "classes", LABELS)
    final = {"val": {"published": {"confusion": rows[-1]["confusion"]}}}
    draw(picture, history, final, task, progress="minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument(
        "--minutes", type=float, nargs=3, default=(40, 45, 15), help="of the phases"
    )
    parser.add_argument("--masked", type=float, default=0, help="minutes of pre-training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=Path, metavar="LOG", help="draw what an earlier run printed")
    args = parser.parse_args()
    if args.draw:
        draw_log(args.draw, args.output)
        return
    torch.manual_seed(args.seed)
    cv2.setNumThreads(1)  # photographs are small: more threads only wait for each other
    train, val = load_faces(args.faces / "train"), load_faces(args.faces / "val")
    config = preset("lite", outputs=len(LABELS), drop_path=0.05)
    model = TPSBT(config)
    assert model.patch_embed.stem is not None
    model.patch_embed.stem.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def path(name: str) -> Path:
        return args.output.with_suffix(f".{name}")

    stem_phase, tubelet_phase, clip_phase = (
        Phase("stem", args.minutes[0], 1, 128, 2e-3, args.seed),
        Phase("tubelets", args.minutes[1], 1, 128, 1e-3 if args.masked else 7e-4, args.seed + 1),
        Phase("clips", args.minutes[2], config.frames, 24, 3e-4, args.seed + 2),
    )
    first = StemClassifier(model)
    if path("stem").exists():  # an earlier run came as far
        first.load_state_dict(torch.load(path("stem"), weights_only=True))
    else:
        first.load_state_dict(fit(first, train, val, config.size, stem_phase, None).state_dict())
        torch.save(first.state_dict(), path("stem"))
    teacher = predict(first, train.images, 1, config.size).softmax(1)
    if args.masked:
        if not path("masked").exists():
            found = pretrain(config, train, val, args.masked, args.seed, path("masked.png"))
            torch.save(found, path("masked"))
        start_from(model, torch.load(path("masked"), weights_only=True))
    second = TubeletClassifier(model)
    if path("tubelets").exists():
        model.load_state_dict(torch.load(path("tubelets"), weights_only=True))
    else:
        second.load_state_dict(
            fit(second, train, val, config.size, tubelet_phase, teacher).state_dict()
        )
        torch.save(model.state_dict(), path("tubelets"))
    start_later_stages_as_identity(model)
    third = ClipClassifier(model)
    still = replace(PHOTOGRAPHS, motion=1.0)
    clip_phase = replace(clip_phase, augment=still)
    third.load_state_dict(fit(third, train, val, config.size, clip_phase, teacher).state_dict())
    fold_luminance(model)
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, args.output)


if __name__ == "__main__":
    main()
