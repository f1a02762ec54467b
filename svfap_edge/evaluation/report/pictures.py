"""The pictures of a report. matplotlib is imported when one is drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from svfap_edge.evaluation.analysis_types import Analysis
from svfap_edge.sinks.palette import PALETTE

from .tables import megabytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 4
PAGE_INCHES = 11.5  # more side by side would be too small to read
DPI = 150
LEAST_SPAN = 4.0  # points on the accuracy axis, so that noise does not look like a difference
GOOD, UNSURE, BAD = "#2f7d32", "#9a5b00", "#c0392b"
COLORS = ("#5c6b73", *(PALETTE[i] for i in (4, 1, 5, 2, 3, 7, 6, 8)))  # the baseline is grey
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Picture:
    """A PNG of the report; the text says what it shows to those who cannot see it."""

    name: str
    title: str
    text: str
    png: bytes

    @property
    def data_url(self) -> str:
        """The picture as an address that a page can hold."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    @property
    def width_px(self) -> int:
        """Width in CSS pixels: the one in the PNG's header at 96 dots an inch."""
        return int.from_bytes(self.png[16:20], "big") * 96 // DPI


def draw_pictures(analysis: Analysis) -> list[Picture]:
    from matplotlib import rc_context

    def add(draw: Callable[[Analysis], Figure], name: str, title: str, text: str) -> None:
        buffer = io.BytesIO()
        with rc_context({"text.parse_math": False}):  # a name may hold dollar signs
            figure = draw(analysis)
            figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
        pictures.append(Picture(name, title, text, buffer.getvalue()))

    pictures: list[Picture] = []
    if analysis.candidates:
        text = f"Change of each primary metric against {analysis.baseline.name}, with intervals"
        add(_draw_changes, "drop.png", "Change", text)
    if any(artifact.latency for artifact in analysis.artifacts):
        text = "Accuracy over the latency of one clip; the area of a point is the artifact's size"
        add(_draw_speed, "speed.png", "Speed and accuracy", text)
    if analysis.kind == "classes":
        text = "Confusion matrix of each artifact: rows are true classes, columns predicted ones"
        add(_draw_confusion, "confusion.png", "Confusion", text)
    return pictures


def _draw_changes(analysis: Analysis) -> Figure:
    """A dot and its interval for each candidate and primary metric; the limit, if one was set,
    dashed."""
    from matplotlib.figure import Figure

    limit = analysis.max_drop
    rows = [(c, drop) for c in analysis.candidates for drop in c.drops]
    figure = Figure(figsize=(9, 1.3 + 0.34 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, (_, drop) in enumerate(rows):
        over = drop.points > analysis.limit + 1e-9  # that of the verdicts, set or not
        color = BAD if over and drop.low > 0 else UNSURE if over else GOOD
        ax.plot([-drop.high, -drop.low], [y, y], color=color, lw=2, solid_capstyle="butt")
        ax.plot(-drop.points, y, "o", color=color, ms=7)
    ax.axvline(0, color="#333333", lw=1)
    for y in np.cumsum([len(c.drops) for c in analysis.candidates])[:-1]:
        ax.axhline(y - 0.5, color="#dddddd", lw=0.8)
    edges = [v for _, d in rows for v in (-d.high, -d.low)] + [0.0, -(limit or 0)]
    margin = 0.06 * (max(edges) - min(edges)) + 0.05
    ax.set(
        xlim=(min(edges) - margin, max(edges) + margin),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel=f"points against {analysis.baseline.name} (left is worse; bars: 95 % interval)",
    )
    short = _short_names(analysis)
    names = [f"{short[c.artifact.name]}  {drop.metric}" for c, drop in rows]
    ax.set_yticks(range(len(rows)), names)
    if limit is not None:
        ax.axvline(-limit, color=BAD, lw=1, ls="--")
        ax.annotate(
            f"limit {-limit:g}", (-limit, 1), (0, 4), ha="center", fontsize=8, color=BAD,
            xycoords=("data", "axes fraction"), textcoords="offset points",
        )  # fmt: skip
    _tidy(ax)
    ax.grid(axis="x", color="#eeeeee")
    return figure


def _draw_speed(analysis: Analysis) -> Figure:
    """The first primary metric over p50; a legend names the points, so no label can overlap."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    artifacts = analysis.artifacts
    metric = analysis.baseline.metrics[0].name
    factor = 100 if analysis.kind == "classes" else 1
    largest = max(a.bytes for a in artifacts) or 1
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    points, handles, short = [], [], _short_names(analysis)
    for i, artifact in enumerate(artifacts):
        if artifact.latency is None:
            continue
        look: dict[str, Any] = {
            "marker": MARKERS[i % len(MARKERS)], "color": COLORS[i % len(COLORS)],
            "label": f"{short[artifact.name]}, {megabytes(artifact.bytes)} MB",
        }  # fmt: skip
        x, y = artifact.latency.p50_ms, factor * artifact.metrics[0].value
        points.append((x, y))
        area = 40 + 460 * artifact.bytes / largest
        ax.scatter(x, y, s=area, alpha=0.8, edgecolor="white", zorder=3 - area / 1000, **look)
        handles.append(Line2D([], [], ls="", ms=7, **look))
    xs, ys = zip(*points, strict=True)
    _scale_latencies(ax, xs)
    half = max(0.7 * (max(ys) - min(ys)), LEAST_SPAN * factor / 200)
    middle = (max(ys) + min(ys)) / 2
    ax.set(
        ylim=(middle - half, middle + half),
        ylabel=f"{metric} (%)" if factor == 100 else metric,
        xlabel="latency of one clip, p50 (ms; left is faster)",
    )
    _tidy(ax)
    ax.grid(color="#eeeeee")
    figure.legend(
        handles=handles, loc="outside right upper", frameon=False, fontsize=9,
        title="area: size", title_fontsize=8, alignment="left",
    )  # fmt: skip
    return figure


def _scale_latencies(ax: Axes, latencies_ms: Sequence[float]) -> None:
    """From zero; logarithmic where the slowest takes more than ten times the fastest."""
    from matplotlib.ticker import LogLocator, NullLocator

    fastest, slowest = min(latencies_ms), max(latencies_ms)
    if slowest > 10 * fastest:
        ax.set(xscale="log", xlim=(fastest / 1.6, slowest * 1.6))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.set_xlim(0, 1.15 * slowest)


def _draw_confusion(analysis: Analysis) -> Figure:
    """Matrices side by side, the baseline first; each row of one sums to 100 %."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    artifacts = analysis.artifacts
    labels = [_short(label, 14) for label in analysis.labels]
    short = _short_names(analysis)
    side = max(2.2, 0.36 * len(labels) + 0.3)
    columns = max(1, min(PANELS_PER_ROW, len(artifacts), int(PAGE_INCHES / side)))
    rows = -(-len(artifacts) // columns)
    margin = 0.085 * max(len(label) for label in labels)  # inches that the class names take
    size = (columns * side + margin + 0.6, rows * (side + margin + 0.6) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colors = LinearSegmentedColormap.from_list("share", ["#ffffff", "#9cc4e4", "#12507b"])
    for ax, artifact in zip(grid.flat, artifacts, strict=False):
        _draw_matrix(ax, np.array(artifact.confusion), labels, colors)
        value = artifact.metrics[0]
        ax.set_title(
            f"{short[artifact.name]}{' (baseline)' if artifact is artifacts[0] else ''}\n"
            f"{value.name} {100 * value.value:.1f} %",
            fontsize=9,
        )
    for ax in grid[:, 0]:
        ax.set_ylabel("true", fontsize=9)
    for ax in grid.flat[len(artifacts) :]:
        ax.set_axis_off()
    figure.supxlabel("predicted (numbers: % of the true class)", fontsize=9)
    return figure


def _draw_matrix(ax: Axes, matrix: np.ndarray, labels: Sequence[str], colors: Any) -> None:
    count = len(labels)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap=colors, vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            ax.text(
                column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5,
                color="white" if value > 0.78 else "#1d2329",
            )  # fmt: skip
    ax.set_xticks(range(count), labels, rotation=90, fontsize=8)
    ax.set_yticks(range(count), labels, fontsize=8)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_color("#cccccc")


def _tidy(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    for name, side in ax.spines.items():
        side.set_visible(name == "bottom")


def _short_names(analysis: Analysis) -> dict[str, str]:
    """Shortened names of the artifacts; the full ones where two would become the same."""
    names = [artifact.name for artifact in analysis.artifacts]
    short = {name: _short(name) for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in names}


def _short(text: str, width: int = 30) -> str:
    """Shortened in the middle: names that differ often do so at their end."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"
