"""Evaluation as a deployment reads a recording: a clip every hop, by capture time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from svfap_edge.clip import ClipSpec, FrameBuffer
from svfap_edge.datalist import IMAGE_SUFFIXES
from svfap_edge.errors import SvfapError, UnreadableClip
from svfap_edge.sources import open_source
from svfap_edge.tasks import Task
from svfap_edge.training.augment import centre
from svfap_edge.training.clips import LabelledClips, Unreadable
from svfap_edge.training.evaluation import figures, run_list
from svfap_edge.training.model import TPSBTConfig

HOP_S = 0.5
LEAST_COVERAGE = 0.5  # what a stream of the runtime asks for
MOST_CLIPS = 240
"""Clips of one recording at most: two minutes of it."""


@dataclass(frozen=True)
class StreamedClips(Dataset[Any]):
    """Index to (index, (clips, T, S, S, 3) uint8), or the reason why there are none."""

    clips: LabelledClips
    spec: ClipSpec

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray | UnreadableClip]:
        path = self.clips.items[index].path
        try:
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
                return index, centre(self.clips.read(index, view=0), self.spec.size)[None]
            return index, np.stack(streamed_clips(path, self.spec))
        except UnreadableClip as error:
            return index, error
        except SvfapError as error:
            return index, UnreadableClip(str(path), str(error).rstrip("."))


def streamed_clips(path: Path, spec: ClipSpec) -> list[np.ndarray]:
    """Clips (T, S, S, 3) of a recording: one as soon as half of its slots are filled, then one
    every hop. A recording shorter than that gives its last frames, the missing slots repeated."""
    buffer = FrameBuffer(spec)
    found: list[np.ndarray] = []
    due_s: float | None = None
    with open_source(str(path)) as source:
        for frame in source:
            buffer.add(centre(frame.image[None], spec.size)[0], frame.timestamp_s)
            ready = buffer.coverage(frame.timestamp_s) >= LEAST_COVERAGE
            if ready and (due_s is None or frame.timestamp_s >= due_s - 1e-3):
                due_s = (frame.timestamp_s if due_s is None else due_s) + HOP_S
                found.append(buffer.sample(frame.timestamp_s).frames)
                if len(found) == MOST_CLIPS:
                    return found
    if found:
        return found
    if buffer.last_s is None:
        raise UnreadableClip(str(path), "holds no frame")
    return [buffer.sample(buffer.last_s).frames]


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
