"""The page of a report: one HTML file that needs no other, pictures and style inside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from svfap_edge.evaluation.findings import Analysis, CandidateAnalysis

from .pictures import DPI, Picture
from .tables import Table, facts_table, flip_table, flips_title, summary_of, tables_of, title_of

FLIPS_ON_PAGE = 500
TONES = {"ship": "good", "drop": "bad", "slower": "bad"}  # of the verdicts; others "unsure"
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


def html_page(analysis: Analysis, pictures: Sequence[Picture]) -> str:
    body = [
        f"<h1>{escape(title_of(analysis))}</h1>",
        f'<p class="soft">{escape(summary_of(analysis))}</p>',
        _html_verdicts(analysis.candidates),
    ]
    for table in tables_of(analysis):
        body += [f"<h2>{escape(table.title)}</h2>", _html_table(table)]
    body += [_html_picture(picture) for picture in pictures]
    details = [_html_flips(analysis, c) for c in analysis.candidates if c.flips]
    body += ["<h2>Files with another label</h2>", *details] if details else []
    body += ["<h2>Data and machine</h2>", _html_table(facts_table(analysis))]
    if analysis.missing:
        names = "<br>".join(escape(name) for name in analysis.missing)
        title = f"{len(analysis.missing):,} without an answer (unreadable, or no face found)"
        body.append(f"<details><summary>{title}</summary><p>{names}</p></details>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title_of(analysis))}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
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
    table = _html_table(flip_table(analysis, candidate.flips[:FLIPS_ON_PAGE]))
    title = escape(flips_title(candidate))
    return f"<details><summary>{title}</summary>{table}{rest}</details>"
