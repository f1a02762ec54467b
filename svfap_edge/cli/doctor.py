"""`svfap-edge doctor`: what works on this machine, and what to do about the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import console, count, print_json, reporting, steps, stopping_cleanly
from .options import Json


def doctor(
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch", help="First download the face detector YuNet into the cache folder."
        ),
    ] = False,
    clear_cache: Annotated[
        bool,
        typer.Option(
            "--clear-cache", help="First remove all compiled models from the cache folder."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check what works on this machine.

    The engines, OpenCV, the face detectors and the GPU are each tried in a process of their own,
    and advice is given about what is missing or broken. The exit code is 0 if `svfap-edge run` can
    work, 3 otherwise.
    """
    with reporting(as_json):
        from svfap_edge.doctor.diagnosis import diagnose

        if clear_cache:
            from svfap_edge.cache import cache_root, clear_compiled

            cleared = clear_compiled()
            if not as_json:
                size = sum(entry.size_bytes for entry in cleared) / 1e6
                models = count(len(cleared), "compiled model", "compiled models")
                print(f"removed {models} of {size:.1f} MB from {cache_root()}")
        if fetch:
            from svfap_edge.doctor.fetch import fetch_face_model

            path = fetch_face_model()
            if not as_json:
                print(f"YuNet is in {path}")
        with stopping_cleanly(), steps(as_json) as step:
            found = diagnose(step)
        if as_json:
            print_json(found.to_json())
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
            if found.obstacles:
                out.print(f"svfap-edge run cannot work: {'; '.join(found.obstacles)}.")
            else:
                but = f", but not on {'; '.join(found.limits)}" if found.limits else ""
                out.print(f"svfap-edge run can work{but}.")
        if found.exit_code:
            raise typer.Exit(found.exit_code)


COLOURS = {"ok": "green", "missing": "yellow", "broken": "red", "note": "cyan"}
