"""One phase of the default model: a network is trained for a set time on photographs."""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svfap_edge.training.clips.augment import AugmentSettings
from svfap_edge.training.clips.epochs import generator
from svfap_edge.training.clips.mixing import FramingSettings, MixSettings, mix, zoomed_out
from svfap_edge.training.protocols import class_figures
from svfap_edge.training.trainer.optim import cross_entropy, move_average, rate_at

from .photographs import LABELS, Faces, augmented, grey_input, resized

BALANCE = 0.45  # each class is drawn in proportion to count ** BALANCE
LEAST_RATE = 1e-6
WARM_UP = 100  # steps in which the rate rises
REPORTS = 4  # in a phase, the last one at its end

Model = TypeVar("Model", bound=nn.Module)

PHOTOGRAPHS = AugmentSettings(
    crop_area=0.55, tilt=15, ops=1, magnitude=5, erase=0.4, grey=0, soft=0.5, shade=0.25, noise=0.04
)
MIXING = MixSettings(mixup=0.4, cutmix=1.0, switch=0.3, probability=0.6)
FRAMING = FramingSettings(zoom_out=0.6)


@dataclass(frozen=True)
class Machine:
    """Where networks are trained.

    Attributes:
        device: Device of PyTorch.
        workers: Number of processes that change photographs; 0 does it between the steps.
    """

    device: str = "cpu"
    workers: int = 0

    def bf16(self) -> torch.autocast:
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16)


CPU = Machine()


@torch.no_grad()
def predict(
    model: nn.Module, images: np.ndarray, frames: int, size: int, machine: Machine = CPU
) -> Tensor:
    """Logits (n, L), on the CPU, of photographs that are held still for `frames` frames."""
    model.eval()
    outputs = []
    batch = 32 if machine.device == "cpu" else 256
    for start in range(0, len(images), batch):
        clips = torch.from_numpy(resized(images[start : start + batch], frames, size).copy())
        with machine.bf16():
            outputs.append(model(grey_input(clips.to(machine.device))).float().cpu())
    return torch.cat(outputs)


@torch.no_grad()
def middle_answer(teachers: Sequence[nn.Module], clips: Tensor) -> Tensor:
    """Probabilities (B, L) that models of single frames give the middle frames of clips: the mean
    over the models."""
    middle = clips.shape[2] // 2
    frame = clips[:, :, middle : middle + 1]
    answers = [teacher(frame).float().softmax(1) for teacher in teachers]
    return torch.stack(answers).mean(0)


@dataclass(frozen=True)
class Phase:
    """How one phase is trained; the log has its name.

    Teachers are models of single frames that see the views that the other is trained on.
    """

    name: str
    minutes: float
    frames: int  # of a clip
    batch: int  # clips in a step
    rate: float  # the greatest; it falls to `LEAST_RATE` by half a cosine over the time
    seed: int  # of the augmentation
    augment: AugmentSettings = PHOTOGRAPHS
    teachers: tuple[nn.Module, ...] = ()
    share: float = 0.0  # of the teachers' probabilities in each target; the rest is people's
    borders: bool = False  # whether the teachers, too, see the borders that are put around a view


class Views(Dataset[tuple[Tensor, Tensor]]):
    """The batches of a phase by the number of the step: clips (B, T, S, S) uint8, targets (B, L).

    Labels are drawn in proportion to count ** `BALANCE`. A batch depends on the seed and the step
    alone, whichever process makes it.
    """

    def __init__(self, faces: Faces, size: int, phase: Phase) -> None:
        self.faces, self.size, self.phase = faces, size, phase
        labels = faces.labels.numpy()
        weight = np.bincount(labels, minlength=len(LABELS))[labels] ** (BALANCE - 1)
        self.sums = np.cumsum(weight / weight.sum())

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        phase = self.phase
        rng = generator("default-model", phase.seed, step)
        index = np.searchsorted(self.sums[:-1], rng.random(phase.batch))
        clips = augmented(self.faces.images[index], phase.frames, self.size, rng, phase.augment)
        return torch.from_numpy(clips), self.faces.targets[torch.from_numpy(index)]

    def batches(self, machine: Machine) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of step 0, 1, ... on the device."""
        loader = DataLoader(
            self,
            sampler=itertools.count(),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=machine.workers,
            prefetch_factor=4 if machine.workers else None,
            pin_memory=machine.device != "cpu",
            worker_init_fn=_one_thread,
        )
        for clips, targets in loader:
            yield (
                clips.to(machine.device, non_blocking=True),
                targets.to(machine.device, non_blocking=True),
            )


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)


def fit(
    model: Model, train: Faces, apart: Faces, size: int, phase: Phase, machine: Machine = CPU
) -> Model:
    """A copy of a model, on the CPU, with the moving average of the weights that a phase gives it.

    Args:
        train: What it learns.
        apart: Photographs on which its progress is reported.
        size: Side of its input in pixels.
    """
    model = copy.deepcopy(model).to(machine.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in trained if (p.ndim > 1) is many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.rate)
    average = copy.deepcopy(model)
    teachers = [copy.deepcopy(teacher).to(machine.device).eval() for teacher in phase.teachers]
    batches = Views(train, size, phase).batches(machine)

    def loss_of(step: int) -> Tensor:
        model.train()
        clips, targets = next(batches)
        rng = generator("default-model mixing", phase.seed, step)
        mixed, targets = mix(grey_input(clips), targets, rng, MIXING)
        views = zoomed_out(mixed, rng, FRAMING)
        with machine.bf16():
            if teachers:
                answers = middle_answer(teachers, views if phase.borders else mixed)
                targets = torch.lerp(targets, answers, phase.share)
            logits = model(views).float()
        return cross_entropy(logits, targets)

    def report(minutes: float, step: int, loss: float | None) -> None:
        logits = predict(average, apart.images, phase.frames, size, machine)
        figures = class_figures(apart.labels.numpy(), logits.argmax(1).numpy(), LABELS)
        row = {"phase": phase.name, "minutes": round(minutes, 1), "step": step, "loss": loss}
        print(json.dumps(row | figures), flush=True)

    def after(done: int) -> None:
        move_average(average, model, 0.998, done)

    train_for(phase.minutes, phase.rate, optimizer, loss_of, report, after)
    batches.close()  # type: ignore[attr-defined]
    return average.cpu()


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
        report: Called `REPORTS` times, the last one at the end, with the minutes gone, the number
            of steps done and the mean loss since the last call (None if there was no step).
        after: Called after each step with the number of steps done.
    """
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    start, step, report_at = time.monotonic(), 0, minutes / REPORTS
    losses: list[Tensor] = []

    def mean_loss() -> float | None:
        return round(float(torch.stack(losses).mean()), 4) if losses else None

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
        losses.append(loss.detach())
        after(step)
        if elapsed >= report_at:
            report_at = elapsed + minutes / REPORTS
            report(elapsed, step, mean_loss())
            losses = []
    report(minutes, step, mean_loss())
