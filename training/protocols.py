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
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from svfap_edge import metrics
from svfap_edge.clip import ClipSpec, FrameBuffer, SampledClip, SlotGrid, fit_face
from svfap_edge.errors import SvfapError, TrainingError, UnreadableClip
from svfap_edge.media import IMAGE_SUFFIXES
from svfap_edge.schedule import HOP_S, ClipSchedule
from svfap_edge.sources.opening import open_source
from svfap_edge.tasks import Task
from svfap_edge.training.clips.augment import centre
from svfap_edge.training.clips.reading import LabelledClips, Unreadable

from .model import IMAGENET_MEAN, IMAGENET_STD


def one_thread(worker: int) -> None:
    """Loader processes share the cores already."""
    cv2.setNumThreads(0)


def normalize(clips: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 RGB to the model's (B, 3, T, H, W) float32."""
    mean = torch.tensor(IMAGENET_MEAN, device=clips.device)
    std = torch.tensor(IMAGENET_STD, device=clips.device)
    return ((clips.float() / 255 - mean) / std).permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class EvaluationClips(Dataset[Any]):
    """All clips by which the items of a list are judged.

    Attributes:
        clips: The list.
        spec: Geometry of a clip; the published protocol only uses the side of the square.
        streaming: Whether the protocol is the streaming one.
    """

    clips: LabelledClips
    spec: ClipSpec
    streaming: bool

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | UnreadableClip]:
        """(index, clips (n, T, S, S, 3) uint8), or (index, the reason why there are none)."""
        try:
            return index, self._streamed(index) if self.streaming else self._views(index)
        except UnreadableClip as error:
            return index, error
        except SvfapError as error:
            path = self.clips.items[index].path
            return index, UnreadableClip(str(path), str(error).rstrip("."))

    def _views(self, index: int) -> np.ndarray:
        views = range(self.clips.sampling.views)
        return np.stack([centre(self.clips.read(index, view=n), self.spec.size) for n in views])

    def _streamed(self, index: int) -> np.ndarray:
        path = self.clips.items[index].path
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            clip = np.empty(self.spec.shape, np.uint8)
            fit_face(self.clips.read(index, view=0)[0], clip[0])
            clip[1:] = clip[0]
            return clip[None]
        return np.stack([clip.frames for clip in streamed_clips(path, self.spec)])


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
) -> np.ndarray:
    """Probabilities or values (n, L) of a list, NaN where unreadable; the same in all processes.

    Args:
        model: It must not be wrapped by a strategy, which would wait in each forward pass for
            processes that may have nothing to read. Its buffers are the same in all processes.
        dataset: Maps an index to what `EvaluationClips` gives.
        count: Number n of items.
        batch: Greatest number of clips given to the model at once.
        failed: Counts what this process cannot read; by default up to 1 % of the items.
    """
    model.eval()
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
    # Every item is in one process only, so a sum joins them exactly.
    values, seen = sum_of_all(fabric, values), sum_of_all(fabric, seen)
    wrong = int((~values.isfinite().all(1)).sum())
    if wrong:
        raise TrainingError(
            f"The model answers {wrong} of {count} items with NaN or infinity. Evaluate it in "
            "run.precision=32-true; if it does so there, too, its weights are spoilt."
        )
    values[seen == 0] = torch.nan
    return values.cpu().numpy()


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


def figures(outputs: np.ndarray, clips: LabelledClips, task: Task) -> dict[str, Any]:
    """Metrics of the outputs of `run_list`: what the field reports for the kind of task.

    Returns:
        Names in lower case ("uar", "war", ...; "recall" by label and "confusion" for classes;
        "pcc", "ccc" and "1-mae" meaned over values), and "unreadable", a count.
    """
    good = np.isfinite(outputs).all(axis=1)
    values, targets = outputs[good], clips.targets[good]
    row: dict[str, Any] = {"unreadable": int((~good).sum())}
    if task.kind == "classes":
        return row | class_figures(targets, values.argmax(1), task.labels)
    closeness = partial(metrics.one_minus_mae, span=task.high - task.low)
    for name, metric in (("pcc", metrics.pcc), ("ccc", metrics.ccc), ("1-mae", closeness)):
        columns = zip(targets.T, values.T, strict=True)
        row[name] = float(np.mean([metric(*pair) for pair in columns]))
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


MOST_CLIPS = 240  # of one recording: two minutes of it


def streamed_clips(path: Path, spec: ClipSpec, hop_s: float = HOP_S) -> list[SampledClip]:
    """The clips of a recording that a stream with default coverage would predict, at most
    `MOST_CLIPS`. A recording too short for one gives its last frames, the missing slots repeated.
    """
    buffer, schedule = FrameBuffer(spec, SlotGrid(spec.spacing_s)), ClipSchedule(spec, hop_s)
    found: list[SampledClip] = []
    with open_source(str(path)) as source:
        for frame in source:
            if frame.gap:
                buffer.clear()
            if not buffer.add(frame.image, frame.timestamp_s):
                continue
            due = schedule.due(buffer)
            if due is not None:
                found.append(buffer.sample(due))
                if len(found) == MOST_CLIPS:
                    return found
    if found:
        return found
    if buffer.slot is None:
        raise UnreadableClip(str(path), "holds no frame")
    return [buffer.sample(buffer.slot)]
