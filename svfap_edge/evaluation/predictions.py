"""Predictions of artifacts for labelled files: the input of an analysis, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from svfap_edge.errors import InferenceError, SourceError, TaskError
from svfap_edge.tasks import Task


@dataclass(frozen=True, eq=False)
class ArtifactPredictions:
    """Predictions of one artifact.

    Attributes:
        name: Name of the artifact in its bundle, like "int8.openvino".
        bundle: Name that tells the bundle from the others of the evaluation.
        path: Folder of the bundle.
        engine: Engine that ran the artifact.
        precision: Precision that the engine really used, like "int8+bf16".
        bytes: Size of the artifact's files.
        scores: (n, L) probabilities for a task of classes, values otherwise.
        latency_ms: (k,) times of single clips in milliseconds; empty when not measured.
    """

    name: str
    bundle: str
    path: str
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
    """Predictions of several artifacts for the same labelled files.

    Attributes:
        task: The task that all artifacts share.
        data: Name of the list or folder of labelled files.
        data_sha256: Digest of that list; empty for a folder.
        files: Names of the n files, in the order of targets and scores.
        targets: (n,) int class indexes, or (n, L) values.
        missing: Files without a prediction (unreadable, no face); they are not in `files`.
        baseline: The artifact that the candidates are compared with.
        candidates: The other artifacts; they may include the baseline itself.
        machine: Description of the machine: processor, instruction sets, versions.
        created: Time of the evaluation, ISO 8601.
        max_drop: Points that a primary metric may drop by at most; None for no limit.

    Raises:
        SourceError: There is a prediction for no file.
        TaskError: Targets do not fit the task or the files; max_drop is negative or no number.
        InferenceError: Scores have another shape, are not finite, or are not probabilities.
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
                f"No file of '{self.data}' could be evaluated ({len(self.missing)} without a "
                "prediction). Check the paths in the list, and that faces are found."
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
            f"'{result.name}' predicted {scores.shape}; expected {expected} for {files} files."
        )
    if not np.all(np.isfinite(scores)):
        raise InferenceError(f"'{result.name}' predicted values that are not finite (nan, inf).")
    if task.kind == "classes":
        sums = scores.sum(axis=1, dtype=np.float64)
        if scores.min() < -1e-3 or np.abs(sums - 1).max() > 0.02:
            raise InferenceError(
                f"'{result.name}': scores of a task of classes must be probabilities that sum to "
                f"1; got sums {sums.min():.3g}..{sums.max():.3g}. Apply softmax."
            )
