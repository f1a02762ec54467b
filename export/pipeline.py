"""Checkpoint to bundle: build every artifact, check each, write all or nothing."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import CheckpointError, DependencyMissing, SvfapError, TaskError
from svfap_edge.export.clips import clips_of, synthetic_clips
from svfap_edge.export.onnx_from_model import OPSET, onnx_from_model
from svfap_edge.export.parity import Parity, check_fp32, torch_logits
from svfap_edge.runtimes import available_engines, load_backend
from svfap_edge.tasks import Task
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint

ARTIFACTS = ("fp32.onnx",)
"""What this version exports."""

CHECK_CLIPS = 4
DEFAULT_MARGIN = 0.0
"""Crop side beyond the face box, as a share of the box; see `svfap_edge.faces.crop_face`."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how.

    Attributes:
        task: Gives the outputs their names and the clip its spacing.
        artifacts: Names out of `ARTIFACTS`.
        calib: List, folder, video or image to check the export on; made-up clips otherwise.
        span_s: Time a clip covers; None for the task's stride at 25 fps.
        margin: Crop side beyond the face box, as a share of the box.
        features: Return the pooled feature as a second output.
        fresh_head: Accept a pre-training checkpoint, whose predictions mean nothing.
        overwrite: Replace a bundle that is there.
        name: Name in the manifest; None for the folder's.
    """

    task: Task
    artifacts: Sequence[str] = ARTIFACTS
    calib: Path | None = None
    span_s: float | None = None
    margin: float = DEFAULT_MARGIN
    features: bool = False
    fresh_head: bool = False
    overwrite: bool = False
    name: str | None = None


def export_bundle(
    checkpoint: Path,
    output: Path,
    options: ExportOptions,
    progress: Progress = lambda message: None,
    **changes: object,
) -> Bundle:
    """Export a checkpoint.

    Args:
        checkpoint: See `svfap_edge.training.checkpoint.load_checkpoint`.
        output: The bundle's folder; appears complete or not at all.
        progress: Called with a sentence before each step.
        changes: Fields of `TPSBTConfig` that overrule the checkpoint.

    Raises:
        CheckpointError, TaskError, BundleError: bad input; nothing was written.
        QualityGateError: an artifact differs from PyTorch; nothing was written.
    """
    unknown = [name for name in options.artifacts if name not in ARTIFACTS]
    if unknown or not options.artifacts:
        raise SvfapError(
            f"Cannot export {', '.join(unknown) or 'nothing'}. "
            f"This version exports: {', '.join(ARTIFACTS)}."
        )
    bundles.check_target(output, replace=options.overwrite)
    engines = [e for e in ("onnxruntime", "openvino") if e in available_engines()]
    if not engines:
        raise DependencyMissing(
            "Checking the export needs ONNX Runtime or OpenVINO: pip install onnxruntime"
        )
    progress(f"Opening {checkpoint.name}")
    outputs = len(options.task.labels)
    if options.task.kind == "traits":
        changes.setdefault("activation", "sigmoid")  # as the published code ends its heads
    loaded = load_checkpoint(checkpoint, outputs=outputs, **changes)
    _check_task(loaded, options, checkpoint)

    config = loaded.model.config
    span_s = options.span_s or config.frames * options.task.spacing_s
    spec = ClipSpec(config.frames, span_s, config.size)
    progress(f"Running PyTorch on {CHECK_CLIPS} clips for reference")
    clips = (
        clips_of(options.calib, spec, CHECK_CLIPS)
        if options.calib
        else synthetic_clips(spec, CHECK_CLIPS)
    )
    reference = torch_logits(loaded.model, clips)

    with bundles.writing(output, replace=options.overwrite) as folder:
        progress("Writing fp32.onnx")
        file = folder / "fp32.onnx"
        onnx_from_model(loaded.model, file, features=options.features)
        manifest = Manifest(
            name=options.name or output.resolve().name,
            task=options.task,
            clip=spec,
            margin=options.margin,
            artifacts={
                "fp32.onnx": Artifact(
                    "fp32.onnx",
                    (bundles.describe_file(file),),
                    built_by={"onnx": version("onnx"), "svfap-edge": version("svfap-edge")},
                    needs={"opset": OPSET},
                )
            },
            features=config.width if options.features else 0,
            provenance=_provenance(checkpoint, loaded),
        )
        bundles.write_manifest(folder, manifest)
        checks = {}
        for engine in engines:
            progress(f"Comparing fp32.onnx on {engine} with PyTorch")
            checks[engine] = _check(folder, engine, reference, clips).to_dict()
        manifest.quality["fp32.onnx"] = {
            "parity": checks,
            "clips": "real" if options.calib else "synthetic",
        }
        bundles.write_manifest(folder, manifest)
    return Bundle.open(output)


def _check(folder: Path, engine: str, reference: np.ndarray, clips: np.ndarray) -> Parity:
    with closing(load_backend(Bundle.open(folder), "fp32.onnx", engine)) as backend:
        return check_fp32(backend, reference, clips)


def _check_task(loaded: Checkpoint, options: ExportOptions, path: Path) -> None:
    config, task = loaded.model.config, options.task
    if loaded.kind == "pre-trained" and not options.fresh_head:
        raise CheckpointError(
            f"'{path}' is a pre-training checkpoint: it has no head, so it predicts nothing. "
            "Fine-tune it first; or, to measure speed or export features, pass --fresh-head."
        )
    if config.outputs != len(task.labels):
        raise TaskError(
            f"'{path}' has {config.outputs} outputs; task '{task.name}' has {len(task.labels)}: "
            f"{', '.join(task.labels)}. Choose the task it was fine-tuned on, or give its labels "
            "in output order (--task NAME --labels a,b,...)."
        )


def _provenance(checkpoint: Path, loaded: Checkpoint) -> dict[str, object]:
    tools = {name: version(name) for name in ("svfap-edge", "torch", "onnx")}
    return {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": bundles.digest(checkpoint),
        "checkpoint_kind": loaded.kind,
        "parameters": loaded.parameters,
        "model": loaded.model.config.to_dict(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tools": {**tools, "python": platform.python_version()},
    }
