"""Analysis of an evaluation: metrics with intervals, what each artifact lost, and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from svfap_edge import metrics
from svfap_edge.lists import absent_classes
from svfap_edge.tasks import Task

from . import intervals
from .analysis_types import (
    Analysis,
    ArtifactAnalysis,
    ArtifactPredictions,
    CandidateAnalysis,
    ClassScore,
    Drop,
    Evaluation,
    Flip,
    Latency,
    McNemar,
    Metric,
    OutputScore,
    Right,
)
from .verdict import judge, sentence

DEFAULT_LIMIT = 1.0
"""Points that a metric may drop when the user set no limit. Only the verdict uses it."""


def analyse(evaluation: Evaluation) -> Analysis:
    """Measure the baseline and every candidate, compare them, and judge (see `verdict.judge`).

    Intervals are 95 % percentile bootstrap over files; a drop resamples the files of both together.
    The same evaluation always gives the same numbers.
    """
    task, targets = evaluation.task, evaluation.targets
    results = (evaluation.baseline, *evaluation.candidates)
    baseline, *others = (
        _measure(task, targets, result, name)
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
        unreadable=dict(evaluation.unreadable),
        lost=dict(evaluation.lost),
        busy=evaluation.busy,
        note=absent_classes(targets, task),
    )


def _compare(
    evaluation: Evaluation,
    result: ArtifactPredictions,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
    limit: float,
) -> CandidateAnalysis:
    drops = _drops(evaluation, result, baseline, artifact)
    mcnemar = None
    if evaluation.task.kind == "classes":
        right = [r.predicted == evaluation.targets for r in (evaluation.baseline, result)]
        mcnemar = McNemar(*metrics.mcnemar_exact(*right))
    speedup = None
    if baseline.latency and artifact.latency:
        speedup = baseline.latency.p50_ms / artifact.latency.p50_ms
    shrink = baseline.bytes / max(artifact.bytes, 1)
    files = len(evaluation.files)
    outcome, drop = judge(drops, files, limit, speedup, shrink)
    allowed = evaluation.max_drop
    return CandidateAnalysis(
        artifact=artifact,
        drops=drops,
        mcnemar=mcnemar,
        agreement=_agreement(evaluation, result),
        flips=_flips(evaluation, result) if mcnemar else (),
        speedup=speedup,
        outcome=outcome,
        verdict=sentence(outcome, drop, baseline, artifact, files, limit, speedup),
        passed=None if allowed is None else all(d.points <= allowed + 1e-9 for d in drops),
    )


def _measure(
    task: Task, targets: np.ndarray, result: ArtifactPredictions, name: str
) -> ArtifactAnalysis:
    latency = None
    if result.latency_ms.size:
        p50, p95 = np.percentile(result.latency_ms, [50, 95])
        latency = Latency(float(p50), float(p95), int(result.latency_ms.size))
    values: tuple[Metric, ...]
    classes: tuple[ClassScore, ...] = ()
    outputs: tuple[OutputScore, ...] = ()
    matrix = np.zeros((0, 0), np.int64)
    if task.kind == "classes":
        matrix = metrics.confusion_matrix(targets, result.predicted, len(task.labels))
        values = _class_metrics(task, targets, result, matrix)
        scores = zip(metrics.recalls(matrix), metrics.f1(matrix), strict=True)
        classes = tuple(
            ClassScore(label, int(matrix[i].sum()), float(recall), float(f1))
            for i, (label, (recall, f1)) in enumerate(zip(task.labels, scores, strict=True))
        )
    else:
        span = task.high - task.low
        outputs = tuple(
            OutputScore(
                label, metrics.pcc(x, y), metrics.ccc(x, y), metrics.one_minus_mae(x, y, span)
            )
            for label, x, y in zip(task.labels, targets.T, result.scores.T, strict=True)
        )
        values = _output_metrics(task, targets, result.scores, outputs)
    order = {metric: place for place, metric in enumerate(task.metrics)}
    return ArtifactAnalysis(
        name=name,
        artifact=result.name,
        bundle=result.bundle,
        path=result.path,
        engine=result.engine,
        precision=result.precision,
        bytes=result.bytes,
        # In the order in which the field reports them; what it does not report comes last.
        metrics=tuple(sorted(values, key=lambda m: order.get(m.name, len(order)))),
        classes=classes,
        outputs=outputs,
        confusion=tuple(tuple(int(v) for v in row) for row in matrix),
        latency=latency,
    )


def _class_metrics(
    task: Task, targets: np.ndarray, result: ArtifactPredictions, matrix: np.ndarray
) -> tuple[Metric, ...]:
    correct = (result.predicted == targets)[:, None]
    draws = intervals.resampled_uar_war(targets, correct, len(task.labels))[:, :, 0]
    return (
        Metric("UAR", metrics.uar(matrix), *intervals.interval(draws[:, 0])),
        Metric("WAR", metrics.war(matrix), *intervals.interval(draws[:, 1])),
        Metric("macro F1", metrics.macro_f1(matrix)),
        Metric("weighted F1", metrics.weighted_f1(matrix)),
        Metric("ECE", metrics.ece(result.scores, targets)),
    )


def _output_metrics(
    task: Task, targets: np.ndarray, scores: np.ndarray, outputs: tuple[OutputScore, ...]
) -> tuple[Metric, ...]:
    draws = intervals.resampled_agreement(targets, scores, task.high - task.low)
    means = np.mean([(o.pcc, o.ccc, o.one_minus_mae) for o in outputs], axis=0)
    return tuple(
        Metric(name, float(mean), *intervals.interval(draws[:, i]))
        for i, (name, mean) in enumerate(zip(intervals.AGREEMENT, means, strict=True))
    )


def _drops(
    evaluation: Evaluation,
    result: ArtifactPredictions,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
) -> tuple[Drop, ...]:
    task, targets = evaluation.task, evaluation.targets
    names: tuple[str, ...] = intervals.AGREEMENT
    if task.kind == "classes":
        names = ("UAR", "WAR")
        pair = [r.predicted == targets for r in (evaluation.baseline, result)]
        draws = intervals.resampled_uar_war(targets, np.stack(pair, axis=1), len(task.labels))
        differences = draws[:, :, 0] - draws[:, :, 1]
    elif np.array_equal(evaluation.baseline.scores, result.scores):
        differences = np.zeros((1, len(names)))  # exactly, whatever order sums are taken in
    else:
        ours, theirs = (
            intervals.resampled_agreement(targets, r.scores, task.high - task.low)
            for r in (evaluation.baseline, result)
        )
        differences = ours - theirs
    column = {name: i for i, name in enumerate(names)}
    return tuple(
        Drop.from_resamples(ours.name, ours.value, theirs.value, differences[:, column[ours.name]])
        for ours, theirs in zip(baseline.metrics, artifact.metrics, strict=True)
        if ours.name in column
    )


def _agreement(evaluation: Evaluation, result: ArtifactPredictions) -> float:
    ours, theirs = evaluation.baseline, result
    if evaluation.task.kind == "classes":
        return float(np.mean(ours.predicted == theirs.predicted))
    if np.array_equal(ours.scores, theirs.scores):
        return 1.0
    pairs = zip(ours.scores.T, theirs.scores.T, strict=True)
    return float(np.mean([metrics.pcc(x, y) for x, y in pairs]))


def _flips(evaluation: Evaluation, result: ArtifactPredictions) -> tuple[Flip, ...]:
    labels, targets = evaluation.task.labels, evaluation.targets
    ours, theirs = evaluation.baseline.predicted, result.predicted
    flips = []
    for i in np.flatnonzero(ours != theirs):
        target, a, b = int(targets[i]), int(ours[i]), int(theirs[i])
        right: Right = "baseline" if a == target else "candidate" if b == target else "neither"
        flips.append(Flip(evaluation.files[i], labels[target], labels[a], labels[b], right))
    return tuple(flips)


def _names(results: Sequence[ArtifactPredictions]) -> list[str]:
    """Names to show: with the bundle in front where several bundles have the same one."""
    bundles = Counter(name for name, _ in {(r.name, r.path) for r in results})
    return [f"{r.bundle}/{r.name}" if bundles[r.name] > 1 else r.name for r in results]
