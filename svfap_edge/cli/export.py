"""`svfap-edge export`: from a checkpoint to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import reporting, requiring, steps, stopping_cleanly, warn
from .inspect import geometry, show_bundle
from .options import (
    Calib,
    CalibSamples,
    ComputeCapability,
    Depths,
    DetectorName,
    FaceModel,
    Heads,
    Json,
    KindName,
    MaxDrop,
    Range,
    Rescue,
    TensorRtSettings,
    Validate,
    Weights,
    WhichWeights,
    parse_range,
    split,
)


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="PyTorch checkpoint (.pth, .safetensors), or a bundle that holds its weights."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the new bundle.")],
    artifacts: Annotated[
        str,
        typer.Option(
            help="Artifacts, separated by commas: fp32.onnx, fp16.onnx, bf16.openvino, int8.onnx, "
            "int8.openvino, fp16.tensorrt, int8.tensorrt."
        ),
    ] = "fp32.onnx",
    task: Annotated[
        str | None,
        typer.Option(
            help="A known task such as dfew, or a name of your own with --labels; by default the "
            "one that the checkpoint knows, as those of svfap-edge finetune do."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels in the order of the model's outputs, separated by commas."),
    ] = None,
    kind: KindName = None,
    bounds: Range = None,
    weights: WhichWeights = Weights.auto,
    calib: Calib = None,
    calib_samples: CalibSamples = 300,
    detector: DetectorName = "auto",
    face_model: FaceModel = None,
    rescue: Rescue = False,
    max_drop: MaxDrop = None,
    compute_capability: ComputeCapability = None,
    trt: TensorRtSettings = None,
    validate: Validate = None,
    span: Annotated[
        float | None, typer.Option(help="Seconds that a clip covers; by default as for the task.")
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            help="What a face crop has beyond the detector's box, as a share of its side."
        ),
    ] = 0.0,
    features: Annotated[
        bool,
        typer.Option("--features", help="Give the model its pooled feature as a second output."),
    ] = False,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Put the weights, in half precision, into the bundle, for fine-tuning from it.",
        ),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the model's input in pixels, if the checkpoint does not say."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames of a clip, if the checkpoint does not say.")
    ] = None,
    heads: Heads = None,
    depths: Depths = None,
    fresh_head: Annotated[
        bool,
        typer.Option(
            "--fresh-head",
            help="Accept a pre-training checkpoint; the predictions then mean nothing.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that exists in the folder.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a PyTorch checkpoint into a bundle.

    Each artifact is compared with PyTorch before the bundle appears. Example:

    svfap-edge export best.pth -o dfew-bundle --artifacts fp32.onnx,int8.onnx
    --calib calib.csv
    """
    with reporting(as_json):
        from svfap_edge.errors import ConfigError
        from svfap_edge.tasks import find_task

        if task is None and (labels, kind, bounds) != (None, None, None):
            raise ConfigError("--labels, --kind and --range belong to a task: name it by --task.")
        chosen = None if task is None else find_task(task, split(labels), kind, parse_range(bounds))
        changes = geometry(size=size, frames=frames, heads=heads, depths=depths)
        with requiring("export", "Exporting"):
            from svfap_edge.export.pipeline import ExportOptions, export_bundle
        options = ExportOptions(
            compute_capabilities=tuple(split(compute_capability) or ()),
            trt_options=tuple(trt or ()),
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
            keep_weights=keep_weights,
            fresh_head=fresh_head,
            overwrite=overwrite,
            weights=weights.value,
        )
        with stopping_cleanly(), steps(as_json) as step:
            bundle = export_bundle(checkpoint, output, options, step, **changes)
        if not bundle.manifest.task.order_certain:
            warn(f"the order of the labels is assumed ({bundle.manifest.task.note}); see --labels.")
        show_bundle(bundle.path, as_json)
