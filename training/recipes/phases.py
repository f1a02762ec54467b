"""One phase of the default model: a network is trained for a set time on photographs."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from svfap_edge.training.clips.augment import AugmentSettings
from svfap_edge.training.clips.epochs import generator
from svfap_edge.training.clips.mixing import (
    FramingSettings,
    MixSettings,
    mix,
    soft_targets,
    zoomed_out,
)
from svfap_edge.training.protocols import class_figures
from svfap_edge.training.trainer.optim import cross_entropy, move_average, rate_at

from .photographs import LABELS, Faces, augmented, grey_input, resized

BALANCE = 0.45  # each class is drawn in proportion to count ** BALANCE
LEAST_RATE = 1e-6
WARM_UP = 100  # steps in which the rate rises
REPORT_MINUTES = 2.5

Model = TypeVar("Model", bound=nn.Module)

PHOTOGRAPHS = AugmentSettings(
    crop_area=0.55, tilt=15, ops=1, magnitude=5, erase=0.4, grey=0, soft=0.3, shade=0.25, noise=0.04
)
MIXING = MixSettings(mixup=0.4, cutmix=1.0, switch=0.3, probability=0.6)
FRAMING = FramingSettings(zoom_out=0.6)


@torch.no_grad()
def predict(model: nn.Module, images: np.ndarray, frames: int, size: int) -> Tensor:
    """Logits (n, L) of photographs that are held still for `frames` frames."""
    model.eval()
    outputs = []
    for start in range(0, len(images), 32):
        clips = grey_input(resized(images[start : start + 32], frames, size))
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(model(clips).float())
    return torch.cat(outputs)


@torch.no_grad()
def middle_answer(teacher: nn.Module, clips: Tensor) -> Tensor:
    """Probabilities (B, L) that a model of single frames gives the middle frames of clips."""
    middle = clips.shape[2] // 2
    return teacher(clips[:, :, middle : middle + 1]).float().softmax(1)


@dataclass(frozen=True)
class Phase:
    """How one phase is trained; the log has its name.

    A teacher is a model of single frames that sees the views that the other is trained on.
    """

    name: str
    minutes: float
    frames: int  # of a clip
    batch: int  # clips in a step
    rate: float  # the greatest; it falls to `LEAST_RATE` by half a cosine over the time
    seed: int  # of the augmentation
    augment: AugmentSettings = PHOTOGRAPHS
    teacher: nn.Module | None = None
    share: float = 0.0  # of the teacher's probabilities in each target; the rest is the label
    borders: bool = False  # whether the teacher, too, sees the borders that are put around a view


def fit(model: Model, train: Faces, val: Faces, size: int, phase: Phase) -> Model:
    """A copy of a model with the moving average of the weights that a phase gives it."""
    counts = torch.bincount(train.labels, minlength=len(LABELS)).double()
    weight = counts[train.labels] ** (BALANCE - 1)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in trained if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.rate)
    average = copy.deepcopy(model)
    if phase.teacher is not None:
        phase.teacher.eval()

    def loss_of(step: int) -> Tensor:
        model.train()
        rng = generator("default-model", phase.seed, step)
        index = torch.multinomial(weight, phase.batch, replacement=True)
        clips = augmented(train.images[index], phase.frames, size, rng, phase.augment)
        targets = soft_targets(train.labels[index], len(LABELS))
        mixed, targets = mix(grey_input(clips), targets, rng, MIXING)
        views = zoomed_out(mixed, rng, FRAMING)
        with torch.autocast("cpu", torch.bfloat16):
            if phase.teacher is not None:
                answers = middle_answer(phase.teacher, views if phase.borders else mixed)
                targets = torch.lerp(targets, answers, phase.share)
            logits = model(views).float()
        return cross_entropy(logits, targets)

    def report(minutes: float, step: int, loss: float | None) -> None:
        logits = predict(average, val.images, phase.frames, size)
        figures = class_figures(val.labels.numpy(), logits.argmax(1).numpy(), LABELS)
        row = {"phase": phase.name, "minutes": round(minutes, 1), "step": step, "loss": loss}
        print(json.dumps(row | figures), flush=True)

    def after(done: int) -> None:
        move_average(average, model, 0.998, done)

    train_for(phase.minutes, phase.rate, optimizer, loss_of, report, after)
    return average


def train_for(
    minutes: float,
    peak: float,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    report: Callable[[float, int, float | None], None],
    after: Callable[[int], None] = lambda done: None,
) -> None:
    """Take steps until the time is over; the rate falls from its peak to `LEAST_RATE`.

    Args:
        loss_of: Gives the loss of the batch of step 0, 1, ...
        report: Called every `REPORT_MINUTES` and at the end with the minutes gone, the number of
            steps done and the mean loss since the last call (None if there was no step).
        after: Called after each step with the number of steps done.
    """
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    start, step, report_at = time.monotonic(), 0, REPORT_MINUTES
    losses: list[float] = []

    def mean_loss() -> float | None:
        return round(float(np.mean(losses)), 4) if losses else None

    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        rate = rate_at(int(1e6 * elapsed / minutes), 10**6, 0, peak, LEAST_RATE)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / WARM_UP)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        after(step)
        if elapsed >= report_at:
            report_at = elapsed + REPORT_MINUTES
            report(elapsed, step, mean_loss())
            losses = []
    report(minutes, step, mean_loss())
