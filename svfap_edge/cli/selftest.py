"""`svfap-edge selftest`: whether this machine computes what a bundle should answer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from svfap_edge.errors import QualityGateError

from .console import console, print_json, reporting, steps, stopping_cleanly, table
from .options import BUNDLE_HELP, Json, RequireSignature


def selftest(
    bundle: Annotated[Path | None, typer.Argument(help=BUNDLE_HELP)] = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Check a bundle on this machine.

    Every artifact runs the bundle's check clips on every engine that takes it here. The exit code
    is 4 if one answers otherwise than it should, or cannot be loaded. Example:

    svfap-edge selftest dfew-bundle
    """
    with reporting(as_json):
        from svfap_edge.bundle import Bundle
        from svfap_edge.evaluation.selftest import self_test

        opened = Bundle.open(bundle, require_signature=require_signature)
        with stopping_cleanly(), steps(as_json) as step:
            found = self_test(opened, step)
        if as_json:
            print_json({"bundle": opened.path, "passed": found.passed, **asdict(found)})
        else:
            out = console(stderr=False)
            rows = table("artifact", "max error", "of spread", "agreement", "ms")
            rows.add_column("verdict")
            for each in found.outcomes:
                figures = each.fidelity
                rows.add_row(
                    f"{each.artifact} on {each.engine} ({each.precision or '-'})",
                    *(
                        ("-", "-", "-")
                        if figures is None
                        else (
                            f"{figures.max_abs:.1e}", f"{figures.error:.1%}",
                            f"{figures.agreement:.0%}",
                        )
                    ),
                    "-" if each.latency_ms is None else f"{each.latency_ms:.1f}",
                    "wrong" if each.problems else "fine",
                )  # fmt: skip
            out.print(rows)
            for each in found.outcomes:
                for problem in each.problems:
                    out.print(f"wrong     {each.artifact} on {each.engine}: {problem}")
            for name, reason in found.left_out.items():
                out.print(f"left out  {name}: {reason}")
        if not found.passed:
            raise typer.Exit(QualityGateError.exit_code)
