"""What artifacts answered to labelled files: the input of an analysis, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from svfap_edge.errors import InferenceError, SourceError, TaskError
from svfap_edge.tasks import Task


@dataclass(frozen=True, eq=False)
class ArtifactPredictions:
    """What one artifact answered.

    Attributes:
        name: In its bundle, like "int8.openvino".
        bundle: Name of the bundle.
        engine: That ran it.
        precision: That it really ran in, like "int8+bf16".
        bytes: Size of the artifact.
        scores: (n, L) softmax for a task of classes, else values.
        latency_ms: (k,) of single clips; empty when not measured.
    """

    name: str
    bundle: str
    engine: str
    precision: str
    bytes: int
    scores: np.ndarray
    latency_ms: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """(n,) int: the class with the highest score."""
        return np.asarray(np.argmax(self.scores, axis=1))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Answers of several artifacts to the same labelled files.

    Attributes:
        task: Of all artifacts.
        data: Where the files were listed.
        data_sha256: Of that list.
        files: (n) names, in the order of targets and scores.
        targets: (n,) int for classes, else (n, L).
        missing: Files without an answer (unreadable, no face); not in `files`.
        baseline: What the candidates are compared with.
        candidates: May include the baseline itself.
        machine: Facts: processor, instruction sets, versions.
        created: Time, ISO 8601.
        max_drop: Points that no primary metric may drop by more than; None: no gate.

    Raises:
        SourceError: no file was answered.
        TaskError: targets do not fit the task or the files; max_drop is negative or not a number.
        InferenceError: scores have another shape, are not finite, or are not probabilities.
    """

    task: Task
    data: str
    data_sha256: str
    files: tuple[str, ...]
    targets: np.ndarray
    missing: tuple[str, ...]
    baseline: ArtifactPredictions
    candidates: tuple[ArtifactPredictions, ...]
    machine: dict[str, str]
    created: str
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise SourceError(
                f"No file of '{self.data}' could be evaluated ({len(self.missing)} without an "
                "answer). Check the paths in the list, and that faces are found."
            )
        if self.max_drop is not None and not (self.max_drop >= 0 and math.isfinite(self.max_drop)):
            raise TaskError(f"The allowed drop must be 0 or more points; got {self.max_drop}.")
        _check_targets(self.task, self.targets, len(self.files))
        for artifact in (self.baseline, *self.candidates):
            _check_scores(self.task, artifact, len(self.files))


def _check_targets(task: Task, targets: np.ndarray, files: int) -> None:
    labels = len(task.labels)
    if task.kind == "classes":
        if targets.shape != (files,) or not np.issubdtype(targets.dtype, np.integer):
            raise TaskError(
                f"Expected ({files},) class indexes as targets; got {targets.shape} "
                f"{targets.dtype}."
            )
        if targets.min() < 0 or targets.max() >= labels:
            raise TaskError(
                f"Task '{task.name}' has classes 0..{labels - 1}; the targets hold "
                f"{targets.min()}..{targets.max()}."
            )
    elif targets.shape != (files, labels) or not np.all(np.isfinite(targets)):
        raise TaskError(
            f"Expected ({files}, {labels}) numbers as targets ({', '.join(task.labels)}); got "
            f"{targets.shape}, or values that are not finite."
        )


def _check_scores(task: Task, result: ArtifactPredictions, files: int) -> None:
    scores, expected = result.scores, (files, len(task.labels))
    if scores.shape != expected:
        raise InferenceError(
            f"'{result.name}' answered {scores.shape}; expected {expected} for {files} files."
        )
    if not np.all(np.isfinite(scores)):
        raise InferenceError(f"'{result.name}' answered values that are not finite (nan, inf).")
    if task.kind == "classes":
        sums = scores.sum(axis=1, dtype=np.float64)
        if scores.min() < -1e-3 or np.abs(sums - 1).max() > 0.02:
            raise InferenceError(
                f"'{result.name}': scores of a task of classes must be probabilities that sum to "
                f"1; got sums {sums.min():.3g}..{sums.max():.3g}. Apply softmax."
            )
