"""Evaluating a model in PyTorch: by the published protocol and as a deployment reads a stream.

Published: a few clips spread evenly over the recording. Streaming: the clips that a
`svfap_edge.runtimes.Stream` would predict, by the same rules for hops, slots and the fit to the
model's square. By both, a recording's answer is the mean over its clips, of the probabilities for
classes, as VideoMAE's code merges views (Tong et al. 2022) and `svfap_edge.evaluation.evaluate`
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric, is_wrapped
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svfap_edge import metrics
from svfap_edge.clip import (
    HOP_S,
    ClipSchedule,
    ClipSpec,
    FrameBuffer,
    HopGrid,
    SampledClip,
    fit_face,
)
from svfap_edge.errors import SvfapError, TrainingError, UnreadableClip
from svfap_edge.media import IMAGE_SUFFIXES
from svfap_edge.sources.opening import open_source
from svfap_edge.tasks import Task
from svfap_edge.training.clips.augment import centre
from svfap_edge.training.clips.reading import LabelledClips, Unreadable

from .model import IMAGENET_MEAN, IMAGENET_STD, TPSBTConfig


def one_thread(worker: int) -> None:
    """Loader processes share the cores already."""
    cv2.setNumThreads(0)


def normalize(clips: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 RGB to the model's (B, 3, T, H, W) float32."""
    mean = torch.tensor(IMAGENET_MEAN, device=clips.device)
    std = torch.tensor(IMAGENET_STD, device=clips.device)
    return ((clips.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class Views(Dataset[Any]):
    """All evaluation views of all items: (item, view or reason) to clips of one size."""

    clips: LabelledClips
    size: int

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | UnreadableClip]:
        """(index, (views, T, size, size, 3) uint8), or the reason why there are none."""
        try:
            views = [
                centre(self.clips.read(index, view=view), self.size)
                for view in range(self.clips.sampling.views)
            ]
        except UnreadableClip as error:
            return index, error
        return index, np.stack(views)


@dataclass(frozen=True)
class Outputs:
    """What a model said of a list: (n, L) probabilities or values, NaN where unreadable."""

    values: np.ndarray

    @property
    def readable(self) -> np.ndarray:
        found: np.ndarray = np.isfinite(self.values).all(axis=1)
        return found


@torch.no_grad()
def run_list(
    fabric: Fabric,
    model: nn.Module,
    dataset: Dataset[Any],
    count: int,
    task: Task,
    *,
    batch: int,
    workers: int = 0,
    failed: Unreadable | None = None,
) -> Outputs:
    """Outputs of a model for a list, shared among all processes; the same in each.

    Args:
        dataset: Maps an index to (index, (views, T, S, S, 3) uint8 or an `UnreadableClip`).
        count: Items n.
        batch: Clips given to the model at once, at most.
        failed: Counts what this process cannot read; by default up to 1 % of the items.

    Raises:
        SourceError: more items than the limit cannot be read.
        TrainingError: an output is no number.
    """
    model = _without_waiting(fabric, model).eval()
    failed = failed or Unreadable(count)
    values = torch.zeros(count, len(task.labels), device=fabric.device)
    seen = torch.zeros(count, device=fabric.device)
    mine = list(range(fabric.global_rank, count, fabric.world_size))
    loader: DataLoader[Any] = DataLoader(
        dataset, sampler=mine, batch_size=None, num_workers=workers, worker_init_fn=one_thread
    )
    for group in _groups(loader, batch, failed):
        clips = torch.from_numpy(np.concatenate([views for _, views in group]))
        with fabric.autocast():  # a long recording is more than a batch
            parts = [model(normalize(part.to(fabric.device))) for part in clips.split(batch)]
        found = torch.cat(parts).float()
        if task.kind == "classes":
            found = found.softmax(1)
        start = 0
        for index, views in group:
            values[index] = found[start : start + len(views)].mean(0)
            seen[index] = 1
            start += len(views)
    if fabric.world_size > 1:  # every item is in one process only, so a sum joins them exactly
        values = sum_of_all(fabric, values)
        seen = sum_of_all(fabric, seen)
    wrong = int((~values.isfinite().all(1)).sum())
    if wrong:
        raise TrainingError(
            f"The model answers {wrong} of {count} items with NaN or infinity. Evaluate it in "
            "run.precision=32-true; if it does so there, too, its weights are spoilt."
        )
    values[seen == 0] = torch.nan
    return Outputs(values.cpu().numpy())


def _without_waiting(fabric: Fabric, model: nn.Module) -> nn.Module:
    """The model, its buffers those of the first process, whose weights are the ones kept.

    DDP does that in the first forward, and waits there for all processes, of which some may have
    nothing to read; so without DDP.
    """
    if fabric.world_size == 1:
        return model
    if isinstance(fabric.strategy, DDPStrategy) and is_wrapped(model):
        assert isinstance(model.module, nn.Module)
        model = model.module
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, 0)
    return model


def sum_of_all(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes, in each."""
    found = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(found, Tensor)
    return found


def _groups(
    loader: DataLoader[Any], batch: int, unreadable: Unreadable
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Readable items, collected until they hold about `batch` clips."""
    group: list[tuple[int, np.ndarray]] = []
    for index, views in loader:
        if isinstance(views, UnreadableClip):
            unreadable.add(views)
            continue
        group.append((int(index), np.asarray(views)))
        if sum(len(views) for _, views in group) >= batch:
            yield group
            group = []
    if group:
        yield group


def figures(outputs: Outputs, clips: LabelledClips, task: Task) -> dict[str, Any]:
    """Metrics of a list: what the field reports for the kind of task.

    Returns:
        Names in lower case ("uar", "war", ...; "recall" by label and "confusion" for classes;
        "pcc", "ccc" and "1-mae" meaned over values), and "unreadable", a count.
    """
    good = outputs.readable
    values, targets = outputs.values[good], clips.targets[good]
    row: dict[str, Any] = {"unreadable": int((~good).sum())}
    if task.kind == "classes":
        return row | class_figures(targets, values.argmax(1), task.labels)
    columns = range(len(task.labels))
    span = task.high - task.low
    for name, metric in (("pcc", metrics.pcc), ("ccc", metrics.ccc)):
        row[name] = float(np.mean([metric(targets[:, i], values[:, i]) for i in columns]))
    row["1-mae"] = float(
        np.mean([metrics.one_minus_mae(targets[:, i], values[:, i], span) for i in columns])
    )
    return row


def class_figures(
    targets: np.ndarray, guesses: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """Metrics of class indices (n,); recall of the labels that occur."""
    matrix = metrics.confusion_matrix(targets, guesses, len(labels))
    recalls = zip(labels, metrics.recalls(matrix), matrix.sum(1) > 0, strict=True)
    return {
        "uar": metrics.uar(matrix),
        "war": metrics.war(matrix),
        "macro_f1": metrics.macro_f1(matrix),
        "weighted_f1": metrics.weighted_f1(matrix),
        "recall": {label: round(float(recall), 4) for label, recall, occurs in recalls if occurs},
        "confusion": matrix.tolist(),
    }


MOST_CLIPS = 240
"""Most clips of one recording: two minutes of it."""


@dataclass(frozen=True)
class StreamedClips(Dataset[Any]):
    """The clips of all items by the streaming protocol."""

    clips: LabelledClips
    spec: ClipSpec

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | UnreadableClip]:
        """(index, (clips, T, S, S, 3) uint8), or the reason why there are none."""
        path = self.clips.items[index].path
        try:
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
                clip = np.empty(self.spec.shape, np.uint8)
                fit_face(self.clips.read(index, view=0)[0], clip[0])
                clip[1:] = clip[0]
                return index, clip[None]
            return index, np.stack([clip.frames for clip in streamed_clips(path, self.spec)])
        except UnreadableClip as error:
            return index, error
        except SvfapError as error:
            return index, UnreadableClip(str(path), str(error).rstrip("."))


def streamed_clips(path: Path, spec: ClipSpec, hop_s: float = HOP_S) -> list[SampledClip]:
    """The clips of a recording that a stream with default coverage would predict, at most
    `MOST_CLIPS`. A recording too short for one gives its last frames, the missing slots repeated.

    Raises:
        SourceError: the recording cannot be read, or holds no frame.
    """
    buffer, schedule = FrameBuffer(spec), ClipSchedule(HopGrid(), hop_s)
    found: list[SampledClip] = []
    with open_source(str(path)) as source:
        for frame in source:
            buffer.add(frame.image, frame.timestamp_s)
            if schedule.is_due(frame.timestamp_s, buffer):
                found.append(buffer.sample(frame.timestamp_s))
                if len(found) == MOST_CLIPS:
                    return found
    if found:
        return found
    if buffer.last_s is None:
        raise UnreadableClip(str(path), "holds no frame")
    return [buffer.sample(buffer.last_s)]


def evaluate_streaming(
    fabric: Fabric, model: nn.Module, clips: LabelledClips, task: Task, config: TPSBTConfig,
    *, batch: int = 32, workers: int = 0, failed: Unreadable | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Metrics of a list by the streaming protocol; see `run_list` and `figures`."""
    spec = ClipSpec(config.frames, config.frames * task.spacing_s, config.size)
    found = run_list(
        fabric, model, StreamedClips(clips, spec), len(clips), task,
        batch=batch, workers=workers, failed=failed,
    )  # fmt: skip
    return figures(found, clips, task)
