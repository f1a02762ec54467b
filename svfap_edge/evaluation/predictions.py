"""Predictions of artifacts for labelled files: the input of an analysis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from svfap_edge.errors import SourceError, TaskError
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
        TaskError: max_drop is negative or no number.
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
