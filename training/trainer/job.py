"""What is trained and on which clips; pre-training and fine-tuning each add their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from svfap_edge.errors import ConfigError, UnreadableClip
from svfap_edge.tasks import Task
from svfap_edge.training.clips.augment import AugmentSettings, augment
from svfap_edge.training.clips.order import epoch_order, epoch_position, generator
from svfap_edge.training.clips.reading import LabelledClips, Sampling, Unreadable
from svfap_edge.training.config import to_table
from svfap_edge.training.model import TPSBTConfig
from svfap_edge.training.protocols import normalize
from svfap_edge.training.settings import DataSettings, FinetuneConfig, PretrainConfig

Key = tuple[int, int, int]
"""(epoch, place in the epoch of all processes, item): what a clip and its augmentation hang on."""


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


def open_clips(
    data: DataSettings, path: str, task: Task | None, sampling: Sampling
) -> LabelledClips:
    """The clips of a list without the labels to be ignored; without a task, without targets.

    Raises:
        ConfigError: no list is named.
        SourceError: it cannot be read, holds nothing, a label is outside the task, or more files
            than may be unreadable are missing.
    """
    if not path:
        raise ConfigError("No list is named: set data.train and data.val.")
    clips = LabelledClips.open(Path(path), task, sampling, data.ignore)
    clips.require_files(data.unreadable)
    return clips


def require_known(data: DataSettings, *lists: LabelledClips) -> None:
    """Raises ConfigError if a label to be ignored is neither the task's nor in any list."""
    unknown = [x for x in data.ignore if all(x in clips.unknown for clips in lists)]
    if unknown:
        raise ConfigError(
            f"data.ignore: no list and no task has a label '{unknown[0]}'. Write it as the task "
            "or the list does, a name or an index."
        )


@dataclass(kw_only=True)
class Job(ABC):
    """What is trained.

    Attributes:
        model: The module whose parameters are trained.
        config: Of the encoder; `prefix` is of its names inside `model`.
        sign: +1 if more of `monitor` is better, else -1.
        task: None where no labels are read.
        quantized: Whether the model holds the quantizers of INT8.
        logs: Items that could not be read, by the name of their list.
    """

    settings: FinetuneConfig | PretrainConfig
    model: nn.Module
    config: TPSBTConfig
    train: LabelledClips
    val: LabelledClips
    task: Task | None = None
    quantized: bool = False
    logs: dict[str, Unreadable] = field(init=False)
    prefix: ClassVar[str] = ""
    sign: ClassVar[int] = 1

    def __post_init__(self) -> None:
        share = self.settings.data.unreadable
        self.logs = {name: Unreadable(len(clips), share) for name, clips in self.lists.items()}

    @property
    def lists(self) -> dict[str, LabelledClips]:
        """What is read, by name."""
        return {"train": self.train, "val": self.val}

    def log_of(self, clips: LabelledClips) -> Unreadable:
        return next(self.logs[name] for name, found in self.lists.items() if found is clips)

    def join_logs(self, fabric: Fabric) -> dict[str, dict[str, str]]:
        """Path to reason of what no process could read, by list; from here on known to all.

        Raises:
            SourceError: together, more items than the limit cannot be read.
        """
        mine = {name: log.reasons for name, log in self.logs.items()}
        if fabric.world_size > 1:
            for rank in range(fabric.world_size):
                self.recall(fabric.broadcast(mine, src=rank))
        for log in self.logs.values():
            log.check()
        return {name: dict(log.reasons) for name, log in self.logs.items()}

    def recall(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        """Count what another process or an earlier run could not read, by list."""
        for name, log in self.logs.items():
            log.reasons.update(reasons.get(name, {}))

    @property
    @abstractmethod
    def monitor(self) -> str:
        """Figure of `validate` that chooses the best weights."""

    @property
    def content(self) -> dict[str, Any]:
        """What a finished checkpoint holds beside the weights."""
        return {"config": self.config.to_dict(), "settings": to_table(self.settings)}

    @property
    def dataset(self) -> TrainingClips:
        settings = self.settings
        return TrainingClips(self.train, settings.augment, self.config.size, settings.run.seed)

    def order(self, epoch: int, rank: int, world: int) -> list[Key]:
        """Keys of an epoch for one process; as many for each."""
        data, shard = self.settings.data, (rank, world)
        order = epoch_order(
            self.train.targets, self.settings.run.seed, epoch,
            balance=data.balance, repeats=data.repeats, shard=shard,
        )  # fmt: skip
        return [(epoch, epoch_position(i, shard), int(item)) for i, item in enumerate(order)]

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Mean loss of a batch; of an empty one, zero with a gradient for every weight.

        Raises:
            SourceError: more items than the limit cannot be read.
        """
        for error in batch.errors:
            self.logs["train"].add(error)
        if len(batch.items) == 0:
            return self._no_loss(model, batch.items, rng)
        return self.clip_loss(model, normalize(batch.clips), batch.items, rng)

    def _no_loss(self, model: nn.Module, items: Tensor, rng: np.random.Generator) -> Tensor:
        """Zero, by a forward pass of an empty clip: where several processes train, each must make
        one, or the others wait for its gradients. Batch norm does not learn from it."""
        size = self.config.size
        clip = torch.zeros(1, 3, self.config.frames, size, size, device=items.device)
        model.eval()
        loss = self.clip_loss(model, clip, items.new_zeros(1), rng) * 0
        model.train()
        return loss

    @abstractmethod
    def clip_loss(
        self, model: nn.Module, clips: Tensor, items: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """Mean loss of normalized clips (B, 3, T, S, S) and their items (B,)."""

    @abstractmethod
    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Figures of an epoch, the same in every process."""
