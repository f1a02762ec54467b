"""What a report says, as tables and sentences of plain text; page and Markdown lay them out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svfap_edge.evaluation.analysis_types import (
    Analysis,
    ArtifactAnalysis,
    CandidateAnalysis,
    Metric,
)
from svfap_edge.evaluation.verdict import change_text

NOTES = {
    "classes": (
        "UAR (unweighted average recall) is the mean recall of the classes, WAR the accuracy. "
        "Small numbers are 95 % bootstrap intervals; a change resamples the files of both "
        "artifacts together, so it is known more precisely than either value. ECE (calibration "
        "error) is how far confidence is from accuracy, lower is better."
    ),
    "values": (
        "Each is the mean over the outputs: PCC Pearson's correlation, CCC Lin's concordance, "
        "1-MAE one minus the mean absolute error as a share of the task's range. Small numbers "
        "are 95 % bootstrap intervals; a change resamples the files of both artifacts together."
    ),
}
NOTES["traits"] = NOTES["values"]


@dataclass(frozen=True)
class Table:
    """Text of a table, for the page and for Markdown alike.

    Attributes:
        title, header: Heading of the table, and of each column.
        rows: Text of the cells; a second line in a cell follows a newline.
        words: Number of columns of words, on the left; the others are numbers, aligned right.
        note: Paragraph below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


def title_of(analysis: Analysis) -> str:
    names = [c.artifact.name for c in analysis.candidates]
    if not names:
        return f"{analysis.task}: {analysis.baseline.name}"
    shown = ", ".join(names) if len(names) <= 3 else f"{len(names)} artifacts"
    return f"{analysis.task}: {shown} against {analysis.baseline.name}"


def summary_of(analysis: Analysis) -> str:
    total = analysis.files + len(analysis.missing)
    text = f"{analysis.files:,} files of {analysis.data}"
    if analysis.missing:
        text += f"; {len(analysis.missing):,} of {total:,} had no prediction and are not counted"
    if analysis.passed is not None:
        result = "passed" if analysis.passed else "failed"
        text += f". Gate (no primary metric may drop over {analysis.max_drop:g} points): {result}"
    return text + "."


def tables_of(analysis: Analysis) -> list[Table]:
    tables = [_accuracy_table(analysis)]
    if analysis.candidates:
        tables.append(_comparison_table(analysis))
    tables.append(_speed_table(analysis))
    if analysis.kind == "classes":
        tables.append(_class_table(analysis))
    elif len(analysis.labels) > 1:
        tables.append(_output_table(analysis))
    return tables


def _accuracy_table(analysis: Analysis) -> Table:
    baseline = analysis.baseline
    unit = " %" if analysis.kind == "classes" else ""
    header = ["Artifact"]
    for metric in baseline.metrics:
        header += [metric.name + unit] + (["change"] if metric.low is not None else [])
    rows = [_accuracy_row(analysis, baseline, None)]
    rows += [_accuracy_row(analysis, c.artifact, c) for c in analysis.candidates]
    note = f"Change in points (hundredths) against {baseline.name}; negative is worse. "
    return Table("Accuracy", tuple(header), tuple(rows), note=note + NOTES[analysis.kind])


def _accuracy_row(
    analysis: Analysis, artifact: ArtifactAnalysis, candidate: CandidateAnalysis | None
) -> tuple[str, ...]:
    drops = {drop.metric: drop for drop in candidate.drops} if candidate else {}
    row = [artifact.name if candidate else f"{artifact.name}\nbaseline"]
    for metric in artifact.metrics:
        row.append(_with_interval(analysis, metric))
        if metric.name in drops:
            row.append("\n".join(change_text(drops[metric.name])))
        elif metric.low is not None:
            row.append("")
    return tuple(row)


def _with_interval(analysis: Analysis, metric: Metric) -> str:
    value = _number(analysis, metric.value)
    if metric.low is None or metric.high is None:
        return value
    return f"{value}\n{_number(analysis, metric.low)} to {_number(analysis, metric.high)}"


def _number(analysis: Analysis, value: float) -> str:
    """Classes in percent, correlations as they are; a dash for what is not known."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if analysis.kind == "classes" else f"{value:.3f}"


def _comparison_table(analysis: Analysis) -> Table:
    classes = analysis.kind == "classes"
    header = ["Candidate", "same label" if classes else "PCC between the two"]
    header += ["only baseline right", "only candidate right", "p (McNemar)"] if classes else []
    header += ["gate"] if analysis.max_drop is not None else []
    rows = []
    for c in analysis.candidates:
        row = [c.artifact.name, f"{c.agreement:.1%}" if classes else f"{c.agreement:.4f}"]
        if c.mcnemar:
            p = "< 0.001" if c.mcnemar.p < 0.001 else f"{c.mcnemar.p:.3f}"
            row += [f"{c.mcnemar.only_baseline:,}", f"{c.mcnemar.only_candidate:,}", p]
        if c.passed is not None:
            row.append("passed" if c.passed else "failed")
        rows.append(tuple(row))
    note = (
        "p: how often a difference at least this uneven would come by chance if both were "
        "equally good; below 0.05 it hardly is chance."
    )
    title = f"Agreement with {analysis.baseline.name}"
    return Table(title, tuple(header), tuple(rows), note=note if classes else "")


def _speed_table(analysis: Analysis) -> Table:
    speedups = [None, *(c.speedup for c in analysis.candidates)]
    rows: list[tuple[str, ...]] = []
    for artifact, speedup in zip(analysis.artifacts, speedups, strict=True):
        latency = artifact.latency
        times = (f"{latency.p50_ms:.1f}", f"{latency.p95_ms:.1f}") if latency else ("–", "–")
        speed = "–" if speedup is None else f"{speedup:.2f}x"
        size = megabytes(artifact.bytes)
        columns = (artifact.name, artifact.bundle, artifact.engine, artifact.precision)
        rows.append((*columns, size, *times, speed if rows else ""))
    header = ("Artifact", "bundle", "engine", "precision", "MB", "p50 ms", "p95 ms", "speed")
    clips = max((a.latency.clips for a in analysis.artifacts if a.latency), default=0)
    note = (
        f"One clip at a time, {clips:,} times: half of the predictions came within p50, 95 % "
        f"within p95. Speed against {analysis.baseline.name}."
    )
    title = "Speed and size" if clips else "Size (speed was not measured)"
    return Table(title, header, tuple(rows), words=4, note=note if clips else "")


def _class_table(analysis: Analysis) -> Table:
    rows = []
    for i, label in enumerate(analysis.labels):
        recalls = [_number(analysis, a.classes[i].recall) for a in analysis.artifacts]
        rows.append((label, f"{analysis.baseline.classes[i].count:,}", *recalls))
    header = ("Class", "files", *(artifact.name for artifact in analysis.artifacts))
    return Table("Recall of each class, %", header, tuple(rows))


def _output_table(analysis: Analysis) -> Table:
    fields = {"PCC": "pcc", "CCC": "ccc", "1-MAE": "one_minus_mae"}
    rows = []
    for i, label in enumerate(analysis.labels):
        for metric in analysis.baseline.metrics:
            values = [getattr(a.outputs[i], fields[metric.name]) for a in analysis.artifacts]
            rows.append((label, metric.name, *(_number(analysis, value) for value in values)))
    header = ("Output", "metric", *(artifact.name for artifact in analysis.artifacts))
    return Table("Each output", header, tuple(rows), words=2)


def changed_table(analysis: Analysis, candidate: CandidateAnalysis) -> Table:
    """The files that the candidate gives another label than the baseline."""
    count = len(candidate.flips)
    title = f"{candidate.artifact.name}: {count:,} file{'' if count == 1 else 's'} changed label"
    header = ("file", "true", analysis.baseline.name, "candidate", "right")
    rows = tuple((f.file, f.target, f.baseline, f.candidate, f.right) for f in candidate.flips)
    return Table(title, header, rows, words=5)


def details_table(analysis: Analysis) -> Table:
    found = f"{analysis.files:,} of {analysis.files + len(analysis.missing):,}"
    gate = "none" if analysis.max_drop is None else f"at most {analysis.max_drop:g} points"
    rows = (
        ("data", analysis.data),
        ("SHA-256 of the data", analysis.data_sha256),
        ("files with a prediction", f"{found} ({analysis.coverage:.1%})"),
        *([("without a face, by label", analysis.lost_text)] if analysis.lost else []),
        ("task", f"{analysis.task}: {', '.join(analysis.labels)}"),
        ("allowed drop", gate),
        ("created", analysis.created),
        *([("speed", analysis.busy)] if analysis.busy else []),
        *analysis.machine.items(),
    )
    return Table("Data and machine", ("", ""), rows, words=2)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size >= 1e5 else f"{size / 1e6:.3f}"
