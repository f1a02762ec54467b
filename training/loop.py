"""The training loop that pre-training and fine-tuning share: devices, resume, checkpoints, logs.

Randomness is counted, not carried along: every draw comes from a generator seeded by the run's
seed and the place in training (epoch, step, process, or clip). So training that was killed and
resumed does exactly what it would have done, whatever the number of loader processes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svfap_edge.errors import ConfigError, TrainingError
from svfap_edge.training.evaluation import one_thread, sum_of_all
from svfap_edge.training.files import remove_stale, save_atomically, write_text_atomically
from svfap_edge.training.model import TPSBTConfig, is_plain
from svfap_edge.training.optim import (
    build_optimizer,
    move_average,
    parameter_groups,
    rate_at,
    set_rate,
)
from svfap_edge.training.progress import Progress
from svfap_edge.training.settings import OptimSettings, RunSettings

RESUME = "resume.pth"
BEST = "best.pth"
FINAL = "final.pth"
HISTORY = "history.jsonl"

Key = tuple[int, int, int]
"""(epoch, index of the clip, which augmented copy of it)."""


class Job(Protocol):
    """What is trained.

    Attributes:
        model: The module whose parameters are trained.
        config: Of the encoder; `prefix` is of its names inside `model`.
        dataset: Maps a `Key` to one clip, in a loader process.
        monitor: Row of `validate` that chooses the best weights; `sign` +1 if more is better.
        content: What a finished checkpoint holds beside the weights.
    """

    config: TPSBTConfig
    prefix: str
    sign: int
    content: dict[str, Any]

    @property
    def model(self) -> nn.Module: ...

    @property
    def dataset(self) -> Dataset[Any]: ...

    @property
    def monitor(self) -> str: ...

    @property
    def workers(self) -> int: ...

    def order(self, epoch: int, rank: int, world: int) -> Sequence[Key]:
        """Keys of an epoch for one process; as many for each."""
        ...

    def collate(self, items: list[Any]) -> Any: ...

    def loss(self, model: nn.Module, batch: Any, rng: np.random.Generator) -> Tensor:
        """Mean loss of a batch; of an empty one, zero with a gradient for every weight."""
        ...

    def validate(self, fabric: Fabric, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Figures of an epoch, the same in every process."""
        ...


@dataclass
class Place:
    """Where training stands: what a resume checkpoint stores beside weights and optimizer."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def build_fabric(run: RunSettings) -> Fabric:
    """Fabric for the devices, nodes, strategy and precision of the settings, launched.

    Under `torchrun` the number of processes comes from there.

    Raises:
        ConfigError: the machine has no such device, or not as many.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        fabric = Fabric(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.nodes,
            strategy=run.strategy,
            precision=run.precision,
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"These devices cannot be had here: accelerator={run.accelerator}, "
            f"devices={run.devices}, strategy={run.strategy}, precision={run.precision}. "
            f"{str(error).strip()[:300]}"
        ) from error
    return fabric


def fit(
    job: Job, optim: OptimSettings, run: RunSettings, fabric: Fabric, resume: bool = False
) -> Place:
    """Train to the last epoch. Writes `resume.pth`, `best.pth`, `final.pth`, `history.jsonl`.

    Raises:
        TrainingError: the loss is no number any more, or a checkpoint cannot be written; the
            last resume checkpoint is intact.
        ConfigError: the resume checkpoint is of other settings.
    """
    folder = Path(run.output)
    groups = parameter_groups(job.model, job.config, optim, job.prefix)
    average = _average(job.model, optim, run)
    model = fabric.setup_module(job.model)
    optimizer = fabric.setup_optimizers(build_optimizer(model, groups, optim))
    place = Place()
    if resume:
        _load(fabric, folder / RESUME, model, optimizer, average, place)
    progress = Progress(fabric.is_global_zero, folder if run.tensorboard else None)
    try:
        while place.epoch < optim.epochs:
            _epoch(job, optim, run, fabric, model, optimizer, average, place, progress)
            _finish_epoch(job, optim, run, fabric, model, optimizer, average, place, progress)
        content = _content(job, place, average or model)
        save_atomically(fabric, folder / FINAL, content, is_plain)
    finally:
        progress.close()
    return place


def prepare_folder(folder: Path, resume: bool, fabric: Fabric) -> None:
    """Make the folder of a run; what a killed run left half written goes.

    Raises:
        ConfigError: nothing to resume, or a folder that holds another run.
    """
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


def _average(model: nn.Module, optim: OptimSettings, run: RunSettings) -> nn.Module | None:
    if not optim.average:
        return None
    if run.strategy == "fsdp":
        raise ConfigError("optim.average needs whole weights in each process; not with fsdp.")
    return copy.deepcopy(model).eval().requires_grad_(False)


def _epoch(
    job: Job, optim: OptimSettings, run: RunSettings, fabric: Fabric, model: Any, optimizer: Any,
    average: nn.Module | None, place: Place, progress: Progress,
) -> None:  # fmt: skip
    keys = job.order(place.epoch, fabric.global_rank, fabric.world_size)
    batches = [list(keys[i : i + optim.batch]) for i in range(0, len(keys), optim.batch)]
    updates = -(-len(batches) // optim.accumulate)
    total, warm = updates * optim.epochs, round(updates * optim.warmup_epochs)
    clips = optim.batch * optim.accumulate * fabric.world_size
    peak = optim.rate * clips / optim.rate_batch
    if average is not None:
        average.to(fabric.device)
    progress.start(place.epoch, optim.epochs, place.step, len(batches), clips // optim.accumulate)
    model.train()
    saved_at = time.monotonic()
    for batch in _loader(job, batches[place.step :], run, fabric):
        update, part = divmod(place.step, optim.accumulate)
        last_part = part == optim.accumulate - 1 or place.step == len(batches) - 1
        rng = _seed(run.seed, place.epoch, place.step, fabric.global_rank)
        with fabric.no_backward_sync(model, enabled=not last_part):
            loss = job.loss(model, batch, rng)
            fabric.backward(loss / optim.accumulate)
        _note_loss(place, loss)
        if last_part:
            rate = rate_at(place.epoch * updates + update, total, warm, peak, optim.least_rate)
            set_rate(optimizer, rate)
            if optim.clip_norm:
                fabric.clip_gradients(model, optimizer, max_norm=optim.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                move_average(average, job.model, optim.average, place.epoch * updates + update)
        place.step += 1
        progress.step(place.step, place.loss_sum / max(1, place.loss_count))
        if last_part and _due(fabric, saved_at, run.save_every):
            _save(fabric, run, model, optimizer, average, place)
            saved_at = time.monotonic()


def _note_loss(place: Place, loss: Tensor) -> None:
    value = float(loss.detach())
    if not np.isfinite(value):
        raise TrainingError(
            f"The loss is {value} in epoch {place.epoch}, step {place.step}. Lower optim.rate, "
            "set optim.clip_norm, or train in run.precision=32-true; then resume."
        )
    place.loss_sum += value
    place.loss_count += 1


def _due(fabric: Fabric, saved_at: float, every_s: float) -> bool:
    """Whether to save now; the first process decides for all."""
    due = time.monotonic() - saved_at >= every_s
    return bool(fabric.broadcast(due)) if fabric.world_size > 1 else due


def _loader(job: Job, batches: list[list[Key]], run: RunSettings, fabric: Fabric) -> Iterable[Any]:
    loader = DataLoader(
        job.dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=job.workers,
        collate_fn=job.collate,
        worker_init_fn=one_thread,
        pin_memory=fabric.device.type == "cuda",
    )
    wrapped: Iterable[Any] = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
    return wrapped


def _seed(seed: int, epoch: int, step: int, rank: int) -> np.random.Generator:
    """Seeds torch for one step (stochastic depth, masks) and returns numpy's generator for it."""
    sequence = np.random.SeedSequence((seed, epoch, step, rank))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return np.random.default_rng(sequence)


def _finish_epoch(
    job: Job, optim: OptimSettings, run: RunSettings, fabric: Fabric, model: Any, optimizer: Any,
    average: nn.Module | None, place: Place, progress: Progress,
) -> None:  # fmt: skip
    mean = torch.tensor(place.loss_sum / max(1, place.loss_count), device=fabric.device)
    loss = float(sum_of_all(fabric, mean)) / fabric.world_size
    row: dict[str, Any] = {"epoch": place.epoch + 1, "loss": loss}
    place.epoch, place.step, place.loss_sum, place.loss_count = place.epoch + 1, 0, 0.0, 0
    if place.epoch % run.validate_every == 0 or place.epoch == optim.epochs:
        evaluated = average or model
        evaluated.eval()
        row.update(job.validate(fabric, evaluated, place.epoch))
        score = job.sign * row[job.monitor]
        if place.best is None or score > place.best:
            place.best = score
            content = _content(job, place, evaluated, row)
            save_atomically(fabric, Path(run.output) / BEST, content, is_plain)
    place.history.append(row)
    _save(fabric, run, model, optimizer, average, place)
    if fabric.is_global_zero:
        lines = "".join(json.dumps(r) + "\n" for r in place.history)
        write_text_atomically(Path(run.output) / HISTORY, lines)
    progress.row(row)


def _content(
    job: Job, place: Place, model: nn.Module, row: dict[str, Any] | None = None
) -> dict[str, Any]:
    figures = row or (place.history[-1] if place.history else {})
    return {**job.content, "model": model, "epoch": place.epoch, "figures": figures}


def _save(
    fabric: Fabric, run: RunSettings, model: Any, optimizer: Any, average: nn.Module | None,
    place: Place,
) -> None:  # fmt: skip
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "place": place.to_dict()}
    if average is not None:
        state["average"] = average
    save_atomically(fabric, Path(run.output) / RESUME, state)


def _load(
    fabric: Fabric, path: Path, model: Any, optimizer: Any, average: nn.Module | None, place: Place
) -> None:
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}
    if average is not None:
        state["average"] = average
    try:
        rest = fabric.load(path, state)
        for name, value in rest["place"].items():
            setattr(place, name, value)
    except (RuntimeError, KeyError, ValueError) as error:
        raise ConfigError(
            f"'{path}' does not fit these settings; resume with those it was saved with. "
            f"{str(error).strip()[:300]}"
        ) from error
