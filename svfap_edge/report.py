"""The report of an evaluation: one page to read, its text, its pictures and its numbers."""

from __future__ import annotations

import base64
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .analysis import Analysis, ArtifactAnalysis, CandidateAnalysis, Flip, Metric, change_text
from .errors import DependencyMissing, SourceError
from .sinks import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = ("report.json", "report.md", "report.html", "confusion.png", "drop.png", "speed.png")
"""All that a report folder may hold; one that holds anything else is never replaced."""

PANELS_PER_ROW = 4
PAGE_INCHES = 11.5  # more side by side would be too small to read
DPI = 150
FLIPS_ON_PAGE = 500
FLIPS_IN_TEXT = 20
LEAST_SPAN = 4.0  # points on the accuracy axis, so that noise does not look like a difference

GOOD, UNSURE, BAD = "#2f7d32", "#9a5b00", "#c0392b"
TONES = {"ship": "good", "drop": "bad", "slower": "bad"}  # of the verdicts; others "unsure"
COLORS = ("#5c6b73", *(PALETTE[i] for i in (4, 1, 5, 2, 3, 7, 6, 8)))  # the baseline is grey
MARKERS = "osD^vPX*"

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
        title: Above it.
        header: Of each column.
        rows: Cells; a second line in a cell follows a newline.
        words: Columns of words, from the left; the others are numbers and go to the right.
        note: Below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG of the report: file name, heading, what it shows for those who cannot see it."""

    name: str
    title: str
    text: str
    png: bytes


def write_report(analysis: Analysis, folder: Path) -> list[Path]:
    """Write report.html, report.md, report.json and the pictures; return their paths.

    All is written beside the folder first and then moved, so a report that fails leaves nothing.
    A folder that is there is replaced if it is empty or holds an earlier report and nothing else.

    Raises:
        DependencyMissing: matplotlib is not installed.
        SourceError: the folder holds something else, or cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DependencyMissing(
            'The report needs matplotlib: pip install "svfap-edge[report]", or leave out --report.'
        ) from error
    _check_replaceable(folder)
    pictures = _pictures(analysis)
    content = {
        "report.json": json.dumps(
            analysis.to_json(), indent=2, ensure_ascii=False, allow_nan=False
        ).encode(),
        "report.md": _markdown(analysis, pictures).encode(),
        "report.html": _page(analysis, pictures).encode(),
        **{picture.name: picture.png for picture in pictures},
    }
    try:
        _replace(folder, content)
    except OSError as error:
        raise SourceError(f"Cannot write the report '{folder}': {error}") from error
    return [folder / name for name in content]


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and folder.absolute().parent.is_dir():
        return
    if not folder.is_dir():
        raise SourceError(
            f"Cannot write the report '{folder}': it is a file, or its parent folder is missing."
        )
    names = {path.name for path in folder.iterdir()}
    foreign = sorted(names - set(FILES))
    if names and (foreign or "report.json" not in names):
        held = ", ".join((foreign or sorted(names))[:3])
        raise SourceError(
            f"'{folder}' is not an earlier report: it holds {held}. Nothing was changed; choose "
            "a new folder for the report."
        )


def _replace(folder: Path, content: dict[str, bytes]) -> None:
    folder = folder.absolute()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        for name, data in content.items():
            (new / name).write_bytes(data)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise


def _tables(analysis: Analysis) -> list[Table]:
    tables = [_accuracy_table(analysis)]
    if analysis.candidates:
        tables.append(_comparison_table(analysis))
    tables.append(_speed_table(analysis))
    if analysis.kind == "classes":
        tables.append(_class_table(analysis))
    elif len(analysis.labels) > 1:
        tables.append(_output_table(analysis))
    return tables


def _artifacts(analysis: Analysis) -> list[ArtifactAnalysis]:
    return [analysis.baseline, *(c.artifact for c in analysis.candidates)]


def _number(analysis: Analysis, value: float) -> str:
    """Classes in percent, correlations as they are; a dash for what is not known."""
    if not np.isfinite(value):
        return "–"
    return f"{100 * value:.1f}" if analysis.kind == "classes" else f"{value:.3f}"


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
    for artifact, speedup in zip(_artifacts(analysis), speedups, strict=True):
        latency = artifact.latency
        times = (f"{latency.p50_ms:.1f}", f"{latency.p95_ms:.1f}") if latency else ("–", "–")
        speed = "–" if speedup is None else f"{speedup:.2f}x"
        size = _megabytes(artifact.bytes)
        facts = (artifact.name, artifact.bundle, artifact.engine, artifact.precision)
        rows.append((*facts, size, *times, speed if rows else ""))
    header = ("Artifact", "bundle", "engine", "precision", "MB", "p50 ms", "p95 ms", "speed")
    clips = max((a.latency.clips for a in _artifacts(analysis) if a.latency), default=0)
    note = (
        f"One clip at a time, {clips:,} times: half of the answers came within p50, 95 % within "
        f"p95. Speed against {analysis.baseline.name}."
    )
    title = "Speed and size" if clips else "Size (speed was not measured)"
    return Table(title, header, tuple(rows), words=4, note=note if clips else "")


def _class_table(analysis: Analysis) -> Table:
    artifacts = _artifacts(analysis)
    rows = [
        (
            label,
            f"{analysis.baseline.classes[i].count:,}",
            *(_number(analysis, artifact.classes[i].recall) for artifact in artifacts),
        )
        for i, label in enumerate(analysis.labels)
    ]
    header = ("Class", "files", *(artifact.name for artifact in artifacts))
    return Table("Recall of each class, %", header, tuple(rows))


def _output_table(analysis: Analysis) -> Table:
    artifacts = _artifacts(analysis)
    fields = {"PCC": "pcc", "CCC": "ccc", "1-MAE": "one_minus_mae"}
    rows = [
        (
            label,
            metric.name,
            *(_number(analysis, getattr(a.outputs[i], fields[metric.name])) for a in artifacts),
        )
        for i, label in enumerate(analysis.labels)
        for metric in analysis.baseline.metrics
    ]
    header = ("Output", "metric", *(artifact.name for artifact in artifacts))
    return Table("Each output", header, tuple(rows), words=2)


def _flip_table(analysis: Analysis, flips: Sequence[Flip]) -> Table:
    header = ("file", "true", analysis.baseline.name, "candidate", "right")
    rows = tuple((f.file, f.target, f.baseline, f.candidate, f.right) for f in flips)
    return Table("", header, rows, words=5)


def _facts(analysis: Analysis) -> Table:
    found = f"{analysis.files:,} of {analysis.files + len(analysis.missing):,}"
    gate = "none" if analysis.max_drop is None else f"at most {analysis.max_drop:g} points"
    rows = (
        ("data", analysis.data),
        ("SHA-256 of the list", analysis.data_sha256),
        ("files answered", f"{found} ({analysis.coverage:.1%})"),
        ("task", f"{analysis.task}: {', '.join(analysis.labels)}"),
        ("allowed drop", gate),
        ("created", analysis.created),
        *analysis.machine.items(),
    )
    return Table("Data and machine", ("", ""), rows, words=2)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}" if size >= 1e5 else f"{size / 1e6:.3f}"


def _title(analysis: Analysis) -> str:
    names = [c.artifact.name for c in analysis.candidates]
    if not names:
        return f"{analysis.task}: {analysis.baseline.name}"
    shown = ", ".join(names) if len(names) <= 3 else f"{len(names)} artifacts"
    return f"{analysis.task}: {shown} against {analysis.baseline.name}"


def _summary(analysis: Analysis) -> str:
    total = analysis.files + len(analysis.missing)
    text = f"{analysis.files:,} files of {analysis.data}"
    if analysis.missing:
        text += f"; {len(analysis.missing):,} of {total:,} had no answer and are not counted"
    if analysis.passed is not None:
        result = "passed" if analysis.passed else "failed"
        text += f". Gate (no primary metric may drop over {analysis.max_drop:g} points): {result}"
    return text + "."


def _markdown(analysis: Analysis, pictures: Sequence[Picture]) -> str:
    parts = [f"# {_cell(_title(analysis))}", _cell(_summary(analysis))]
    verdicts = [f"- {_cell(c.verdict)}" for c in analysis.candidates]
    parts += ["## Verdicts", "\n".join(verdicts)] if verdicts else []
    for table in _tables(analysis):
        parts += [f"## {_cell(table.title)}", _markdown_table(table), _cell(table.note)]
    for picture in pictures:
        parts += [f"## {_cell(picture.title)}", f"![{_cell(picture.text)}]({picture.name})"]
    for c in analysis.candidates:
        if c.flips:
            parts += [f"## {_cell(_flips_title(c))}"]
            parts += [_markdown_table(_flip_table(analysis, c.flips[:FLIPS_IN_TEXT]))]
            more = len(c.flips) - FLIPS_IN_TEXT
            parts += [f"{more:,} more are in report.json."] if more > 0 else []
    parts += ["## Data and machine", _markdown_table(_facts(analysis))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    align = ["---" if i < table.words else "---:" for i in range(len(table.header))]
    rows = ([_cell(c) for c in row] for row in (table.header, *table.rows))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(align) + " |", *lines[1:]])


def _cell(text: str) -> str:
    """Safe in Markdown: a second line in brackets, nothing read as markup."""
    first, *rest = text.split("\n")
    text = first + (f" ({' '.join(rest)})" if rest else "")
    return re.sub(r"([\\`*_|\[\]<>])", r"\\\1", text)


def _flips_title(candidate: CandidateAnalysis) -> str:
    count = len(candidate.flips)
    return f"{candidate.artifact.name}: {count:,} {'file' if count == 1 else 'files'} changed label"


STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #5a6570; --line: #dfe3e8;
  --page: #ffffff; --card: #f5f7f9; --good: #2f7d32; --unsure: #9a5b00; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #9aa5b0; --line: #363e47;
  --page: #14181c; --card: #1d2329; --good: #6cc070; --unsure: #e2a64a; --bad: #f0776a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem; background: var(--page);
  color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, small { color: var(--soft); }
.soft { font-size: .875rem; }
ul.verdicts { list-style: none; margin: 1.4rem 0; padding: 0; }
ul.verdicts li { background: var(--card); border-left: .35rem solid var(--unsure);
  border-radius: .25rem; margin: .6rem 0; padding: .7rem 1rem; overflow-wrap: anywhere; }
ul.verdicts li.good { border-color: var(--good); }
ul.verdicts li.bad { border-color: var(--bad); }
li b { color: var(--unsure); } li.good b { color: var(--good); } li.bad b { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .4rem .8rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.word, td.word { text-align: left; }
td.word { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
th:first-child, td:first-child { padding-left: 0; }
td small { display: block; font-size: .78rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; border-radius: .25rem; background: #fff; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
"""


def _page(analysis: Analysis, pictures: Sequence[Picture]) -> str:
    body = [
        f"<h1>{escape(_title(analysis))}</h1>",
        f'<p class="soft">{escape(_summary(analysis))}</p>',
        _html_verdicts(analysis.candidates),
    ]
    for table in _tables(analysis):
        body += [f"<h2>{escape(table.title)}</h2>", _html_table(table)]
    body += [_html_picture(picture) for picture in pictures]
    details = [_html_flips(analysis, c) for c in analysis.candidates if c.flips]
    body += ["<h2>Files with another label</h2>", *details] if details else []
    body += ["<h2>Data and machine</h2>", _html_table(_facts(analysis))]
    if analysis.missing:
        names = "<br>".join(escape(name) for name in analysis.missing)
        title = f"{len(analysis.missing):,} without an answer (unreadable, or no face found)"
        body.append(f"<details><summary>{title}</summary><p>{names}</p></details>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_title(analysis))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_verdicts(candidates: Iterable[CandidateAnalysis]) -> str:
    items = []
    for c in candidates:
        finding, _, advice = c.verdict.rpartition(": ")
        finding = finding.removeprefix(f"{c.artifact.name}: ")
        tone = TONES.get(c.outcome, "unsure")
        name = escape(c.artifact.name)
        items.append(
            f'<li class="{tone}"><strong>{name}</strong>: {escape(finding)}: '
            f"<b>{escape(advice)}</b></li>"
        )
    return f'<ul class="verdicts">{"".join(items)}</ul>' if items else ""


def _html_table(table: Table) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        kinds = (' class="word"' if i < table.words else "" for i in range(len(row)))
        pairs = zip(row, kinds, strict=True)
        return "".join(f"<{tag}{kind}>{_lines(text)}</{tag}>" for text, kind in pairs)

    head = f"<thead><tr>{cells(table.header, 'th')}</tr></thead>" if any(table.header) else ""
    rows = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    note = f'<p class="soft">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table>{head}<tbody>\n{rows}\n</tbody></table></div>{note}'


def _lines(text: str) -> str:
    first, *rest = text.split("\n")
    return escape(first) + "".join(f"<small>{escape(line)}</small>" for line in rest)


def _html_picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    width = int.from_bytes(picture.png[16:20], "big") * 96 // DPI  # PNG header, to CSS pixels
    return (
        f"<h2>{escape(picture.title)}</h2><figure>"
        f'<img alt="{escape(picture.text)}" width="{width}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _html_flips(analysis: Analysis, candidate: CandidateAnalysis) -> str:
    more = len(candidate.flips) - FLIPS_ON_PAGE
    rest = f'<p class="soft">{more:,} more are in report.json.</p>' if more > 0 else ""
    table = _html_table(_flip_table(analysis, candidate.flips[:FLIPS_ON_PAGE]))
    title = escape(_flips_title(candidate))
    return f"<details><summary>{title}</summary>{table}{rest}</details>"


def _pictures(analysis: Analysis) -> list[Picture]:
    pictures = []
    if analysis.candidates:
        text = f"Change of each primary metric against {analysis.baseline.name}, with intervals"
        pictures.append(Picture("drop.png", "Change", text, _png(_draw_changes, analysis)))
    measured = [a for a in _artifacts(analysis) if a.latency]
    if measured:
        text = "Accuracy over the latency of one clip; the area of a point is the artifact's size"
        pictures.append(
            Picture("speed.png", "Speed and accuracy", text, _png(_draw_speed, analysis))
        )
    if analysis.kind == "classes":
        text = "Confusion matrix of each artifact: rows are true classes, columns predicted ones"
        pictures.append(
            Picture("confusion.png", "Confusion", text, _png(_draw_confusion, analysis))
        )
    return pictures


def _png(draw: Callable[[Analysis], Figure], analysis: Analysis) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(analysis)
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    return buffer.getvalue()


def _draw_changes(analysis: Analysis) -> Figure:
    """A dot and its interval for each candidate and primary metric; the limit dashed."""
    from matplotlib.figure import Figure

    rows = [(c, drop) for c in analysis.candidates for drop in c.drops]
    figure = Figure(figsize=(9, 1.3 + 0.34 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, (_, drop) in enumerate(rows):
        over = drop.points > analysis.limit + 1e-9
        color = BAD if over and drop.low > 0 else UNSURE if over else GOOD
        ax.plot([-drop.high, -drop.low], [y, y], color=color, lw=2, solid_capstyle="butt")
        ax.plot(-drop.points, y, "o", color=color, ms=7)
    ax.axvline(0, color="#333333", lw=1)
    ax.axvline(-analysis.limit, color=BAD, lw=1, ls="--")
    for y in np.cumsum([len(c.drops) for c in analysis.candidates])[:-1]:
        ax.axhline(y - 0.5, color="#dddddd", lw=0.8)
    edges = [v for _, d in rows for v in (-d.high, -d.low)] + [0.0, -analysis.limit]
    margin = 0.06 * (max(edges) - min(edges)) + 0.05
    ax.set(
        xlim=(min(edges) - margin, max(edges) + margin),
        ylim=(len(rows) - 0.5, -0.5),
        xlabel=_plain_text(
            f"points against {analysis.baseline.name} (left is worse; bars: 95 % interval)"
        ),
    )
    names = [f"{_short(c.artifact.name)}  {drop.metric}" for c, drop in rows]
    ax.set_yticks(range(len(rows)), [_plain_text(name) for name in names])
    ax.annotate(
        f"limit {-analysis.limit:g}", (-analysis.limit, 1), (0, 4), ha="center", fontsize=8,
        color=BAD, xycoords=("data", "axes fraction"), textcoords="offset points",
    )  # fmt: skip
    _tidy(ax)
    ax.grid(axis="x", color="#eeeeee")
    return figure


def _draw_speed(analysis: Analysis) -> Figure:
    """The first primary metric over p50; a legend names the points, so no label can overlap."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullLocator

    artifacts = _artifacts(analysis)
    metric = analysis.baseline.metrics[0].name
    factor = 100 if analysis.kind == "classes" else 1
    largest = max(a.bytes for a in artifacts) or 1
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    points, handles = [], []
    for i, artifact in enumerate(artifacts):
        if artifact.latency is None:
            continue
        look: dict[str, Any] = {
            "marker": MARKERS[i % len(MARKERS)], "color": COLORS[i % len(COLORS)],
            "label": _plain_text(f"{_short(artifact.name)}, {_megabytes(artifact.bytes)} MB"),
        }  # fmt: skip
        x, y = artifact.latency.p50_ms, factor * artifact.metrics[0].value
        points.append((x, y))
        area = 40 + 460 * artifact.bytes / largest
        ax.scatter(x, y, s=area, alpha=0.8, edgecolor="white", zorder=3 - area / 1000, **look)
        handles.append(Line2D([], [], ls="", ms=7, **look))
    xs, ys = zip(*points, strict=True)
    if max(xs) > 10 * min(xs):
        ax.set(xscale="log", xlim=(min(xs) / 1.6, max(xs) * 1.6))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.set_xlim(0, 1.15 * max(xs))
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


def _draw_confusion(analysis: Analysis) -> Figure:
    """Matrices side by side, the baseline first; each row of one sums to 100 %."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    artifacts = _artifacts(analysis)
    labels = [_plain_text(_short(label, 14)) for label in analysis.labels]
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
            _plain_text(
                f"{_short(artifact.name)}{' (baseline)' if artifact is artifacts[0] else ''}\n"
                f"{value.name} {100 * value.value:.1f} %"
            ),
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


def _short(text: str, width: int = 30) -> str:
    """Shortened in the middle: names that differ often do so at their end."""
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def _plain_text(text: str) -> str:
    """Keep matplotlib from reading a dollar sign as mathematics."""
    return text.replace("$", r"\$")
