"""Fine-tuning for classes, values and traits."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError
from svfap_edge.lists import absent_classes, copies
from svfap_edge.tasks import Task, find_task
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint
from svfap_edge.training.clips.mixing import mix, soft_targets, zoomed_out
from svfap_edge.training.clips.reading import LabelledClips, Sampling
from svfap_edge.training.model import TPSBT, preset
from svfap_edge.training.protocols import EvaluationClips, figures, run_list
from svfap_edge.training.settings import FinetuneConfig, ModelSettings

from .objective import Objective, open_lists
from .optim import loss_of
from .progress import say


def open_model(settings: ModelSettings, task: Task) -> TPSBT:
    """A fresh model, or one that starts from a checkpoint.

    The checkpoint's head is kept only if it has the task's labels; its rows are put into the task's
    order. If the checkpoint names no labels, a head of the right width is kept.
    """
    changes: dict[str, Any] = {
        "outputs": len(task.labels),
        "activation": "sigmoid" if task.kind == "traits" else "none",
        "drop_path": settings.drop_path,
    }
    if settings.start is None:
        try:
            return TPSBT(preset(settings.preset, **settings.changes(), **changes))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
    loaded = load_checkpoint(Path(settings.start), weights=settings.weights, **settings.changes())
    if loaded.assumed:
        say(loaded.assumed.replace("--", "model."))
    model = TPSBT(replace(loaded.model.config, **changes))
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
    """The objective of `svfap-edge finetune`."""

    settings: FinetuneConfig
    task: Task

    @classmethod
    def prepare(cls, settings: FinetuneConfig) -> Finetuning:
        """Open the lists and the model; ConfigError is raised for a file that is in two lists."""
        data = settings.data
        task = find_task(data.task, data.labels, data.kind, data.range)
        if data.stride is not None:
            task = replace(task, stride=data.stride)
        torch.manual_seed(settings.run.seed)
        model = open_model(settings.model, task)
        sampling = Sampling(model.config.frames, task.spacing_s, task.stride, data.views)
        lists = open_lists(data, task, sampling, ("train", "val"), ("test",))
        _check_apart(lists)
        for name, clips in lists.items():
            note = absent_classes(clips.targets, task)
            if note:
                say(f"data.{name}: {note}")
        _say_copies(lists)
        if settings.data.balance != 1 and task.kind != "classes":
            raise ConfigError("data.balance is for classes; leave it at 1 for values and traits.")
        loss_of(settings.loss.kind, task.kind)
        return cls(settings=settings, task=task, model=model, config=model.config, lists=lists)

    @property
    def monitor(self) -> str:
        return {"classes": "uar", "values": "ccc", "traits": "1-mae"}[self.task.kind]

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
        return self.evaluate(fabric, model, self.val)

    def evaluate(
        self, fabric: Fabric, model: nn.Module, clips: LabelledClips, streaming: bool = False
    ) -> dict[str, Any]:
        """Metrics of a list by the published or by the streaming protocol; see `protocols`."""
        span_s = self.config.frames * self.task.spacing_s
        spec = ClipSpec(self.config.frames, span_s, self.config.size)
        outputs = run_list(
            fabric,
            model,
            EvaluationClips(clips, spec, streaming),
            len(clips),
            self.task,
            batch=self.settings.optim.batch,
            workers=self.settings.data.workers,
            failed=self.log_of(clips),
        )
        return figures(outputs, clips, self.task)


def _say_copies(lists: dict[str, LabelledClips]) -> None:
    """Say how many files of one list are in another under another name."""
    for one, other in itertools.combinations(lists, 2):
        both = copies(lists[one].items, lists[other].items)
        if both:
            first, second = both[0]
            say(
                f"data.{one} and data.{other} share the content of {len(both)} files, such as "
                f"'{first}' and '{second}'; data.{other} then judges by what it has seen."
            )


def _check_apart(lists: dict[str, LabelledClips]) -> None:
    """Raise ConfigError if a file is in two lists; copies of it are counted, see `_say_copies`."""
    files = {
        name: {os.path.abspath(item.path) for item in clips.items} for name, clips in lists.items()
    }
    for one, other in itertools.combinations(files, 2):
        both = sorted(files[one] & files[other])
        if both:
            shown = ", ".join(f"'{path}'" for path in both[:3])
            used = "trained on" if one == "train" else "chosen by"
            purpose = "choose" if other == "val" else "judge"
            raise ConfigError(
                f"{len(both)} files are in data.{one} and in data.{other}, for example {shown}. "
                f"What is {used} cannot {purpose} the model; split by person "
                "('svfap-edge prepare')."
            )
