"""`svfap-edge doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

import json

import typer

from .console import Json, console, reporting, steps, stopping_cleanly


def doctor(as_json: Json = False) -> None:
    """Tell what is installed and works here, and what to do about what does not.

    Exits with 0 if `svfap-edge run` can work, with 3 otherwise.
    """
    with reporting(as_json):
        from svfap_edge.doctor.diagnosis import diagnose

        with stopping_cleanly(), steps(as_json) as step:
            found = diagnose(step)
        if as_json:
            print(json.dumps(found.to_json(), ensure_ascii=False))
        else:
            out = console(stderr=False)
            group = ""
            for check in found.checks:
                if check.group != group:
                    group = check.group
                    out.print(group, style="bold")
                out.print(f"  {check.state:<8}", style=COLOURS[check.state], end="")
                out.print(f"{check.name:<21} {check.fact}")
                if check.advice:
                    out.print(f"  {'':<8}{'':<21} -> {check.advice}")
            out.print(
                f"svfap-edge run cannot work: {'; '.join(found.obstacles)}."
                if found.obstacles
                else "svfap-edge run can work."
            )
        if found.exit_code:
            raise typer.Exit(found.exit_code)


COLOURS = {"ok": "green", "missing": "yellow", "broken": "red", "note": "cyan"}
