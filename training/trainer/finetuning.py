"""Fine-tuning for classes, values and traits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError
from svfap_edge.tasks import Task, find_task
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint
from svfap_edge.training.clips.mixing import mix, soft_targets, zoomed_out
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.model import TPSBT, TPSBTConfig, preset
from svfap_edge.training.protocols import (
    EvaluationClips,
    StreamedClips,
    Views,
    figures,
    run_list,
)
from svfap_edge.training.settings import FinetuneConfig, ModelSettings

from .objective import Objective, open_clips, require_known
from .optim import loss_of
from .progress import say


def open_model(settings: ModelSettings, task: Task) -> TPSBT:
    """A fresh model, or one that starts from a checkpoint.

    The checkpoint's head is kept only if it has the task's labels; its rows are put into the task's
    order. If the checkpoint names no labels, a head of the right width is kept.
    """
    changes = {
        "outputs": len(task.labels),
        "activation": "sigmoid" if task.kind == "traits" else "none",
        "drop_path": settings.drop_path,
    }
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
    if loaded.kind == "fine-tuned":
        state = _fit_head(state, loaded, task)
    model.load_state_dict({**wanted, **state})
    return model


def _fit_head(state: dict[str, Tensor], loaded: Checkpoint, task: Task) -> dict[str, Tensor]:
    """Weights with the head's rows in the task's order, or without a head for other labels."""
    ours = [label.lower() for label in task.labels]
    theirs = [label.lower() for label in loaded.info.get("labels", task.labels)]
    if "head.weight" in state and set(ours) == set(theirs):
        order = [theirs.index(label) for label in ours]
        return {n: w[order] if n.startswith("head.") else w for n, w in state.items()}
    theirs_has = f"the labels {', '.join(theirs)}" if "labels" in loaded.info else "another width"
    say(f"The head starts fresh: that of model.start has {theirs_has}.")
    return {n: w for n, w in state.items() if not n.startswith("head.")}


@dataclass(kw_only=True)
class Finetuning(Objective):
    """The objective of `svfap-edge finetune`.

    Attributes:
        test: Clips that judge the best weights at the end; None without `data.test`.
        validated: Number of an epoch to the figures of `val`, for the epochs evaluated so far.
    """

    settings: FinetuneConfig
    task: Task
    test: LabelledClips | None
    validated: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, settings: FinetuneConfig) -> Finetuning:
        """Open the lists and the model; ConfigError is raised for a file that is in two lists."""
        data = settings.data
        task = find_task(data.task, data.labels)
        if data.stride is not None:
            task = replace(task, stride=data.stride)
        torch.manual_seed(settings.run.seed)
        model = open_model(settings.model, task)
        sampling = Sampling(model.config.frames, task.spacing_s, task.stride, data.views)
        train = open_clips(data, data.train, task, sampling)
        val = open_clips(data, data.val, task, sampling)
        test = open_clips(data, data.test, task, sampling) if data.test else None
        require_known(data, train, val, *([test] if test is not None else []))
        _check_apart(train, val, "data.train and in data.val", "trained on cannot choose")
        if test is not None:
            _check_apart(train, test, "data.train and in data.test", "trained on cannot judge")
            _check_apart(val, test, "data.val and in data.test", "chosen by cannot judge")
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
    def lists(self) -> dict[str, LabelledClips]:
        tested = {} if self.test is None else {"test": self.test}
        return super().lists | tested

    @property
    def content(self) -> dict[str, Any]:
        return {**super().content, "task": self.task.to_dict()}

    def clip_loss(
        self, model: nn.Module, clips: Tensor, items: Tensor, rng: np.random.Generator
    ) -> Tensor:
        targets = torch.as_tensor(self.train.targets[items.cpu().numpy()], device=clips.device)
        if self.task.kind == "classes":
            targets = soft_targets(targets, len(self.task.labels), self.settings.loss.smoothing)
        clips, targets = mix(clips, targets.float(), rng, self.settings.mixing)
        clips = zoomed_out(clips, rng, self.settings.framing)
        outputs = model(clips).float()
        return loss_of(self.settings.loss.kind, self.task.kind)(outputs, targets)

    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        self.validated[epoch] = self.evaluate(fabric, model, self.val)
        return self.validated[epoch]

    def evaluate(
        self, fabric: Fabric, model: nn.Module, clips: LabelledClips, streaming: bool = False
    ) -> dict[str, Any]:
        """Metrics of a list by the published or by the streaming protocol; see `protocols`."""
        dataset: EvaluationClips = Views(clips, self.config.size)
        if streaming:
            span_s = self.config.frames * self.task.spacing_s
            dataset = StreamedClips(clips, ClipSpec(self.config.frames, span_s, self.config.size))
        outputs = run_list(
            fabric,
            model,
            dataset,
            len(clips),
            self.task,
            batch=self.settings.optim.batch,
            workers=self.settings.data.workers,
            failed=self.log_of(clips),
        )
        return figures(outputs, clips, self.task)


def _check_apart(one: LabelledClips, other: LabelledClips, where: str, why: str) -> None:
    """Raise ConfigError if a file is in both lists, under whatever path."""
    both = _files(one) & _files(other)
    if both:
        shown = ", ".join(f"'{path}'" for path in sorted(both)[:3])
        raise ConfigError(
            f"{len(both)} files are in {where}, for example {shown}. What is {why} the model; "
            "split by person ('svfap-edge prepare')."
        )


def _files(clips: LabelledClips) -> set[str]:
    """Absolute paths of a list; links are not followed, so a copy or a link is another file."""
    return {os.path.abspath(item.path) for item in clips.items}
