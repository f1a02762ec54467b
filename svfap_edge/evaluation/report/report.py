"""The report of an evaluation: a folder with a page to read, its text, pictures and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from svfap_edge.atomic import folder_written_whole
from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.evaluation.findings import Analysis

from .page import html_page
from .pictures import Picture, draw_pictures
from .tables import Table, facts_table, flip_table, flips_title, summary_of, tables_of, title_of

FILES = ("report.json", "report.md", "report.html", "confusion.png", "drop.png", "speed.png")
"""All that a report folder may hold; one that holds anything else is never replaced."""


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
    pictures = draw_pictures(analysis)
    content = {
        "report.json": json.dumps(
            analysis.to_json(), indent=2, ensure_ascii=False, allow_nan=False
        ).encode(),
        "report.md": markdown(analysis, pictures).encode(),
        "report.html": html_page(analysis, pictures).encode(),
        **{picture.name: picture.png for picture in pictures},
    }
    try:
        with folder_written_whole(folder) as new:
            for name, data in content.items():
                (new / name).write_bytes(data)
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


FLIPS_IN_TEXT = 20


def markdown(analysis: Analysis, pictures: Sequence[Picture]) -> str:
    parts = [f"# {_cell(title_of(analysis))}", _cell(summary_of(analysis))]
    verdicts = [f"- {_cell(c.verdict)}" for c in analysis.candidates]
    parts += ["## Verdicts", "\n".join(verdicts)] if verdicts else []
    for table in tables_of(analysis):
        parts += [f"## {_cell(table.title)}", _markdown_table(table), _cell(table.note)]
    for picture in pictures:
        parts += [f"## {_cell(picture.title)}", f"![{_cell(picture.text)}]({picture.name})"]
    for c in analysis.candidates:
        if c.flips:
            parts += [f"## {_cell(flips_title(c))}"]
            parts += [_markdown_table(flip_table(analysis, c.flips[:FLIPS_IN_TEXT]))]
            more = len(c.flips) - FLIPS_IN_TEXT
            parts += [f"{more:,} more are in report.json."] if more > 0 else []
    parts += ["## Data and machine", _markdown_table(facts_table(analysis))]
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
