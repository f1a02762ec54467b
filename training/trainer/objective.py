"""What is trained, on which clips and to which end; pre-training and fine-tuning add their loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
from svfap_edge.training.clips.epochs import epoch_order, generator
from svfap_edge.training.clips.reading import LabelledClips, Sampling, Unreadable
from svfap_edge.training.config import to_table
from svfap_edge.training.model import TPSBTConfig
from svfap_edge.training.protocols import normalize
from svfap_edge.training.settings import DataSettings, FinetuneConfig, PretrainConfig

Key = tuple[int, int, int]
"""(epoch, place in the epoch of all processes, item).

A clip and its augmentation are a function of it and of the seed."""


@dataclass(frozen=True)
class TrainingClips(Dataset[Any]):
    """Augmented square clips by key; an unreadable item gives the error that says why it is."""

    clips: LabelledClips
    settings: AugmentSettings
    size: int
    seed: int

    def __getitem__(self, key: Key) -> tuple[int, np.ndarray | UnreadableClip]:
        """Number of the item, and its clip (T, size, size, 3) uint8 RGB or the error."""
        epoch, position, index = key
        rng = generator("clip", self.seed, epoch, position)
        try:
            frames = self.clips.read(index, rng)
        except UnreadableClip as error:
            return index, error
        return index, augment(frames, self.size, rng, self.settings)


@dataclass
class Batch:
    """The readable clips of a batch, their numbers in the list, and why others are not there."""

    clips: Tensor  # (B, T, S, S, 3) uint8 RGB
    items: Tensor  # (B,) int64
    errors: list[UnreadableClip]


def collate(found: list[tuple[int, np.ndarray | UnreadableClip]]) -> Batch:
    good = [(index, clip) for index, clip in found if not isinstance(clip, UnreadableClip)]
    errors = [clip for _, clip in found if isinstance(clip, UnreadableClip)]
    clips = np.stack([clip for _, clip in good]) if good else np.zeros((0,), np.uint8)
    items = np.array([index for index, _ in good], np.int64)
    return Batch(torch.from_numpy(clips), torch.from_numpy(items), errors)


def open_lists(
    data: DataSettings,
    task: Task | None,
    sampling: Sampling,
    required: Sequence[str],
    optional: Sequence[str],
) -> dict[str, LabelledClips]:
    """The lists of the settings by name, without items whose labels are ignored."""
    lists = {}
    for name in (*required, *optional):
        path = getattr(data, name)
        if path:
            lists[name] = LabelledClips.open(Path(path), task, sampling, data.ignore)
            lists[name].require_files(data.unreadable)
        elif name in required:
            raise ConfigError("No list is named: set data.train and data.val.")
    unknown = [x for x in data.ignore if all(x in clips.unknown for clips in lists.values())]
    if unknown:
        raise ConfigError(
            f"data.ignore: no list and no task has a label '{unknown[0]}'. Write it as the task "
            "or the list does, a name or an index."
        )
    return lists


@dataclass(kw_only=True)
class Objective(ABC):
    """A model, the lists it is trained on, its loss and its validation.

    Attributes:
        settings: All settings of the run.
        model: The module whose parameters are trained.
        config: Configuration of the encoder.
        lists: The lists that are read, by name: "train", and "val" and "test" where there are any.
        task: Task whose labels are read; None in pre-training.
        quantized: Whether the model holds the quantizers of INT8.
        logs: Items that could not be read, by the name of their list.
        prefix: What the names of the encoder's weights begin with inside `model`.
        sign: +1 if a greater figure of `monitor` is better, else -1.
    """

    settings: FinetuneConfig | PretrainConfig
    model: nn.Module
    config: TPSBTConfig
    lists: dict[str, LabelledClips]
    task: Task | None = None
    quantized: bool = False
    logs: dict[str, Unreadable] = field(init=False)
    prefix: ClassVar[str] = ""
    sign: ClassVar[int] = 1

    def __post_init__(self) -> None:
        share = self.settings.data.unreadable
        self.logs = {name: Unreadable(len(clips), share) for name, clips in self.lists.items()}

    @property
    def train(self) -> LabelledClips:
        """Clips that are trained on."""
        return self.lists["train"]

    @property
    def val(self) -> LabelledClips:
        """Clips that choose the best weights: those trained on where there are no others."""
        return self.lists.get("val", self.train)

    def log_of(self, clips: LabelledClips) -> Unreadable:
        """The log of one of `lists`."""
        return next(self.logs[name] for name, found in self.lists.items() if found is clips)

    def join_logs(self, fabric: Fabric) -> dict[str, dict[str, str]]:
        """Share among all processes which items could not be read.

        The result maps the name of each list to paths and reasons. SourceError is raised if all
        processes together could not read more items than the limit.
        """
        mine = {name: log.reasons for name, log in self.logs.items()}
        if fabric.world_size > 1:
            for rank in range(fabric.world_size):
                self.recall(fabric.broadcast(mine, src=rank))
        for log in self.logs.values():
            log.check()
        return {name: dict(log.reasons) for name, log in self.logs.items()}

    def recall(self, reasons: Mapping[str, Mapping[str, str]]) -> None:
        """Add what another process or an earlier run could not read, by the name of its list."""
        for name, log in self.logs.items():
            log.reasons.update(reasons.get(name, {}))

    @property
    @abstractmethod
    def monitor(self) -> str:
        """Name of the figure of `validate` that chooses the best weights."""

    @property
    def content(self) -> dict[str, Any]:
        """What a finished checkpoint holds beside the weights."""
        return {"config": self.config.to_dict(), "settings": to_table(self.settings)}

    def keys(self, epoch: int, rank: int, world: int) -> list[Key]:
        """What one process reads in an epoch, in order; every process reads equally many."""
        data = self.settings.data
        order = epoch_order(
            self.train.targets, self.settings.run.seed, epoch,
            balance=data.balance, repeats=data.repeats, shard=(rank, world),
        )  # fmt: skip
        return [(epoch, rank + i * world, int(item)) for i, item in enumerate(order)]

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Mean loss of a batch; an empty batch has loss zero, with a gradient for every weight.

        Where several processes train, each must make a pass, or the others wait for its gradients.
        An empty batch passes a blank clip, from which batch norm does not learn.
        """
        for error in batch.errors:
            self.logs["train"].add(error)
        if len(batch.items) > 0:
            return self.clip_loss(model, normalize(batch.clips), batch.items, rng)
        size, items = self.config.size, batch.items.new_zeros(1)
        clip = torch.zeros(1, 3, self.config.frames, size, size, device=items.device)
        model.eval()
        loss = self.clip_loss(model, clip, items, rng) * 0
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
