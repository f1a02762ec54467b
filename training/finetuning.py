"""Fine-tuning for classes, values and traits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from svfap_edge.errors import ConfigError
from svfap_edge.tasks import Task, find_task
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.clips import LabelledClips, Sampling
from svfap_edge.training.evaluation import Views, figures, run_list
from svfap_edge.training.job import Job, open_clips
from svfap_edge.training.mixing import mix, soft_targets
from svfap_edge.training.model import TPSBT, TPSBTConfig, preset
from svfap_edge.training.optim import loss_of
from svfap_edge.training.settings import FinetuneConfig, ModelSettings
from svfap_edge.training.streaming import evaluate_streaming


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


@dataclass(kw_only=True)
class Finetuning(Job):
    """The job of `svfap-edge finetune`.

    Attributes:
        validated: Figures of `val` by epoch, for the epochs evaluated in this process.
    """

    settings: FinetuneConfig
    task: Task
    test: LabelledClips | None
    validated: dict[int, dict[str, Any]] = field(default_factory=dict)

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
        test = open_clips(data, data.test, task, sampling) if data.test else None
        _check_apart(train, val, "data.val", "choose")
        if test is not None:
            _check_apart(train, test, "data.test", "judge")
        if settings.data.balance != 1 and task.kind != "classes":
            raise ConfigError("data.balance is for classes; leave it at 1 for values and traits.")
        loss_of(settings.loss.kind, task.kind)
        return cls(
            settings=settings, task=task, model=model, config=model.config,
            train=train, val=val, test=test,
        )  # fmt: skip

    @property
    def monitor(self) -> str:
        return {"classes": "uar", "values": "ccc", "traits": "1-mae"}[self.task.kind]

    @property
    def content(self) -> dict[str, Any]:
        return {**super().content, "task": self.task.to_dict()}

    @property
    def lists(self) -> dict[str, tuple[str, LabelledClips]]:
        test = self.test
        more = {"data.test": (self.settings.data.test or "", test)} if test is not None else {}
        return {**super().lists, **more}

    def clip_loss(
        self, model: nn.Module, clips: Tensor, items: Tensor, rng: np.random.Generator
    ) -> Tensor:
        targets = torch.as_tensor(self.train.targets[items.cpu().numpy()], device=clips.device)
        if self.task.kind == "classes":
            targets = soft_targets(targets, len(self.task.labels), self.settings.loss.smoothing)
        clips, targets = mix(clips, targets.float(), rng, self.settings.mixing)
        outputs = model(clips).float()
        return loss_of(self.settings.loss.kind, self.task.kind)(outputs, targets)

    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        self.validated[epoch] = self.evaluate(fabric, model, self.val)
        return self.validated[epoch]

    def evaluate(self, fabric: Fabric, model: nn.Module, clips: LabelledClips) -> dict[str, Any]:
        """Metrics by the published protocol."""
        found = run_list(
            fabric, model, Views(clips, self.config.size), len(clips), len(self.task.labels),
            **self._reading,
        )  # fmt: skip
        return figures(found, clips, self.task)

    def evaluate_streaming(
        self, fabric: Fabric, model: nn.Module, clips: LabelledClips
    ) -> dict[str, Any]:
        """Metrics by the streaming protocol."""
        return evaluate_streaming(fabric, model, clips, self.task, self.config, **self._reading)

    @property
    def _reading(self) -> dict[str, Any]:
        data = self.settings.data
        return {
            "batch": self.settings.optim.batch,
            "workers": data.workers,
            "unreadable": data.unreadable,
        }


def _check_apart(train: LabelledClips, other: LabelledClips, name: str, purpose: str) -> None:
    """Raises ConfigError if a file is in both lists."""
    both = {item.path for item in train.items} & {item.path for item in other.items}
    if both:
        shown = ", ".join(f"'{path}'" for path in sorted(both)[:3])
        raise ConfigError(
            f"{len(both)} files are in data.train and in {name}, for example {shown}. What is "
            f"trained on cannot {purpose} the model; split by person ('svfap-edge prepare')."
        )
