"""Fine-tuning for classes, values and traits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from svfap_edge.errors import ConfigError, UnreadableClip
from svfap_edge.tasks import Task, find_task
from svfap_edge.training.augment import AugmentSettings, augment
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.clips import LabelledClips, Sampling, Unreadable
from svfap_edge.training.config import to_table
from svfap_edge.training.evaluation import Views, figures, normalize, run_list
from svfap_edge.training.loop import Key
from svfap_edge.training.mixing import mix, soft_targets
from svfap_edge.training.model import TPSBT, TPSBTConfig, preset
from svfap_edge.training.optim import loss_of
from svfap_edge.training.sampling import epoch_order, epoch_position, generator
from svfap_edge.training.settings import DataSettings, FinetuneConfig, ModelSettings


@dataclass(frozen=True)
class TrainingClips(Dataset[Any]):
    """Augmented clips by key; an unreadable item is returned as the error that says why."""

    clips: LabelledClips
    settings: AugmentSettings
    size: int
    seed: int

    def __getitem__(self, key: Key) -> tuple[int, np.ndarray | UnreadableClip]:
        """(item, (T, size, size, 3) uint8 or the error)."""
        epoch, position, index = key
        rng = generator("clip", self.seed, epoch, position)
        try:
            frames = self.clips.read(index, rng)
        except UnreadableClip as error:
            return index, error
        return index, augment(frames, self.size, rng, self.settings)


@dataclass
class Batch:
    """Readable clips (B, T, S, S, 3) uint8 and their items."""

    clips: Tensor
    items: Tensor
    errors: list[UnreadableClip]


def collate(found: list[tuple[int, np.ndarray | UnreadableClip]]) -> Batch:
    good = [(index, clip) for index, clip in found if not isinstance(clip, UnreadableClip)]
    errors = [clip for _, clip in found if isinstance(clip, UnreadableClip)]
    clips = np.stack([clip for _, clip in good]) if good else np.zeros((0,), np.uint8)
    items = np.array([index for index, _ in good], np.int64)
    return Batch(torch.from_numpy(clips), torch.from_numpy(items), errors)


def keys_of_epoch(
    labels: np.ndarray, data: DataSettings, seed: int, epoch: int, rank: int, world: int
) -> list[Key]:
    """What one process reads in an epoch; the place in the whole epoch seeds each clip."""
    order = epoch_order(
        labels, seed, epoch, balance=data.balance, repeats=data.repeats, shard=(rank, world)
    )
    return [
        (epoch, epoch_position(place, (rank, world)), int(index))
        for place, index in enumerate(order)
    ]


def no_loss(model: nn.Module) -> Tensor:
    """Zero that reaches every parameter, for a batch of which nothing could be read."""
    return sum((weight.sum() * 0 for weight in model.parameters()), torch.zeros(()))


def open_clips(
    data: DataSettings, path: str, task: Task | None, sampling: Sampling
) -> LabelledClips:
    """The clips of a list without the labels to be ignored; without a task, without targets.

    Raises:
        ConfigError: no list is named.
        SourceError: it cannot be read, holds nothing, or a label is outside the task.
    """
    if not path:
        raise ConfigError("No list is named: set data.train and data.val.")
    return LabelledClips.open(Path(path), task, sampling, data.ignore)


def open_model(settings: ModelSettings, outputs: int, activation: str) -> TPSBT:
    """A fresh model, or one that starts from a checkpoint; a head of another width is fresh."""
    changes = {"outputs": outputs, "activation": activation, "drop_path": settings.drop_path}
    if settings.start is None:
        try:
            return TPSBT(preset(settings.preset, **settings.changes(), **changes))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
    loaded = load_checkpoint(Path(settings.start), **settings.changes())
    config = TPSBTConfig.from_dict({**loaded.model.config.to_dict(), **changes})
    model = TPSBT(config)
    wanted = model.state_dict()
    state = {
        name: weight
        for name, weight in loaded.model.state_dict().items()
        if weight.shape == wanted[name].shape
    }
    model.load_state_dict({**wanted, **state})
    return model


@dataclass
class Finetuning:
    """The job of `svfap-edge finetune`; see `svfap_edge.training.loop.Job`."""

    settings: FinetuneConfig
    task: Task
    model: nn.Module
    config: TPSBTConfig
    train: LabelledClips
    val: LabelledClips
    unreadable: Unreadable
    prefix: str = ""
    sign: int = 1
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def prepare(cls, settings: FinetuneConfig) -> Finetuning:
        """Open lists and model.

        Raises:
            ConfigError, SourceError, TaskError, CheckpointError: see there.
        """
        data = settings.data
        task = find_task(data.task, data.labels)
        if data.stride is not None:
            task = replace(task, stride=data.stride)
        activation = "sigmoid" if task.kind == "traits" else "none"
        torch.manual_seed(settings.run.seed)
        model = open_model(settings.model, len(task.labels), activation)
        sampling = Sampling.of_task(task, model.config.frames, data.views)
        train = open_clips(data, data.train, task, sampling)
        val = open_clips(data, data.val, task, sampling)
        _check_apart(train, val)
        if settings.data.balance != 1 and task.kind != "classes":
            raise ConfigError("data.balance is for classes; leave it at 1 for values and traits.")
        loss_of(settings.loss.kind, task.kind)
        content = {
            "config": model.config.to_dict(),
            "settings": to_table(settings),
            "task": task.to_dict(),
        }
        return cls(
            settings, task, model, model.config, train, val,
            Unreadable(len(train), data.unreadable), content=content,
        )  # fmt: skip

    @property
    def monitor(self) -> str:
        return {"classes": "uar", "values": "ccc", "traits": "1-mae"}[self.task.kind]

    @property
    def workers(self) -> int:
        return self.settings.data.workers

    @property
    def dataset(self) -> TrainingClips:
        settings = self.settings
        return TrainingClips(self.train, settings.augment, self.config.size, settings.run.seed)

    def order(self, epoch: int, rank: int, world: int) -> Sequence[Key]:
        targets = self.train.targets
        return keys_of_epoch(
            targets, self.settings.data, self.settings.run.seed, epoch, rank, world
        )

    def collate(self, items: list[Any]) -> Batch:
        return collate(items)

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        for error in batch.errors:
            self.unreadable.add(error)
        if len(batch.items) == 0:
            return no_loss(model)
        clips = normalize(batch.clips)
        targets = torch.as_tensor(self.train.targets[batch.items.numpy()], device=clips.device)
        if self.task.kind == "classes":
            targets = soft_targets(targets, len(self.task.labels), self.settings.loss.smoothing)
        clips, targets = mix(clips, targets.float(), rng, self.settings.mixing)
        outputs = model(clips).float()
        return loss_of(self.settings.loss.kind, self.task.kind)(outputs, targets)

    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        return self.evaluate(fabric, model, self.val)

    def evaluate(self, fabric: Fabric, model: nn.Module, clips: LabelledClips) -> dict[str, Any]:
        """Metrics by the published protocol."""
        found = run_list(
            fabric, model, Views(clips, self.config.size), len(clips), len(self.task.labels),
            batch=self.settings.optim.batch, workers=self.workers,
        )  # fmt: skip
        return figures(found, clips, self.task)


def _check_apart(train: LabelledClips, val: LabelledClips) -> None:
    """Raises ConfigError if a file is in both lists."""
    both = {item.path for item in train.items} & {item.path for item in val.items}
    if both:
        shown = ", ".join(f"'{path}'" for path in sorted(both)[:3])
        raise ConfigError(
            f"{len(both)} files are in data.train and in data.val, for example {shown}. What is "
            "trained on cannot choose the model; split by person ('svfap-edge prepare')."
        )
