"""The options that several commands share, each defined once."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from svfap_edge.errors import SvfapError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

BUNDLE_HELP = "Folder of a bundle; by default the bundle in the package."
BundleArgument = Annotated[Path | None, typer.Argument(help=BUNDLE_HELP)]
BundleOption = Annotated[Path | None, typer.Option("--bundle", help=BUNDLE_HELP)]

RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="PUBLIC.pem",
        envvar="SVFAP_EDGE_REQUIRE_SIGNATURE",
        help="Refuse a bundle that the owner of this Ed25519 key did not sign.",
    ),
]

ArtifactName = Annotated[
    str | None,
    typer.Option(
        "--artifact", help="Artifact of the bundle, such as fp32.onnx; by default the best one."
    ),
]
ArtifactNames = Annotated[
    str | None,
    typer.Option(help="Artifacts, separated by commas; by default all that run here."),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="Engine: auto, onnxruntime, openvino or tensorrt; onnxruntime:cuda, "
        "onnxruntime:tensorrt or onnxruntime:nvtensorrtrtx runs ONNX Runtime on a GPU.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads of the engine; by default its own choice.", min=1),
]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        help="latency: all threads work on one clip; throughput: each works on a clip of its own.",
    ),
]

DetectorName = Annotated[
    str,
    typer.Option(
        "--detector", help="Face detector: auto, yunet, haar, or none (the frame is the face)."
    ),
]
FaceModel = Annotated[
    Path | None,
    typer.Option(
        "--face-model",
        help="YuNet's ONNX file; by default SVFAP_EDGE_FACE_MODEL, or the file in the cache.",
    ),
]
DetectSize = Annotated[
    str,
    typer.Option(
        "--detect-size",
        metavar="PIXELS",
        help="Longer side that frames are shrunk to before the search for faces; auto finds faces "
        "of 1/40 of that side, and takes longer.",
    ),
]
DetectEvery = Annotated[
    int,
    typer.Option(
        "--detect-every", metavar="N", help="Search only every N-th slot's frame for faces.", min=1
    ),
]
Hop = Annotated[
    float,
    typer.Option("--hop", metavar="SECONDS", help="Time between two predictions of a person."),
]


class Weights(str, Enum):
    """Which weights of a checkpoint."""

    auto = "auto"
    model = "model"
    ema = "ema"


WhichWeights = Annotated[
    Weights,
    typer.Option(
        "--weights",
        help="ema: the moving average in the checkpoint; model: the weights themselves; auto: "
        "these, or else the average.",
    ),
]
Heads = Annotated[
    int | None,
    typer.Option("--heads", help="Attention heads of the model, if the checkpoint does not say."),
]
Depths = Annotated[
    str | None,
    typer.Option(
        "--depths",
        help="Blocks of each stage of the model, such as 12-6-3, if the checkpoint does not say.",
    ),
]


KindName = Annotated[
    str | None,
    typer.Option(
        "--kind", help="Kind of a task of your own: classes (by default), values or traits."
    ),
]
Range = Annotated[
    str | None,
    typer.Option(
        "--range",
        metavar="LOW,HIGH",
        help="Range of the values of a task of your own; 0,1 by default.",
    ),
]


Calib = Annotated[
    Path | None,
    typer.Option(
        "--calib",
        help="List or folder of real videos, folders of frames, or images of faces, with which "
        "INT8 is calibrated and the artifacts are checked.",
    ),
]
CalibSamples = Annotated[
    int, typer.Option("--calib-samples", help="Largest number of clips taken from --calib.")
]
Rescue = Annotated[
    bool,
    typer.Option(
        "--rescue",
        help="If INT8 fails its check, leave in float the fewest layers with which it passes.",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        help="Points that INT8 may lose on --validate; if it loses more, layers are left in "
        "float as with --rescue.",
        min=0,
    ),
]
Validate = Annotated[
    Path | None,
    typer.Option("--validate", help="Labelled list or folder of labels for --max-drop."),
]
ComputeCapability = Annotated[
    str | None,
    typer.Option(
        "--compute-capability",
        help="Compute capabilities of the GPUs that plans are built for: 8.6,8.9.",
    ),
]
TensorRtSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--trt",
        help="TensorRT setting KEY=VALUE, repeatable: workspace_mib=1024, batch=1,1,8 "
        "(smallest, likely, largest), timing_cache=FILE (not TensorRT for RTX), "
        "builder_optimization_level=3, profiling_verbosity=DETAILED, or a builder flag, like "
        "flag.TF32=0. An unknown key prints the known ones.",
    ),
]


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Two numbers with a comma between them; SvfapError if they are not that."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise SvfapError(f"--range must be LOW,HIGH, such as -1,1; got '{text}'.") from error
    return low, high


def split(text: str | None) -> list[str] | None:
    """The parts of a value with commas, without blanks around them; None stays None."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def check_positive(**values: float | None) -> None:
    """Raise an SvfapError for an option, named with underscores, that is not finite and above 0.
    None stands for an option that was not given."""
    for name, value in values.items():
        if value is not None and not 0 < value < float("inf"):
            option = name.replace("_", "-")
            raise SvfapError(f"--{option} must be a positive number; got {value:g}.")


def spare_threads(mode: str) -> None:
    """In throughput mode, let OpenCV work in one thread, unless OPENCV_FOR_THREADS_NUM says how
    many: a second one takes a third more processor time to search a window and saves no time."""
    if mode == "throughput" and not os.environ.get("OPENCV_FOR_THREADS_NUM"):
        import cv2

        cv2.setNumThreads(1)
