"""The timeline picture: everyone's scores over time, under frames of the video."""

from __future__ import annotations

import io
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.runtimes import Prediction
from svfap_edge.sources.frames import Gap
from svfap_edge.tasks import Task

from .fonts import drawable, families, require_fonts
from .history import History
from .palette import PALETTE
from .paths import PLOT_SUFFIXES, check_writable
from .sink import Sink

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PEOPLE = 12
THUMBNAILS = 7
NO_PREDICTION = "#e2e2e2"
THUMBNAIL_WIDTH = 240


class Timeline(Sink):
    """Collects predictions and a few small frames; draws a PNG when closed. Of a long run it keeps
    fewer and fewer of each time, so that memory stays bounded; see `History`."""

    def __init__(self, path: Path, task: Task, title: str, *, camera: str | None = None) -> None:
        """The task gives the order and the range of the scores; `camera` is None where there is
        only one. DependencyMissing without matplotlib; SourceError if the file cannot be
        written."""
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise DependencyMissing(
                'The timeline picture needs matplotlib: pip install "svfap-edge[report]", '
                "or leave out --plot."
            ) from error
        require_fonts(task.labels)
        check_writable(path)
        self.camera = camera
        self._path = path
        self._task = task
        self._title = drawable(title)
        self._history = History()
        self._thumbnails: list[tuple[float, np.ndarray]] = []
        self._thumbnail_step_s = 0.05
        self._end_s = 0.0

    def write(self, camera: str | None, perception: Perception) -> None:
        time_s, image = perception.timestamp_s, perception.image
        self._end_s = time_s
        for prediction in perception.predictions:
            self._history.predict(prediction)
        self._take_states(perception.changes)
        last = self._thumbnails[-1][0] if self._thumbnails else -1e9
        if time_s - last >= self._thumbnail_step_s:
            scale = THUMBNAIL_WIDTH / image.shape[1]
            height = max(1, round(scale * image.shape[0]))
            small = cv2.resize(image, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
            self._thumbnails.append((time_s, small))
            if len(self._thumbnails) > 8 * THUMBNAILS:  # keep few, evenly spread
                self._thumbnails = self._thumbnails[::2]
                self._thumbnail_step_s *= 2

    def missing(self, camera: str | None, gap: Gap, changes: list[StateChange]) -> None:
        self._end_s = gap.timestamp_s
        self._take_states(tuple(changes))

    def end(self, camera: str | None, changes: list[StateChange], summary: dict[str, Any]) -> None:
        self._take_states(tuple(changes))

    def close(self) -> None:
        """Draw what was collected; also after a run that was broken off."""
        if self._thumbnails:
            self._draw()

    def _take_states(self, changes: tuple[StateChange, ...]) -> None:
        for change in changes:
            self._history.change(change)

    def _draw(self) -> None:
        from matplotlib import rc_context

        fonts = families((*self._task.labels, *self._title))  # a title may mix scripts
        with rc_context({"font.family": fonts}):
            self._draw_figure()

    def _draw_figure(self) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        kept = self._history.people
        people = sorted(
            (name for name, person in kept.items() if person.count),
            key=lambda name: -kept[name].count,
        )
        shown = people[:MAX_PEOPLE] or ["nobody"]
        height, width = self._thumbnails[0][1].shape[:2]
        strip = min(2.5, 11.2 / THUMBNAILS * height / width)  # inches, keeps their aspect
        sizes = [strip] + [1.7] * len(shown)
        figure = Figure(figsize=(12, sum(sizes) + 1.3), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(sizes), 1, height_ratios=sizes, squeeze=False)[:, 0]
        span = (0.0, max(self._end_s, 0.1))
        self._draw_thumbnails(axes[0], span)
        for ax, name in zip(axes[1:], shown, strict=True):
            self._draw_person(ax, name, span)
        span_s = self._history.span_s
        lag = f"; scores are of the {span_s:.1f} s before" if span_s else ""
        axes[-1].set_xlabel(f"time (s){lag}")
        figure.suptitle(self._title, fontsize=11)
        colors = {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(self._task.labels)}
        colors["no prediction"] = NO_PREDICTION
        handles = [Patch(facecolor=color, label=label) for label, color in colors.items()]
        if people:
            figure.legend(
                handles=handles, loc="outside lower center", ncols=min(7, len(handles)),
                frameon=False,
            )  # fmt: skip
        left_out = len(people) - len(shown) + self._history.forgotten
        if left_out > 0:
            figure.text(0.99, 0.01, f"{left_out} more people not shown", ha="right", fontsize=8)
        suffix = self._path.suffix.lower()
        drawn = io.BytesIO()
        figure.savefig(drawn, format=suffix[1:] if suffix in PLOT_SUFFIXES else "png")
        try:
            self._path.write_bytes(drawn.getbuffer())
        except OSError as error:
            raise SourceError(f"Cannot write the picture '{self._path}': {error}") from error

    def _draw_thumbnails(self, ax: Axes, span: tuple[float, float]) -> None:
        times = np.array([t for t, _ in self._thumbnails])
        height, width = self._thumbnails[0][1].shape[:2]
        slot = (span[1] - span[0]) / THUMBNAILS
        for number in range(THUMBNAILS):
            center = span[0] + slot * (number + 0.5)
            _, image = self._thumbnails[int(np.abs(times - center).argmin())]
            ax.imshow(
                cv2.resize(image, (width, height)),
                extent=(center - 0.49 * slot, center + 0.49 * slot, 0, 1),
                aspect="auto",
            )
        ax.set(xlim=span, ylim=(0, 1), yticks=[], xticks=[])
        for side in ax.spines.values():
            side.set_visible(False)

    def _draw_person(self, ax: Axes, name: str, span: tuple[float, float]) -> None:
        person = self._history.people.get(name)
        predictions = person.predictions if person else []
        labels = self._task.labels
        colors = [PALETTE[i % len(PALETTE)] for i in range(len(labels))]
        low, high = (0, 1) if self._task.kind == "classes" else (self._task.low, self._task.high)
        ax.set_facecolor(NO_PREDICTION)
        for segment in _segments(predictions):
            times = [p.end_s for p in segment]
            rows = np.array([[p.scores[label] for label in labels] for p in segment]).T
            if self._task.kind == "classes":
                hop = float(np.median(np.diff(times))) if len(times) > 1 else 0.5
                edges = np.append(times, times[-1] + hop)
                steps = np.append(rows, rows[:, -1:], axis=1)
                ax.stackplot(edges, steps, colors=colors, step="post", lw=0)
                self._write_labels(ax, segment, hop, span[1] - span[0])
            else:
                ax.axvspan(times[0], times[-1], color="white", lw=0)
                for row, color in zip(rows, colors, strict=True):
                    ax.plot(times, row, color=color, marker="o", ms=3)
        for since, until in self._history.unsure(name, span[1]):
            ax.axvspan(since, until, color=NO_PREDICTION, lw=0)
        ax.set(xlim=span, ylim=(low, high), ylabel=name)
        if not predictions:
            ax.set(yticks=[], ylabel="")
            ax.text(
                0.5, 0.5, "no clip with enough frames of a face",
                transform=ax.transAxes, ha="center", va="center", color="#666666",
            )  # fmt: skip

    @staticmethod
    def _write_labels(ax: Axes, segment: list[Prediction], hop_s: float, length_s: float) -> None:
        """The label once over each run of equal labels that is wide enough to hold it."""
        for label, run in groupby(segment, key=lambda p: p.label):
            group = list(run)
            start, end = group[0].end_s, group[-1].end_s + hop_s
            if (end - start) / length_s < 0.009 * len(label or ""):
                continue
            score = np.mean([p.score for p in group if p.score is not None])
            ax.text(
                (start + end) / 2, 0.05, f"{label} {score:.0%}", fontsize=8, ha="center",
                bbox={"fc": "white", "alpha": 0.8, "ec": "none", "pad": 1.5}, clip_on=True,
            )  # fmt: skip


def _segments(predictions: list[Prediction]) -> list[list[Prediction]]:
    """Split where predictions pause for more than 1.8 times the usual hop."""
    if len(predictions) < 2:
        return [predictions] if predictions else []
    gaps = np.diff([p.end_s for p in predictions])
    limit = 1.8 * float(np.median(gaps))
    cuts = [0, *(i + 1 for i, gap in enumerate(gaps) if gap > limit), len(predictions)]
    return [predictions[a:b] for a, b in pairwise(cuts)]
