"""Curves and pictures of a training run: `report.json`, `report.png`, reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from svfap_edge.atomic import json_text, write_text_atomically
from svfap_edge.tasks import Task

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
    """Write the report of a run: all figures, and a picture of curves, confusion and recall.

    Args:
        history: Figures of each epoch.
        final: Figures of the best weights by list ("val", "test") and protocol ("published",
            "streaming"); empty for pre-training.
        task: Task of the run; None for pre-training.
        unreadable: As `Objective.join_logs` gives it.
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
        from matplotlib.figure import Figure
    except ImportError:
        return  # the picture needs the extra "report"
    matrix, title = _confusion(final)
    numbers = {n: None for row in history for n, v in row.items() if isinstance(v, (int, float))}
    others = [n for n in numbers if n not in (*LOSSES, "epoch", "unreadable")]
    curves = partial(_curves, history=history)
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
    figure.savefig(folder / "report.png", dpi=110)


def _confusion(final: Mapping[str, Mapping[str, Any]]) -> tuple[np.ndarray | None, str]:
    """The confusion matrix of the test list, or of the validation list, and its title."""
    for name, title in (("test", "test list"), ("val", "validation list")):
        figures = final.get(name, {}).get("published", {})
        if "confusion" in figures:
            return np.array(figures["confusion"]), f"Confusion, {title}"
    return None, ""


def _curves(
    axis: Any, history: Sequence[Mapping[str, Any]], names: Sequence[str], title: str
) -> None:
    for index, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        if points:
            x, y = zip(*points, strict=True)
            # Curves that coincide stay visible: each is thinner than the one under it, and dashed.
            axis.plot(
                x, y, color=colour, label=f"{name} {y[-1]:.3f}", lw=max(1.2, 4.5 - index),
                ls=(index, (4, 3)) if index else "-", marker="." if len(x) < 30 else "",
            )  # fmt: skip
    axis.set_title(title, color=INK, loc="left")
    axis.set_xlabel("epoch")
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


ROWS = ("input", "masked", "reconstruction")
MASK_GREY = 128
# Pixels: least side of a frame, gap between frames, width of a label, height of the header.
CELL, GAP, LABEL_WIDTH, HEADER = 96, 4, 112, 20


def reconstruction_picture(
    clips: np.ndarray, hidden: np.ndarray, rebuilt: np.ndarray, *, columns: int = 4
) -> np.ndarray:
    """Input, masked input and reconstruction of evenly spaced frames, as RGB (H, W, 3) uint8.

    Args:
        clips: (B, 3, T, S, S) RGB in 0..1; they are stacked.
        hidden: (B, 1, T, S, S) bool, the masked pixels, from `masked.pixel_mask`.
        rebuilt: The reconstructions, in the shape of `clips`.
        columns: Number of frames shown of each clip.
    """
    steps = clips.shape[2]
    shown = np.linspace(0, steps - 1, min(columns, steps)).round().astype(int)
    rows = []
    for original, cover, result in zip(clips, hidden, rebuilt, strict=True):
        frames, results = _frames(original, shown), _frames(result, shown)
        covered = np.where(cover[0, shown, ..., None], np.uint8(MASK_GREY), frames)
        rows += [_row(*pair) for pair in zip(ROWS, (frames, covered, results), strict=True)]
    return np.concatenate([_header(shown, rows[0].shape[1]), *rows])


def _frames(clip: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The shown frames (n, S, S, 3) uint8 of a clip (3, T, S, S) in 0..1."""
    frames = clip[:, shown].transpose(1, 2, 3, 0)
    return (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)


def _row(label: str, frames: np.ndarray) -> np.ndarray:
    """A label with frames beside it; small frames are enlarged by a whole factor."""
    factor = -(-CELL // frames.shape[1])
    large = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    cells = np.pad(large, ((0, 0), (0, GAP), (0, GAP), (0, 0)))
    strip = np.zeros((cells.shape[1], LABEL_WIDTH, 3), np.uint8)
    _write(strip, label, (GAP, strip.shape[0] // 2))
    return np.concatenate([strip, *cells], axis=1)


def _header(shown: np.ndarray, width: int) -> np.ndarray:
    header = np.zeros((HEADER, width, 3), np.uint8)
    step = (width - LABEL_WIDTH) // len(shown)
    for column, frame in enumerate(shown):
        _write(header, f"frame {frame}", (LABEL_WIDTH + column * step, HEADER - 6))
    return header


def _write(canvas: np.ndarray, text: str, origin: tuple[int, int]) -> None:
    white = (255, 255, 255)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.42, white, 1, cv2.LINE_AA)
