"""`svfap-edge build`: more artifacts of a bundle, on the machine that will run them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import reporting, requiring, steps, stopping_cleanly
from .inspect import show_bundle
from .options import (
    Calib,
    CalibSamples,
    ComputeCapability,
    DetectorName,
    FaceModel,
    Json,
    MaxDrop,
    RequireSignature,
    Rescue,
    TensorRtSettings,
    Validate,
    split,
)


def build(
    artifacts: Annotated[
        str,
        typer.Option(
            help="Artifacts, separated by commas: fp16.onnx, bf16.openvino, fp16.tensorrt, "
            "int8.tensorrt, int8.onnx, int8.openvino."
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a bundle; by default the model in the package, of which a bundle with "
            "more artifacts is then made in the cache folder and used from there."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder of a new bundle; by default the bundle is replaced."
        ),
    ] = None,
    calib: Calib = None,
    calib_samples: CalibSamples = 300,
    detector: DetectorName = "auto",
    face_model: FaceModel = None,
    rescue: Rescue = False,
    max_drop: MaxDrop = None,
    validate: Validate = None,
    compute_capability: ComputeCapability = None,
    trt: TensorRtSettings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that exists in --output.")
    ] = False,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Add artifacts to a bundle, without PyTorch.

    They are built from its fp32.onnx or fp16.onnx, INT8 plans from its int8.onnx, and compared with
    that before the bundle changes. Example:

    svfap-edge build dfew-bundle --artifacts fp16.tensorrt,int8.tensorrt
    """
    with reporting(as_json):
        from svfap_edge.bundle import DEFAULT_BUNDLE, Bundle, built_default
        from svfap_edge.errors import BundleError

        source = Bundle.open(bundle, require_signature=require_signature)
        if output is None and source.path == DEFAULT_BUNDLE:  # which may be read-only
            output = built_default()
            if output is None:
                raise BundleError("There is no cache folder to build into: give -o DIR.")
            overwrite = True
        with requiring("build", "Building"):
            from svfap_edge.export.build import build_bundle
            from svfap_edge.export.options import BuildOptions
        options = BuildOptions(
            artifacts=split(artifacts) or [],
            calib=calib,
            calib_samples=calib_samples,
            detector=detector,
            face_model=face_model,
            overwrite=overwrite,
            compute_capabilities=tuple(split(compute_capability) or ()),
            trt_options=tuple(trt or ()),
            rescue=rescue,
            max_drop=max_drop,
            validate=validate,
        )
        with stopping_cleanly(), steps(as_json) as step:
            built = build_bundle(source, output, options, step)
        show_bundle(built.path, as_json)
