"""The report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .analysis_results import Analysis
from .report_pictures import Picture
from .report_tables import (
    Table,
    facts_table,
    flip_table,
    flips_title,
    summary_of,
    tables_of,
    title_of,
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
