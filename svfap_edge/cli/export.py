"""`svfap-edge export`: from a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Json, reporting, split, steps, stopping_cleanly, warn
from .inspect import geometry, show_bundle


def export(
    checkpoint: Annotated[Path, typer.Argument(help="PyTorch checkpoint (.pth).")],
    task: Annotated[str, typer.Option(help="dfew, mafw, ...; or a name of your own + --labels.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new bundle.")],
    artifacts: Annotated[
        str,
        typer.Option(
            help="Comma-separated: fp32.onnx, fp16.onnx, bf16.openvino, int8.onnx, "
            "int8.openvino, fp16.tensorrt, int8.tensorrt."
        ),
    ] = "fp32.onnx",
    labels: Annotated[
        str | None, typer.Option(help="Comma-separated labels in output order.")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="List or folder of real videos, frame folders or images of faces."),
    ] = None,
    calib_samples: Annotated[int, typer.Option(help="Calibration clips at most.")] = 300,
    detector: Annotated[
        str, typer.Option(help="Face detector for --calib: auto, yunet, haar, none.")
    ] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    rescue: Annotated[
        bool,
        typer.Option("--rescue", help="Leave in float the fewest layers that bring INT8 back."),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points INT8 may lose on --validate; beyond, as --rescue.", min=0),
    ] = None,
    compute_capability: Annotated[
        str | None, typer.Option(help="GPUs to build TensorRT plans for: 8.6,8.9.")
    ] = None,
    trt: Annotated[
        list[str] | None,
        typer.Option(
            help="TensorRT setting KEY=VALUE, repeatable: workspace_mib=1024, batch=1,1,8 "
            "(smallest, likely, largest), timing_cache=FILE (not TensorRT for RTX), "
            "builder_optimization_level=3, profiling_verbosity=DETAILED, or a builder flag, like "
            "flag.TF32=0. An unknown key prints the known ones.",
        ),
    ] = None,
    validate: Annotated[
        Path | None, typer.Option(help="Labelled list or folder for --max-drop.")
    ] = None,
    span: Annotated[
        float | None, typer.Option(help="Seconds a clip covers; the task's stride by default.")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Face crop beyond the detector's box, as a share of it.")
    ] = 0.0,
    features: Annotated[
        bool, typer.Option("--features", help="Return the pooled feature as a second output.")
    ] = False,
    size: Annotated[int | None, typer.Option(help="Input side in pixels, if not known.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, if not known.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads, if not known.")] = None,
    depths: Annotated[
        str | None, typer.Option(help="Blocks of each stage, if not known: 12-6-3.")
    ] = None,
    fresh_head: Annotated[
        bool, typer.Option("--fresh-head", help="Accept a pre-training checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the bundle that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint into a bundle, each artifact checked against PyTorch."""
    with reporting(as_json):
        from svfap_edge.tasks import find_task

        chosen = find_task(task, split(labels))
        changes = geometry(size=size, frames=frames, heads=heads, depths=depths)
        try:
            from svfap_edge.export.pipeline import ExportOptions, export_bundle
        except ImportError as error:
            from svfap_edge.errors import DependencyMissing

            raise DependencyMissing(
                f"Exporting needs '{error.name}': pip install \"svfap-edge[export]\""
            ) from error
        trt_options: tuple[tuple[str, str], ...] = ()
        if trt:
            from svfap_edge.export.trt.builder import parse_options

            trt_options = parse_options(trt)
        options = ExportOptions(
            compute_capabilities=tuple(split(compute_capability) or ()),
            trt_options=trt_options,
            task=chosen,
            artifacts=split(artifacts) or [],
            calib=calib,
            calib_samples=calib_samples,
            detector=detector,
            face_model=face_model,
            rescue=rescue,
            max_drop=max_drop,
            validate=validate,
            span_s=span,
            margin=margin,
            features=features,
            fresh_head=fresh_head,
            overwrite=overwrite,
        )
        with stopping_cleanly(), steps(as_json) as step:
            bundle = export_bundle(checkpoint, output, options, step, **changes)
        if not bundle.manifest.task.order_certain:
            warn(f"the order of the labels is assumed ({bundle.manifest.task.note}); see --labels.")
        show_bundle(bundle.path, as_json)
