"""The page of a report and the same in Markdown, from the templates beside this file.

The page is one HTML file that needs no other: pictures and style are inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from svfap_edge.evaluation.analysis_types import Analysis, CandidateAnalysis

from .pictures import Picture
from .tables import changed_table, details_table, summary_of, tables_of, title_of

TONES = {"ship": "good", "drop": "bad", "slower": "bad"}  # of the verdicts; others "unsure"


def render(analysis: Analysis, pictures: Sequence[Picture]) -> dict[str, str]:
    """Text of `report.html` and `report.md`. It needs jinja2."""
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
