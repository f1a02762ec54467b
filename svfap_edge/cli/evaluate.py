"""`svfap-edge evaluate`: what artifacts lose in accuracy and gain in speed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import console, print_json, reporting, steps, stopping_cleanly, table, warn
from .options import (
    ArtifactNames,
    DetectorName,
    EngineName,
    FaceModel,
    Json,
    RequireSignature,
    split,
)

if TYPE_CHECKING:
    from svfap_edge.bundle import Bundle
    from svfap_edge.evaluation.analysis_types import Analysis


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles of one task.")],
    data: Annotated[
        Path,
        typer.Option(help="Labelled list ('path label' in each line), or a folder for each label."),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Artifact that the others are compared with; by default fp32.onnx."),
    ] = None,
    artifacts: ArtifactNames = None,
    engine: EngineName = "auto",
    detector: DetectorName = "auto",
    face_model: FaceModel = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="End with exit code 4 if a metric loses more points than this.", min=0),
    ] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Labels, separated by commas, whose files are left out.")
    ] = None,
    speed: Annotated[bool, typer.Option(help="Measure the speed of the artifacts, too.")] = True,
    report: Annotated[Path | None, typer.Option(help="Write a report into this folder.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the figures into the bundles' manifests.")
    ] = False,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Compare artifacts in accuracy and speed.

    Labelled files show what each artifact loses and gains against the baseline, and a sentence says
    whether to ship it.
    """
    with reporting(as_json):
        from svfap_edge.bundle import Bundle, check_unsigned
        from svfap_edge.errors import QualityGateError
        from svfap_edge.evaluation import analysis
        from svfap_edge.evaluation.evaluate import EvaluationOptions
        from svfap_edge.evaluation.evaluate import evaluate as run_evaluation
        from svfap_edge.perception.detectors import open_detector

        opened = [Bundle.open(path, require_signature=require_signature) for path in bundles]
        for each in opened if record else ():
            check_unsigned(each)
        options = EvaluationOptions(
            baseline=baseline,
            artifacts=split(artifacts),
            engine=engine,
            max_drop=max_drop,
            ignore=split(ignore) or (),
            speed=speed,
        )
        finder = open_detector(detector, face_model)
        with stopping_cleanly(), steps(as_json) as step:
            found = analysis.analyse(run_evaluation(opened, data, finder, options, step))
            if report is not None:
                from svfap_edge.evaluation.report.write import write_report

                step(f"Writing {report}")
                write_report(found, report)
            if record:
                _record(opened, found)
        if as_json:
            print_json(found.to_json())
        else:
            _print_evaluation(found)
        failed = [c.artifact.name for c in found.candidates if c.passed is False]
        if failed and not as_json:
            raise QualityGateError(
                f"{', '.join(failed)} lost more than {max_drop:g} points against "
                f"{found.baseline.name}."
            )
        if failed:
            raise typer.Exit(QualityGateError.exit_code)


def _record(bundles: list[Bundle], found: Analysis) -> None:
    from svfap_edge.bundle import record_quality

    drops = [{}, *({d.metric: round(d.points, 2) for d in c.drops} for c in found.candidates)]
    for bundle in bundles:
        measured = {
            row.artifact: {
                "measured": {m.name: round(m.value, 4) for m in row.metrics},
                "data": f"{found.data}, {found.files} files, {found.created[:10]}",
                **({"drop_points": drop} if drop else {}),
            }
            for row, drop in zip(found.artifacts, drops, strict=True)
            if row.path == str(bundle.path)
        }
        record_quality(bundle, measured)


def _print_evaluation(found: Analysis) -> None:
    out = console(stderr=False)
    total = found.files + len(found.missing)
    faceless = len(found.missing) - len(found.unreadable)
    out.print(
        f"{found.files} of {total} files answered ({found.coverage:.1%}), {faceless} without a "
        f"face, {len(found.unreadable)} unreadable; baseline {found.baseline.name}"
    )
    if found.unreadable:
        warn(next(iter(found.unreadable.values())))
    if found.lost:
        out.print(
            f"without a face, by label: {found.lost_text}. They are not in the figures; if the "
            "pictures are crops of faces, compare with --detector none"
        )
    for note in (found.note, found.busy):
        if note:
            warn(note)
    primary = [m.name for m in found.baseline.metrics if m.low is not None]
    rows = table("artifact", *primary, "p50 ms", "MB")
    for row in found.artifacts:
        cells = [f"{m.value:.3f}" for m in row.metrics if m.low is not None]
        latency = f"{row.latency.p50_ms:.1f}" if row.latency else "-"
        rows.add_row(
            f"{row.name} ({row.engine}, {row.precision})", *cells, latency, f"{row.bytes / 1e6:.1f}"
        )
    out.print(rows)
    for candidate in found.candidates:
        out.print(candidate.verdict)
