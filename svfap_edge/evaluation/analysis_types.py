"""The input and the result of an analysis as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from svfap_edge.atomic import without_nan
from svfap_edge.errors import SourceError, TaskError
from svfap_edge.tasks import Task

from .intervals import interval


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
        data_sha256: Digest of that list; of a folder that of its files' names, labels and contents.
        files: Names of the n files, in the order of targets and scores.
        targets: (n,) int class indexes, or (n, L) values.
        missing: Files without a prediction (unreadable, no face); they are not in `files`.
        baseline: The artifact that the candidates are compared with.
        candidates: The other artifacts; they may include the baseline itself.
        machine: Description of the machine: processor, instruction sets, versions.
        created: Time of the evaluation, ISO 8601.
        max_drop: Points that a primary metric may drop by at most; None for no limit.
        unreadable: Why some of `missing` could not be read, by their names.
        lost: By label, for those that lost some: the number of readable files without a face that
            the detector finds, and that of all readable files.
        busy: A sentence where other processes took much of the processor during the timing.

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
    unreadable: dict[str, str] = field(default_factory=dict)
    lost: dict[str, tuple[int, int]] = field(default_factory=dict)
    busy: str | None = None

    def __post_init__(self) -> None:
        if not self.files:
            nobody = (
                "No face was found in any. If they are crops of faces, give --detector none; "
                "--detect-size auto finds small faces."
            )
            why = next(iter(self.unreadable.values()), nobody)
            raise SourceError(
                f"No file of '{self.data}' could be evaluated ({len(self.missing)} without a "
                f"prediction, {len(self.unreadable)} of them unreadable). {why}"
            )
        if self.max_drop is not None and not (self.max_drop >= 0 and math.isfinite(self.max_drop)):
            raise TaskError(f"The allowed drop must be 0 or more points; got {self.max_drop}.")


@dataclass(frozen=True)
class Drop:
    """How much a metric fell from the baseline. Positive is worse.

    Attributes:
        metric: Name of the metric, like "UAR".
        baseline: Value of the baseline, at most 1.
        value: Value of the candidate, at most 1.
        points: 100 * (baseline - value).
        low, high: 95 % interval of `points`, from resampling the items of both together.
    """

    metric: str
    baseline: float
    value: float
    points: float
    low: float
    high: float

    @classmethod
    def from_resamples(
        cls, metric: str, baseline: float, value: float, differences: np.ndarray
    ) -> Drop:
        """A drop whose interval comes from (R,) resampled differences baseline - value."""
        low, high = interval(100 * differences)
        return cls(metric, baseline, value, 100 * (baseline - value), low, high)


Outcome = Literal["ship", "no gain", "slower", "unmeasured", "over limit", "too few", "drop"]
"""Which rule of `verdict.judge` decided."""

Right = Literal["baseline", "candidate", "neither"]


@dataclass(frozen=True)
class Metric:
    """A number and, for the primary metrics, its 95 % interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """Number of items, recall and F1 of one class (nan without items)."""

    label: str
    count: int
    recall: float
    f1: float


@dataclass(frozen=True)
class OutputScore:
    """Metrics of one continuous output; 1-MAE takes the error as a share of the task's range."""

    label: str
    pcc: float
    ccc: float
    one_minus_mae: float


@dataclass(frozen=True)
class Latency:
    """Latency of single clips in milliseconds."""

    p50_ms: float
    p95_ms: float
    clips: int


@dataclass(frozen=True)
class ArtifactAnalysis:
    """Figures of one artifact by itself.

    Attributes:
        name: Name to show: the artifact's, with its bundle in front where two would be the same.
        artifact: Name of the artifact in its bundle.
        bundle, path, engine, precision, bytes: As in `ArtifactPredictions`.
        metrics: All metrics, the primary ones first, in the task's order.
        classes: Figures of each class (classes only).
        outputs: Figures of each output (values and traits only).
        confusion: Counts, true classes as rows and predicted ones as columns (classes only).
        latency: Latency of single clips; None when not measured.
    """

    name: str
    artifact: str
    bundle: str
    path: str
    engine: str
    precision: str
    bytes: int
    metrics: tuple[Metric, ...]
    classes: tuple[ClassScore, ...]
    outputs: tuple[OutputScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    latency: Latency | None


@dataclass(frozen=True)
class McNemar:
    """Numbers of files that only one of the two gets right, and the exact p of no difference."""

    only_baseline: int
    only_candidate: int
    p: float


@dataclass(frozen=True)
class Flip:
    """A file to which the two give different labels, and who is right."""

    file: str
    target: str
    baseline: str
    candidate: str
    right: Right


@dataclass(frozen=True)
class CandidateAnalysis:
    """One candidate compared with the baseline.

    Attributes:
        drops: Drops of the primary metrics, in the order of `artifact.metrics`.
        mcnemar: McNemar's test; None for values and traits.
        agreement: Share of files with the same label; for values the mean PCC between the two.
        flips: Files with another label (classes only).
        speedup: Baseline p50 / candidate p50; None when not measured.
        outcome: Rule of `verdict.judge` that the verdict comes from.
        verdict: One line in plain words.
        passed: Whether no primary metric drops by more than `max_drop`; None without a limit.
    """

    artifact: ArtifactAnalysis
    drops: tuple[Drop, ...]
    mcnemar: McNemar | None
    agreement: float
    flips: tuple[Flip, ...]
    speedup: float | None
    outcome: Outcome
    verdict: str
    passed: bool | None


@dataclass(frozen=True)
class Analysis:
    """Everything a report says.

    Attributes:
        task, kind, labels: Name, kind and output order of the task.
        files: Number of files with a prediction.
        coverage: Share of all files that have a prediction.
        data, data_sha256, missing, unreadable, lost, busy, machine, created, max_drop: As in
            `Evaluation`.
        note: A sentence about classes that no file has, or None.
        limit: Points used by the verdicts: max_drop, or `analysis.DEFAULT_LIMIT`.
    """

    task: str
    kind: str
    labels: tuple[str, ...]
    data: str
    data_sha256: str
    files: int
    missing: tuple[str, ...]
    coverage: float
    max_drop: float | None
    limit: float
    baseline: ArtifactAnalysis
    candidates: tuple[CandidateAnalysis, ...]
    machine: dict[str, str]
    created: str
    unreadable: dict[str, str] = field(default_factory=dict)
    lost: dict[str, tuple[int, int]] = field(default_factory=dict)
    busy: str | None = None
    note: str | None = None

    @property
    def artifacts(self) -> tuple[ArtifactAnalysis, ...]:
        """Figures of the baseline, then those of the candidates."""
        return (self.baseline, *(c.artifact for c in self.candidates))

    @property
    def lost_text(self) -> str:
        """`lost` in words, "sad 3 of 9, ..."; empty where nothing is lost."""
        return ", ".join(f"{label} {n:,} of {total:,}" for label, (n, total) in self.lost.items())

    @property
    def passed(self) -> bool | None:
        """Whether all candidates pass; None without a limit."""
        return None if self.max_drop is None else all(c.passed for c in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not known (nan) is None."""
        content: dict[str, Any] = without_nan({"passed": self.passed, **asdict(self)})
        return content
