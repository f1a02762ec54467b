"""What to export or to build and how, and whether that can be done here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from svfap_edge.errors import DependencyMissing, SvfapError
from svfap_edge.perception.detectors import check_detector
from svfap_edge.runtimes import available_engines
from svfap_edge.runtimes.choice import ENGINES
from svfap_edge.tasks import Task

if TYPE_CHECKING:
    from svfap_edge.training.checkpoint_file import Weights

ARTIFACTS = (
    "fp32.onnx",
    "fp16.onnx",
    "bf16.openvino",
    "int8.onnx",
    "int8.openvino",
    "fp16.tensorrt",
    "int8.tensorrt",
)
"""What this version exports."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Which artifacts to build, and how.

    Attributes:
        artifacts: Names out of `ARTIFACTS`.
        calib: List, folder, video or image to check the artifacts on and calibrate INT8 with.
        calib_samples: Calibration clips at most; a fifth, 32 at most, is held back for the gate.
        detector, face_model: How the faces in `calib` are found; see
            `perception.detectors.open_detector`.
        overwrite: Replace a bundle that is there.
        compute_capabilities: GPUs that plans are built for ahead of time, like "8.9".
        trt_options: Builder settings KEY=VALUE; see `export.trt.builder.plan_settings`.
        rescue: Where INT8 fails the gate, find the fewest layers to leave in float.
        max_drop: Points INT8 may lose on `validate`; beyond it, and beyond the gate, rescue.
        validate: Labelled list or folder for `max_drop`, apart from `calib` and from the test.
    """

    artifacts: Sequence[str] = ("fp32.onnx",)
    calib: Path | None = None
    calib_samples: int = 300
    detector: str = "auto"
    face_model: Path | None = None
    overwrite: bool = False
    compute_capabilities: tuple[str, ...] = ()
    trt_options: tuple[str, ...] = ()
    rescue: bool = False
    max_drop: float | None = None
    validate: Path | None = None


@dataclass(frozen=True)
class ExportOptions(BuildOptions):
    """What to export and how; the rest is that of `BuildOptions`.

    Attributes:
        task: The task, which names the outputs and gives the clip its spacing; None for the one
            that the checkpoint knows, as ours do.
        span_s: Time a clip covers; None for the task's stride at 25 fps.
        margin: Crop side beyond the face box, as a share of the box; see
            `perception.detectors.crop_face`.
        features: Return the pooled feature as a second output.
        fresh_head: Accept a pre-training checkpoint, whose predictions mean nothing.
        name: Name in the manifest; None for the folder's.
        weights: Which weights of the checkpoint; see `training.checkpoint.load_checkpoint`.
        keep_weights: Put the weights, in half precision, into the bundle, for fine-tuning from it.
    """

    task: Task | None = None
    span_s: float | None = None
    margin: float = 0.0
    features: bool = False
    fresh_head: bool = False
    name: str | None = None
    weights: Weights = "auto"
    keep_weights: bool = False


def to_quantize(artifacts: Collection[str], there: Collection[str] = ()) -> list[str]:
    """The INT8 artifacts that have to be quantized for those that are wanted. A plan is built of
    int8.onnx, which may be `there` already."""
    wanted = [name for name in ("int8.onnx", "int8.openvino") if name in artifacts]
    if "int8.tensorrt" in artifacts and "int8.onnx" not in {*wanted, *there}:
        wanted.insert(0, "int8.onnx")
    return wanted


def check_options(options: BuildOptions, there: Collection[str] = ()) -> None:
    """Refuse what cannot be exported or built here, before anything is read or built: options that
    are not known or do not fit together, and what needs a package that is not installed. `there`
    are the artifacts of the bundle that others are built from."""
    unknown = [name for name in options.artifacts if name not in ARTIFACTS]
    if unknown or not options.artifacts:
        raise SvfapError(
            f"Cannot export {', '.join(unknown) or 'nothing'}. "
            f"This version exports: {', '.join(ARTIFACTS)}."
        )
    check_detector(options.detector)
    if any(name.endswith(".tensorrt") for name in options.artifacts):
        _check_tensorrt(options)
    elif options.trt_options or options.compute_capabilities:
        given = "--trt" if options.trt_options else "--compute-capability"
        raise SvfapError(
            f"{given} is for TensorRT plans, and none is among the artifacts "
            f"({', '.join(options.artifacts)}). Add one, such as --artifacts fp16.tensorrt, or "
            f"leave out {given}."
        )
    _check_engines(options)
    if options.max_drop is not None and options.validate is None:
        raise SvfapError(
            "--max-drop measures the drop on labelled files: give --validate LIST_OR_DIR, apart "
            "from --calib and from the list that the model is judged on in the end."
        )
    if to_quantize(options.artifacts, there):
        _check_int8(options)


def _check_tensorrt(options: BuildOptions) -> None:
    """The builder is there, and takes the settings."""
    from svfap_edge.export.trt.builder import configured, find_builder, plan_settings

    settings = plan_settings(options.trt_options, options.compute_capabilities)
    configured(find_builder("auto", options.compute_capabilities), settings)


def _check_engines(options: BuildOptions) -> None:
    """Each artifact can be run here; a plan is checked through the ONNX file it is built from."""
    for name in ("fp32.onnx", *options.artifacts):
        form = name.partition(".")[2]
        if form != "tensorrt" and not available_engines(form):
            engines = [e for e, entry in ENGINES.items() if form in entry.formats]
            raise DependencyMissing(
                f"Checking '{name}' needs {' or '.join(engines)}: {ENGINES[engines[0]].install}"
            )


def _check_int8(options: BuildOptions) -> None:
    if options.calib is None:
        raise SvfapError(
            "INT8 is calibrated on real clips of faces: give --calib LIST_OR_DIR, never the "
            "list that the model is evaluated on."
        )
    if options.calib_samples < 8:
        raise SvfapError(f"--calib-samples must be at least 8; got {options.calib_samples}.")
    if find_spec("nncf") is None:
        raise DependencyMissing('INT8 needs NNCF: pip install "svfap-edge[export]"')
