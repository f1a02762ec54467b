"""The report of an evaluation: a folder with a page to read, its text, pictures and numbers."""

from __future__ import annotations

import json
from pathlib import Path

from svfap_edge.atomic import folder_written_whole
from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.evaluation.analysis_types import Analysis

from .page import render
from .pictures import draw_pictures

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
        **{name: text.encode() for name, text in render(analysis, pictures).items()},
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
