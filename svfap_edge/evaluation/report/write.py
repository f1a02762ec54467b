"""The report of an evaluation: a folder with a page to read, its text, pictures and numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from svfap_edge.atomic import folder_written_whole
from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.evaluation.analysis_types import Analysis, CandidateAnalysis

from .pictures import Picture, draw_pictures
from .tables import changed_table, details_table, summary_of, tables_of, title_of

TONES = {"ship": "good", "drop": "bad", "slower": "bad"}  # of the verdicts; others "unsure"

FILES = ("report.json", "report.md", "report.html", "confusion.png", "drop.png", "speed.png")
"""All that a report folder may hold; one that holds anything else is never replaced."""


def write_report(analysis: Analysis, folder: Path) -> list[Path]:
    """Write report.html, report.md, report.json and the pictures; return their paths.

    All is written beside the folder first and then moved, so a report that fails leaves nothing.
    A folder that is there is replaced if it is empty or holds an earlier report and nothing else.

    Raises:
        DependencyMissing: jinja2 or matplotlib is not installed.
        SourceError: the folder holds something else, or cannot be written.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DependencyMissing(
            f"The report needs {error.name}, which is not installed: "
            'pip install "svfap-edge[report]", or leave out --report.'
        ) from error
    _check_replaceable(folder)
    pictures = draw_pictures(analysis)
    content = {
        "report.json": json.dumps(
            analysis.to_json(), indent=2, ensure_ascii=False, allow_nan=False
        ).encode(),
        **{name: text.encode() for name, text in _render(analysis, pictures).items()},
        **{picture.name: picture.png for picture in pictures},
    }
    with folder_written_whole(folder, SourceError) as new:
        for name, data in content.items():
            (new / name).write_bytes(data)
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


def _render(analysis: Analysis, pictures: Sequence[Picture]) -> dict[str, str]:
    """Text of `report.html` and `report.md`, from the templates beside this file. The page needs no
    other file: pictures and style are inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=lambda name: name is None or ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    content = {
        "title": title_of(analysis),
        "summary": summary_of(analysis),
        "verdicts": [_verdict(candidate) for candidate in analysis.candidates],
        "tables": tables_of(analysis),
        "pictures": pictures,
        "changed": [changed_table(analysis, c) for c in analysis.candidates if c.flips],
        "details": details_table(analysis),
        "missing": analysis.missing,
    }
    html, text = (
        environment.get_template(f"{name}.jinja").render(content)
        for name in ("report.html", "report.md")
    )
    return {"report.html": html + "\n", "report.md": re.sub(r"\n{3,}", "\n\n", text) + "\n"}


def _verdict(candidate: CandidateAnalysis) -> dict[str, Any]:
    name, text = candidate.artifact.name, candidate.verdict
    finding, _, advice = text.removeprefix(f"{name}: ").rpartition(": ")
    tone = TONES.get(candidate.outcome, "unsure")
    return {"name": name, "text": text, "finding": finding, "advice": advice, "tone": tone}


def _cell(text: str) -> str:
    """Text that is safe in Markdown: a second line in brackets, nothing read as markup."""
    first, *rest = text.split("\n")
    text = first + (f" ({' '.join(rest)})" if rest else "")
    return re.sub(r"([\\`*_|\[\]<>])", r"\\\1", text)
