"""What a finished training run leaves for people: `report.json` and `report.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.tasks import Task
from svfap_edge.training.files import json_text, write_text_atomically

INK = "#1f2933"
COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83", "#8c510a")
LOSSES = ("loss", "val_loss")


def write_report(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    final: Mapping[str, Mapping[str, Any]],
    task: Task | None,
    unreadable: Mapping[str, Mapping[str, str]],
) -> None:
    """Write the report of a run.

    Args:
        history: Figures of each epoch.
        final: List ("val", "test") to protocol to figures of the best weights; empty for
            pre-training.
        unreadable: List ("train", "val", "test") to files that could not be read, and why.
    """
    content = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": task.to_dict() if task else None,
        "epochs": len(history),
        "final": final,
        "history": list(history),
        "unreadable": {path: why for found in unreadable.values() for path, why in found.items()},
    }
    write_text_atomically(folder / "report.json", json_text(content, indent=1) + "\n")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return  # the numbers are there; pictures need the extra "report"
    draw(folder / "report.png", history, final, task)


def draw(
    path: Path,
    history: Sequence[Mapping[str, Any]],
    final: Mapping[str, Mapping[str, Any]],
    task: Task | None,
    progress: str = "epoch",
) -> None:
    """Curves, and for classes the confusion matrix and the recall of each class.

    Args:
        progress: Key of `history` that the curves run over.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix, title = _confusion(final)
    others = [n for n in _numbers(history) if n not in (*LOSSES, "unreadable", progress)]
    curves = partial(_curves, history=history, progress=progress)
    panels = [partial(curves, names=LOSSES, title="Loss")]
    if others:
        panels.append(partial(curves, names=others, title="Validation"))
    if matrix is not None and task is not None:
        panels.append(partial(_matrix, matrix=matrix, labels=task.labels, title=title))
        panels.append(partial(_recall, matrix=matrix, labels=task.labels))
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        panel(axis)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def _numbers(history: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for row in history:
        found.update(
            {n: None for n, v in row.items() if isinstance(v, (int, float)) and n != "epoch"}
        )
    return list(found)


def _confusion(final: Mapping[str, Mapping[str, Any]]) -> tuple[np.ndarray | None, str]:
    for name in ("test", "val"):
        figures = final.get(name, {}).get("published", {})
        if "confusion" in figures:
            where = {"test": "test list", "val": "validation list"}[name]
            return np.array(figures["confusion"]), f"Confusion, {where}"
    return None, ""


def _curves(
    axis: Any, history: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, progress: str
) -> None:
    for name, colour in zip(names, COLOURS, strict=False):
        points = [(row[progress], row[name]) for row in history if row.get(name) is not None]
        if points:
            x, y = zip(*points, strict=True)
            axis.plot(x, y, color=colour, label=name, marker="." if len(x) < 30 else "")
    axis.set_title(title, color=INK, loc="left")
    axis.set_xlabel(progress)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.get_lines():
        axis.legend(frameon=False)


def _matrix(axis: Any, matrix: np.ndarray, labels: Sequence[str], title: str) -> None:
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        dark = shares[row, column] > 0.6
        axis.text(
            column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8,
            color="white" if dark else INK,
        )  # fmt: skip
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("labelled")
    axis.set_title(title, color=INK, loc="left")


def _recall(axis: Any, matrix: np.ndarray, labels: Sequence[str]) -> None:
    counts = matrix.sum(1)
    recall = matrix.diagonal() / np.maximum(1, counts)
    places = np.arange(len(labels))
    axis.barh(places, recall, color=COLOURS[0])
    for place, (value, count) in enumerate(zip(recall, counts, strict=True)):
        axis.text(value + 0.02, place, f"{value:.2f} of {count}", va="center")
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.45)
    axis.set_xticks([0, 0.5, 1])
    axis.set_title("Recall", color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
