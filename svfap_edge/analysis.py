"""What an evaluation found: metrics with intervals, what each artifact lost, and a verdict.

analysis = analyse(Evaluation(task, "test.txt", ..., baseline=fp32, candidates=(int8,)))
for candidate in analysis.candidates:
    print(candidate.verdict)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from . import metrics
from .errors import InferenceError, SourceError, TaskError
from .metrics import Drop
from .tasks import Task

DEFAULT_LIMIT = 1.0
"""Points that a metric may drop when the user set no limit. Only the verdict uses it."""
MIN_FILES = 100
"""Below this a drop of 3 points can hide: of n files without a change, 3/n may change (95 %)."""
WIDEST = 6.0
"""Points from end to end of an interval (+-3) above which it may say nothing."""
SAME_SPEED = 0.05

Outcome = Literal["ship", "no gain", "slower", "unmeasured", "over limit", "too few", "drop"]
Right = Literal["baseline", "candidate", "neither"]


@dataclass(frozen=True, eq=False)
class ArtifactResult:
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
    baseline: ArtifactResult
    candidates: tuple[ArtifactResult, ...]
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


@dataclass(frozen=True)
class Metric:
    """A number and, for the primary metrics, its 95 % interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassScore:
    """One class: items, recall and F1 (nan without items)."""

    label: str
    count: int
    recall: float
    f1: float


@dataclass(frozen=True)
class OutputScore:
    """One continuous output; 1-MAE counts the error as a share of the task's range."""

    label: str
    pcc: float
    ccc: float
    one_minus_mae: float


@dataclass(frozen=True)
class Latency:
    """Of single clips, in milliseconds."""

    p50_ms: float
    p95_ms: float
    clips: int


@dataclass(frozen=True)
class ArtifactAnalysis:
    """One artifact by itself.

    Attributes:
        name: Of the artifact; with its bundle in front where names would be the same.
        metrics: Primary ones first, in the task's order.
        classes: Per class (classes only).
        outputs: Per output (values and traits only).
        confusion: Rows true, columns predicted (classes only).
        latency: None when not measured.
    """

    name: str
    bundle: str
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
    """Files that only one of the two gets right, and the exact p of no difference."""

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
    """One candidate against the baseline.

    Attributes:
        artifact: The candidate by itself.
        drops: Of the primary metrics, in the order of `artifact.metrics`.
        mcnemar: None for values and traits.
        agreement: Share of files with the same label; for values the mean PCC between the two.
        flips: Files with another label (classes only).
        speedup: Baseline p50 / candidate p50; None when not measured.
        outcome: Which rule of `judge` the verdict comes from.
        verdict: One line in plain words.
        passed: No primary metric drops by more than `max_drop`; None without a gate.
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
        task, kind, labels: Of the task.
        data, data_sha256: Where the files were listed.
        files: Number of files with an answer.
        missing: Names of the files without one.
        coverage: Share of all files that were answered.
        limit: Points used by the verdicts: max_drop, or `DEFAULT_LIMIT`.
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

    @property
    def passed(self) -> bool | None:
        """All candidates pass; None without a gate."""
        return None if self.max_drop is None else all(c.passed for c in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not known (nan) is None."""
        content: dict[str, Any] = _plain({"passed": self.passed, **asdict(self)})
        return content


def analyse(evaluation: Evaluation) -> Analysis:
    """Measure the baseline and every candidate, compare them, and judge (see `judge`).

    Intervals are 95 % percentile bootstrap over files; a drop resamples the files of both together.
    The same evaluation always gives the same numbers.
    """
    task, targets = evaluation.task, evaluation.targets
    results = (evaluation.baseline, *evaluation.candidates)
    baseline, *others = (
        replace(_measure(task, targets, result), name=name)
        for result, name in zip(results, _names(results), strict=True)
    )
    limit = DEFAULT_LIMIT if evaluation.max_drop is None else evaluation.max_drop
    answered, missing = len(evaluation.files), len(evaluation.missing)
    return Analysis(
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        data=evaluation.data,
        data_sha256=evaluation.data_sha256,
        files=answered,
        missing=evaluation.missing,
        coverage=answered / (answered + missing),
        max_drop=evaluation.max_drop,
        limit=limit,
        baseline=baseline,
        candidates=tuple(
            _compare(evaluation, result, baseline, artifact, limit)
            for result, artifact in zip(evaluation.candidates, others, strict=True)
        ),
        machine=dict(evaluation.machine),
        created=evaluation.created,
    )


def judge(
    drops: Sequence[Drop],
    files: int,
    limit: float,
    speedup: float | None,
    shrink: float,
) -> tuple[Outcome, Drop]:
    """The rules of the verdict, worst first; the first that any primary metric meets decides.

    1. "drop": it drops by more than the limit and the interval excludes 0. The drop is real.
    2. "too few": the interval is wider than +-3 points and includes both 0 and the limit, or there
       are fewer than `MIN_FILES` files. Nothing can be said.
    3. "over limit": it drops by more than the limit, but chance could explain it.

    Accuracy being fine, speed decides (within 5 % counts as the same):

    4. "unmeasured": no latencies.
    5. "slower": than the baseline.
    6. "no gain": as fast, and not at least 5 % smaller.
    7. "ship": faster; or as fast and smaller.

    Args:
        drops: Of the primary metrics, the first one most important.
        files: Number of files.
        limit: Points.
        speedup: Baseline p50 / candidate p50, if measured.
        shrink: Baseline size / candidate size.

    Returns:
        The rule, and the drop to show with it: the first that meets it, else the first of all.
    """
    over = [d for d in drops if d.points > limit + 1e-9]
    real = [d for d in over if d.low > 0]
    if real:
        return "drop", real[0]
    wide = [d for d in drops if d.high - d.low > WIDEST and d.low <= 0 and d.high >= limit]
    if wide or files < MIN_FILES:
        return "too few", (wide or list(drops))[0]
    if over:
        return "over limit", over[0]
    if speedup is None:
        return "unmeasured", drops[0]
    if speedup < 1 - SAME_SPEED:
        return "slower", drops[0]
    if speedup < 1 + SAME_SPEED and shrink < 1 + SAME_SPEED:
        return "no gain", drops[0]
    return "ship", drops[0]


def signed(points: float, digits: int = 1) -> str:
    """-0.4, +0.3; 0.0 without a sign."""
    text = f"{points:+.{digits}f}"
    return text if float(text) else text[1:]


def change_text(drop: Drop, limit: float | None = None) -> tuple[str, str]:
    """Change in points (value - baseline, negative is worse) and its interval, "-1.1 to +0.3".

    With a limit, a second decimal is shown where one would hide that the drop is over it.
    """
    digits = 2 if limit is not None and round(drop.points, 1) <= limit < drop.points else 1
    span = f"{signed(-drop.high, digits)} to {signed(-drop.low, digits)}"
    return signed(-drop.points, digits), span


def _compare(
    evaluation: Evaluation,
    result: ArtifactResult,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
    limit: float,
) -> CandidateAnalysis:
    drops = _drops(evaluation, result, baseline, artifact)
    speedup = None
    if baseline.latency and artifact.latency:
        speedup = baseline.latency.p50_ms / artifact.latency.p50_ms
    shrink = baseline.bytes / max(artifact.bytes, 1)
    files = len(evaluation.files)
    outcome, drop = judge(drops, files, limit, speedup, shrink)
    allowed = evaluation.max_drop
    classes = evaluation.task.kind == "classes"
    return CandidateAnalysis(
        artifact=artifact,
        drops=drops,
        mcnemar=_mcnemar(evaluation, result) if classes else None,
        agreement=_agreement(evaluation, result),
        flips=_flips(evaluation, result) if classes else (),
        speedup=speedup,
        outcome=outcome,
        verdict=_sentence(outcome, drop, baseline, artifact, files, limit, speedup),
        passed=None if allowed is None else all(d.points <= allowed + 1e-9 for d in drops),
    )


def _sentence(
    outcome: Outcome,
    drop: Drop,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
    files: int,
    limit: float,
    speedup: float | None,
) -> str:
    change, span = change_text(drop, limit)
    found = f"{artifact.name}: {drop.metric} {change} points (95 % {span})"
    if outcome == "drop":
        return f"{found}: the drop is real, do not"
    if outcome == "too few" and files < MIN_FILES:
        why = f"{files}, and below {MIN_FILES} a drop of 3 points can hide"
        return f"{artifact.name}: too few files to tell ({why}): evaluate on more"
    if outcome == "too few":
        return f"{artifact.name}: too few files to tell (95 % {span}): evaluate on more"
    if outcome == "over limit":
        return f"{found}: over the limit of {limit:g}, but it may be chance: evaluate on more"
    if speedup is None:
        return f"{found}, speed not measured: the accuracy holds, measure the speed"
    speed = _speed_text(speedup, baseline.name)
    if outcome == "slower":
        return f"{found}, {speed}: {_slower_text(artifact, baseline)}, do not"
    if outcome == "no gain":
        return f"{found}, {speed}: nothing gained, keep {baseline.name}"
    if speedup < 1 + SAME_SPEED:
        speed += f", {baseline.bytes / max(artifact.bytes, 1):.1f}x smaller"
    return f"{found}, {speed}: ship it"


def _speed_text(speedup: float, baseline: str) -> str:
    if speedup < 1 - SAME_SPEED:
        return f"{speedup:.1f}x the speed of {baseline}"
    if speedup < 1 + SAME_SPEED:
        return f"as fast as {baseline}"
    return f"{speedup:.1f}x faster than {baseline}"


def _slower_text(artifact: ArtifactAnalysis, baseline: ArtifactAnalysis) -> str:
    """Which kind of artifact is slower; by name where precision is not the difference."""
    ours, theirs = (a.precision.replace("int", "INT") for a in (artifact, baseline))
    if ours == theirs:
        return f"it is slower than {baseline.name} here"
    return f"{ours} is slower than {theirs} here"


def _measure(task: Task, targets: np.ndarray, result: ArtifactResult) -> ArtifactAnalysis:
    latency = None
    if result.latency_ms.size:
        p50, p95 = np.percentile(result.latency_ms, [50, 95])
        latency = Latency(float(p50), float(p95), int(result.latency_ms.size))
    values: tuple[Metric, ...]
    classes: tuple[ClassScore, ...] = ()
    outputs: tuple[OutputScore, ...] = ()
    matrix = np.zeros((0, 0), np.int64)
    if task.kind == "classes":
        predicted = _labels_of(result)
        matrix = metrics.confusion_matrix(targets, predicted, len(task.labels))
        values = _class_metrics(task, targets, predicted, matrix, result.scores)
        scores = zip(metrics.recalls(matrix), metrics.f1(matrix), strict=True)
        classes = tuple(
            ClassScore(label, int(matrix[i].sum()), float(recall), float(f1))
            for i, (label, (recall, f1)) in enumerate(zip(task.labels, scores, strict=True))
        )
    else:
        outputs = _output_scores(task, targets, result.scores)
        values = _output_metrics(task, targets, result.scores, outputs)
    return ArtifactAnalysis(
        name=result.name,
        bundle=result.bundle,
        engine=result.engine,
        precision=result.precision,
        bytes=result.bytes,
        metrics=values,
        classes=classes,
        outputs=outputs,
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        latency=latency,
    )


def _class_metrics(
    task: Task,
    targets: np.ndarray,
    predicted: np.ndarray,
    matrix: np.ndarray,
    scores: np.ndarray,
) -> tuple[Metric, ...]:
    correct = (predicted == targets)[:, None]
    draws = metrics.resampled_uar_war(targets, correct, len(task.labels))[:, :, 0]
    primary = _primary_first(
        task,
        Metric("UAR", metrics.uar(matrix), *metrics.interval(draws[:, 0])),
        Metric("WAR", metrics.war(matrix), *metrics.interval(draws[:, 1])),
    )
    return (
        *primary,
        Metric("macro F1", metrics.macro_f1(matrix)),
        Metric("weighted F1", metrics.weighted_f1(matrix)),
        Metric("ECE", metrics.ece(scores, targets)),
    )


def _output_scores(task: Task, targets: np.ndarray, scores: np.ndarray) -> tuple[OutputScore, ...]:
    span = task.high - task.low
    return tuple(
        OutputScore(label, metrics.pcc(x, y), metrics.ccc(x, y), metrics.one_minus_mae(x, y, span))
        for label, x, y in zip(task.labels, targets.T, scores.T, strict=True)
    )


def _output_metrics(
    task: Task, targets: np.ndarray, scores: np.ndarray, outputs: tuple[OutputScore, ...]
) -> tuple[Metric, ...]:
    draws = metrics.resampled_agreement(targets, scores, task.high - task.low)
    means = np.mean([(o.pcc, o.ccc, o.one_minus_mae) for o in outputs], axis=0)
    return _primary_first(
        task,
        *(
            Metric(name, float(mean), *metrics.interval(draws[:, i]))
            for i, (name, mean) in enumerate(zip(metrics.AGREEMENT, means, strict=True))
        ),
    )


def _primary_first(task: Task, *found: Metric) -> tuple[Metric, ...]:
    """In the order that the task's field reports them; what it does not report comes last."""
    order = {name: i for i, name in enumerate(task.metrics)}
    return tuple(sorted(found, key=lambda m: order.get(m.name, len(order))))


def _drops(
    evaluation: Evaluation,
    result: ArtifactResult,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
) -> tuple[Drop, ...]:
    task, targets = evaluation.task, evaluation.targets
    names: tuple[str, ...] = metrics.AGREEMENT
    if task.kind == "classes":
        names = ("UAR", "WAR")
        pair = [_labels_of(r) == targets for r in (evaluation.baseline, result)]
        draws = metrics.resampled_uar_war(targets, np.stack(pair, axis=1), len(task.labels))
        differences = draws[:, :, 0] - draws[:, :, 1]
    elif np.array_equal(evaluation.baseline.scores, result.scores):
        differences = np.zeros((1, len(names)))  # exactly, whatever order sums are taken in
    else:
        ours, theirs = (
            metrics.resampled_agreement(targets, r.scores, task.high - task.low)
            for r in (evaluation.baseline, result)
        )
        differences = ours - theirs
    column = {name: i for i, name in enumerate(names)}
    return tuple(
        Drop.from_resamples(ours.name, ours.value, theirs.value, differences[:, column[ours.name]])
        for ours, theirs in zip(baseline.metrics, artifact.metrics, strict=True)
        if ours.name in column
    )


def _mcnemar(evaluation: Evaluation, result: ArtifactResult) -> McNemar:
    ours, theirs = (_labels_of(r) == evaluation.targets for r in (evaluation.baseline, result))
    return McNemar(*metrics.mcnemar_exact(ours, theirs))


def _agreement(evaluation: Evaluation, result: ArtifactResult) -> float:
    ours, theirs = evaluation.baseline, result
    if evaluation.task.kind == "classes":
        return float(np.mean(_labels_of(ours) == _labels_of(theirs)))
    if np.array_equal(ours.scores, theirs.scores):
        return 1.0
    pairs = zip(ours.scores.T, theirs.scores.T, strict=True)
    return float(np.mean([metrics.pcc(x, y) for x, y in pairs]))


def _flips(evaluation: Evaluation, result: ArtifactResult) -> tuple[Flip, ...]:
    labels, targets = evaluation.task.labels, evaluation.targets
    ours, theirs = _labels_of(evaluation.baseline), _labels_of(result)
    flips = []
    for i in np.flatnonzero(ours != theirs):
        target, a, b = int(targets[i]), int(ours[i]), int(theirs[i])
        right: Right = "baseline" if a == target else "candidate" if b == target else "neither"
        flips.append(Flip(evaluation.files[i], labels[target], labels[a], labels[b], right))
    return tuple(flips)


def _labels_of(result: ArtifactResult) -> np.ndarray:
    return np.asarray(np.argmax(result.scores, axis=1))


def _names(results: Sequence[ArtifactResult]) -> list[str]:
    """Names to show: with the bundle in front where several bundles have the same one."""
    bundles = Counter(name for name, _ in {(r.name, r.bundle) for r in results})
    return [f"{r.bundle}/{r.name}" if bundles[r.name] > 1 else r.name for r in results]


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


def _check_scores(task: Task, result: ArtifactResult, files: int) -> None:
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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
