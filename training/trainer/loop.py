"""The training loop that pre-training and fine-tuning share: devices, resume, checkpoints, logs.

Randomness is counted, not carried along: every draw comes from a generator seeded by the run's
seed and the place in training (epoch, step, process, or clip). So training that was killed and
resumed does exactly what it would have done, whatever the number of loader processes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader

from svfap_edge.atomic import json_text, remove_stale, write_text_atomically
from svfap_edge.errors import ConfigError, TrainingError
from svfap_edge.training.model import is_plain
from svfap_edge.training.protocols import one_thread

from .objective import Key, Objective, TrainingClips, collate
from .optim import build_optimizer, move_average, parameter_groups, rate_at, set_rate
from .progress import Progress
from .resume import save_atomically

RESUME = "resume.pth"
BEST = "best.pth"
FINAL = "final.pth"
HISTORY = "history.jsonl"
CALMER = (
    "Start a new run with a lower optim.rate, with optim.clip_norm, or in run.precision=32-true."
)


@dataclass
class Place:
    """Where training stands: what a resume checkpoint stores beside weights and optimizer.

    Attributes:
        epoch: Number of finished epochs.
        step: Number of batches that this process has taken in the unfinished epoch.
        loss_sum: Sum of the losses of this process in this epoch.
        loss_count: Number of losses in `loss_sum`; a batch without a readable clip has none.
        best: Best figure of validation so far, as `sign` times the figure; None before the first.
        history: Figures of each finished epoch.
        unreadable: Name of a list ("train", "val", "test") to paths and why they cannot be read.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / max(1, self.loss_count)


def prepare_folder(folder: Path, resume: bool, fabric: Fabric) -> None:
    """Make the folder of a run and remove what a killed run left half written."""
    there = folder / RESUME
    if resume and not there.is_file():
        raise ConfigError(f"Nothing to resume: '{there}' does not exist.")
    if not resume and (there.exists() or (folder / FINAL).exists()):
        raise ConfigError(
            f"'{folder}' holds a run already. Continue it with --resume, or choose another "
            "run.output."
        )
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder)
    fabric.barrier()


class Training:
    """An objective on its devices, and everything that training it changes.

    The fingerprint says what the run is made of (`resume.fingerprint_of`); `resume.pth` holds it.
    """

    progress: Progress

    def __init__(self, objective: Objective, fabric: Fabric, fingerprint: dict[str, Any]) -> None:
        self.objective, self.fabric, self.fingerprint = objective, fabric, fingerprint
        self.optim, self.run = objective.settings.optim, objective.settings.run
        self.folder = Path(self.run.output)
        self.place = Place()
        groups = parameter_groups(objective.model, objective.config, self.optim, objective.prefix)
        is_sharded = isinstance(fabric.strategy, ModelParallelStrategy)
        if self.optim.average and is_sharded:
            raise ConfigError("optim.average needs whole weights in each process; not with fsdp.")
        self.average = self._copy() if self.optim.average else None
        self.gathered = self._copy() if is_sharded else None
        # Whole in each process, and not wrapped by the strategy, because the processes need not
        # evaluate equally many clips.
        self.evaluated: nn.Module = self.average or self.gathered or objective.model
        self.model: Any = fabric.setup_module(objective.model)
        self.optimizer: Any = fabric.setup_optimizers(
            build_optimizer(self.model, groups, self.optim)
        )

    def _copy(self) -> nn.Module:
        model = copy.deepcopy(self.objective.model).eval().requires_grad_(False)
        return model.to(self.fabric.device)

    def to_the_end(self) -> None:
        """Train to the last epoch; write `resume.pth`, `best.pth`, `final.pth`, `history.jsonl`.

        Whatever goes wrong, the last resume checkpoint is intact.
        """
        logs = self.run.tensorboard and self.fabric.is_global_zero
        self.progress = Progress(self.folder if logs else None)
        try:
            while self.place.epoch < self.optim.epochs:
                self.train_epoch()
                self.finish_epoch()
            self._save_weights(FINAL, self.place.history[-1] if self.place.history else {})
        finally:
            self.progress.close()

    def train_epoch(self) -> None:
        """Train on the batches of the epoch that are left."""
        place, optim, fabric = self.place, self.optim, self.fabric
        keys = self.objective.keys(place.epoch, fabric.global_rank, fabric.world_size)
        batches = [list(keys[i : i + optim.batch]) for i in range(0, len(keys), optim.batch)]
        updates = -(-len(batches) // optim.accumulate)
        clips = optim.batch * fabric.world_size
        self.progress.start(place.epoch, optim.epochs, place.step, len(batches), clips)
        self.model.train()
        saved_at = time.monotonic()
        for batch in self._loader(batches[place.step :]):
            update, part = divmod(place.step, optim.accumulate)
            last_part = part == optim.accumulate - 1 or place.step == len(batches) - 1
            self._backward(batch, last_part)
            if last_part:
                self._update(place.epoch * updates + update, updates)
            place.step += 1
            self.progress.step(place.step, place.mean_loss)
            # The first process decides for all processes.
            if last_part and fabric.broadcast(time.monotonic() - saved_at >= self.run.save_every):
                self.save()
                saved_at = time.monotonic()

    def finish_epoch(self) -> None:
        """Evaluate where `run.validate_every` asks for it, and write checkpoints and history."""
        place, fabric = self.place, self.fabric
        total, count = map(sum, zip(*self._losses(), strict=True))
        row: dict[str, Any] = {"epoch": place.epoch + 1, "loss": total / max(1, count)}
        place.epoch, place.step, place.loss_sum, place.loss_count = place.epoch + 1, 0, 0.0, 0
        self._share_buffers()
        if place.epoch % self.run.validate_every == 0 or place.epoch == self.optim.epochs:
            self._gather()
            self.evaluated.eval()
            row.update(self.objective.validate(fabric, self.evaluated, place.epoch))
            monitor = self.objective.monitor
            if not np.isfinite(row[monitor]):
                raise TrainingError(
                    f"{monitor} is {row[monitor]} after epoch {place.epoch}. {CALMER}"
                )
            score = self.objective.sign * row[monitor]
            if place.best is None or score > place.best:
                place.best = score
                self._save_weights(BEST, row)
        place.history.append(row)
        self.save()
        if fabric.is_global_zero:
            lines = "".join(json_text(r) + "\n" for r in place.history)
            write_text_atomically(self.folder / HISTORY, lines)
        self.progress.row(row)

    def _gather(self) -> None:
        """Where the weights are sharded, copy them into the whole model that is evaluated."""
        if self.gathered is not None:
            whole = StateDictOptions(full_state_dict=True)
            self.gathered.load_state_dict(get_model_state_dict(self.objective.model, options=whole))

    def _share_buffers(self) -> None:
        """Give all processes the batch norm statistics of the first one, which are saved."""
        if self.fabric.world_size > 1:
            for module in (self.objective.model, self.average):
                for buffer in module.buffers() if module is not None else ():
                    torch.distributed.broadcast(buffer, src=0)

    def _losses(self) -> list[list[float]]:
        """Sum and count of the losses in this epoch, for each process."""
        mine = [self.place.loss_sum, float(self.place.loss_count)]
        if self.fabric.world_size == 1:
            return [mine]
        found: Any = self.fabric.all_gather(
            torch.tensor(mine, dtype=torch.float64, device=self.fabric.device)
        )
        rows: list[list[float]] = found.tolist()
        return rows

    def _backward(self, batch: Any, last_part: bool) -> None:
        """Add the gradient of a batch; processes exchange it with the last part of an update."""
        rng = self._seed()
        with self.fabric.no_backward_sync(self.model, enabled=not last_part):
            loss = self.objective.loss(self.model, batch, rng)
            self.fabric.backward(loss / self.optim.accumulate)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError(
                f"The loss is {value} in epoch {self.place.epoch}, step {self.place.step}. {CALMER}"
            )
        self.place.loss_sum += value
        self.place.loss_count += len(batch.items) > 0

    def _seed(self) -> np.random.Generator:
        """Seed torch for one step (stochastic depth, masks) and return numpy's generator for it."""
        place = (self.place.epoch, self.place.step, self.fabric.global_rank)
        sequence = np.random.SeedSequence((self.run.seed, *place))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        return np.random.default_rng(sequence)

    def _update(self, update: int, of_epoch: int) -> None:
        """Change the weights; `update` counts from 0 through all epochs of `of_epoch` updates."""
        optim = self.optim
        clips = optim.batch * optim.accumulate * self.fabric.world_size
        scale = clips / optim.rate_batch
        peak, least = optim.rate * scale, optim.least_rate * scale
        total, warm = of_epoch * optim.epochs, round(of_epoch * optim.warmup)
        set_rate(self.optimizer, rate_at(update, total, warm, peak, least))
        if optim.clip_norm:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=optim.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            move_average(self.average, self.objective.model, optim.average, update)

    def _loader(self, batches: list[list[Key]]) -> Iterable[Any]:
        objective, settings = self.objective, self.objective.settings
        size, seed = objective.config.size, settings.run.seed
        loader = DataLoader(
            TrainingClips(objective.train, settings.augment, size, seed),
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=settings.data.workers,
            collate_fn=collate,
            worker_init_fn=one_thread,
            pin_memory=self.fabric.device.type == "cuda",
        )
        return self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def _save_weights(self, name: str, figures: dict[str, Any]) -> None:
        """Write a finished checkpoint: plain weights, `objective.content`, epoch and figures."""
        weights = self.model if self.gathered is not None else self.evaluated
        found = {"model": weights, "epoch": self.place.epoch, "figures": figures}
        content = {**self.objective.content, **found}
        save_atomically(self.fabric, self.folder / name, content, is_plain)

    def _state(self) -> dict[str, Any]:
        state = {"model": self.model, "optimizer": self.optimizer}
        state["scaler"] = self.fabric.strategy.precision  # of the loss, in 16-mixed
        return state if self.average is None else {**state, "average": self.average}

    def save(self) -> None:
        """Write the resume checkpoint."""
        self.place.unreadable = self.objective.join_logs(self.fabric)
        state = {
            **self._state(),
            "place": vars(self.place),
            "losses": self._losses(),
            "record": self.fingerprint,
        }
        save_atomically(self.fabric, self.folder / RESUME, state)

    def load(self) -> None:
        """Continue from `resume.pth`, which `check_resume` has compared with the settings."""
        path = self.folder / RESUME
        try:
            rest = self.fabric.load(path, self._state())
            self.place = Place(**rest["place"])
            total, count = rest["losses"][self.fabric.global_rank]
            self.place.loss_sum, self.place.loss_count = total, int(count)
            self.objective.recall(self.place.unreadable)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                f"'{path}' does not fit these settings; resume with those it was saved with. "
                f"{str(error).strip()[:300]}"
            ) from error
