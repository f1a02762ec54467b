"""Checkpoint to bundle: build every artifact, check each, write all or nothing."""

from __future__ import annotations

import datetime
import hashlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from svfap_edge import bundle as bundles
from svfap_edge.analysis import analyse
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import (
    CheckpointError,
    DependencyMissing,
    QualityGateError,
    SvfapError,
    TaskError,
)
from svfap_edge.evaluation import EvaluationOptions, evaluate
from svfap_edge.export import fidelity
from svfap_edge.export.clips import Calibration, collect_clips, synthetic_clips
from svfap_edge.export.onnx_from_model import OPSET, onnx_from_model
from svfap_edge.export.precision import precisions_of_onnx, precisions_of_openvino
from svfap_edge.faces import Detector, open_detector
from svfap_edge.runtimes import available_engines, load_backend
from svfap_edge.runtimes.backend import ENGINES, choose
from svfap_edge.tasks import Task
from svfap_edge.timing import Timed, time_artifacts
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint

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

CHECK_CLIPS = 4
"""Clips an export without INT8 is checked on."""

FEW_CLIPS = 100
"""Fewer calibration clips than this are warned of."""

DEFAULT_MARGIN = 0.0
"""Crop side beyond the face box, as a share of the box; see `svfap_edge.faces.crop_face`."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What to export and how.

    Attributes:
        task: Gives the outputs their names and the clip its spacing.
        artifacts: Names out of `ARTIFACTS`.
        calib: List, folder, video or image to check the export on and calibrate INT8 with.
        calib_samples: Calibration clips at most; a fifth, 32 at most, is held back for the gate.
        detector, face_model: Find the faces in `calib`; see `svfap_edge.faces.open_detector`.
        span_s: Time a clip covers; None for the task's stride at 25 fps.
        margin: Crop side beyond the face box, as a share of the box.
        features: Return the pooled feature as a second output.
        fresh_head: Accept a pre-training checkpoint, whose predictions mean nothing.
        overwrite: Replace a bundle that is there.
        name: Name in the manifest; None for the folder's.
        compute_capabilities: GPUs that plans are built for ahead of time, like "8.9".
        trt_options: Builder settings, KEY and VALUE; see `tensorrt_from_onnx.PlanSettings`.
        rescue: Where INT8 fails the gate, find the fewest layers to leave in float.
        max_drop: Points INT8 may lose on `validate`; beyond it, and beyond the gate, rescue.
        validate: Labelled list or folder for `max_drop`, apart from `calib` and from the test.
    """

    task: Task
    artifacts: Sequence[str] = ("fp32.onnx",)
    calib: Path | None = None
    calib_samples: int = 300
    detector: str = "auto"
    face_model: Path | None = None
    span_s: float | None = None
    margin: float = DEFAULT_MARGIN
    features: bool = False
    fresh_head: bool = False
    overwrite: bool = False
    name: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    trt_options: tuple[tuple[str, str], ...] = ()
    rescue: bool = False
    max_drop: float | None = None
    validate: Path | None = None


@dataclass
class _Job:
    """What the steps of one export share."""

    options: ExportOptions
    loaded: Checkpoint
    folder: Path
    manifest: Manifest
    progress: Progress
    gate_clips: np.ndarray
    reference: np.ndarray
    detector: Detector | None
    calibration: Calibration | None
    held_back: int
    float_layers: list[str] = field(default_factory=list)
    damage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def calibration_clips(self) -> np.ndarray:
        assert self.calibration is not None
        return self.calibration.clips[self.held_back :]


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
        CheckpointError, TaskError, SourceError, BundleError: bad input; nothing was written.
        QualityGateError: an artifact is too far from PyTorch; nothing was written.
    """
    _check_options(options)
    bundles.check_target(output, replace=options.overwrite)
    progress(f"Opening {checkpoint.name}")
    if options.task.kind == "traits":
        changes.setdefault("activation", "sigmoid")  # as the published code ends its heads
    loaded = load_checkpoint(checkpoint, outputs=len(options.task.labels), **changes)
    _check_task(loaded, options, checkpoint)
    manifest = _manifest(checkpoint, loaded, options, output)
    with (
        tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch,
        bundles.writing(output, replace=options.overwrite) as folder,
    ):
        job = _prepare(options, loaded, folder, manifest, progress, Path(scratch))
        _build(job)
    return Bundle.open(output)


def _check_options(options: ExportOptions) -> None:
    unknown = [name for name in options.artifacts if name not in ARTIFACTS]
    if unknown or not options.artifacts:
        raise SvfapError(
            f"Cannot export {', '.join(unknown) or 'nothing'}. "
            f"This version exports: {', '.join(ARTIFACTS)}."
        )
    if any(name.endswith(".tensorrt") for name in options.artifacts):
        from svfap_edge.export.tensorrt_from_onnx import find_builder

        find_builder("auto", options.compute_capabilities)
    for name in ("fp32.onnx", *options.artifacts):
        form = name.partition(".")[2]
        if form == "tensorrt":
            continue  # a plan is checked through the ONNX file it is built from
        engines = [e for e, entry in ENGINES.items() if form in entry.formats]
        if not set(engines) & set(available_engines()):
            raise DependencyMissing(
                f"Checking '{name}' needs {' or '.join(engines)}: {ENGINES[engines[0]].install}"
            )
    if options.max_drop is not None and options.validate is None:
        raise SvfapError(
            "--max-drop measures the drop on labelled files: give --validate LIST_OR_DIR, apart "
            "from --calib and from the list that the model is judged on in the end."
        )
    if any(name.startswith("int8") for name in options.artifacts):
        if options.calib is None:
            raise SvfapError(
                "INT8 is calibrated on real clips of faces: give --calib LIST_OR_DIR, never the "
                "list that the model is evaluated on."
            )
        if options.calib_samples < 8:
            raise SvfapError(f"--calib-samples must be at least 8; got {options.calib_samples}.")
        try:
            import nncf  # noqa: F401
        except ImportError as error:
            raise DependencyMissing('INT8 needs NNCF: pip install "svfap-edge[export]"') from error


def _manifest(
    checkpoint: Path, loaded: Checkpoint, options: ExportOptions, output: Path
) -> Manifest:
    config = loaded.model.config
    span_s = options.span_s or config.frames * options.task.spacing_s
    return Manifest(
        name=options.name or output.resolve().name,
        task=options.task,
        clip=ClipSpec(config.frames, span_s, config.size),
        margin=options.margin,
        artifacts={},
        features=config.width if options.features else 0,
        provenance=_provenance(checkpoint, loaded),
    )


def _prepare(
    options: ExportOptions,
    loaded: Checkpoint,
    folder: Path,
    manifest: Manifest,
    progress: Progress,
    scratch: Path,
) -> _Job:
    """Collect the clips and what PyTorch says of those that the gate looks at."""
    detector, calibration, held_back = None, None, 0
    if options.calib is None:
        gate_clips = synthetic_clips(manifest.clip, CHECK_CLIPS)
    else:
        int8 = any(name.startswith("int8") for name in options.artifacts)
        count = options.calib_samples if int8 else CHECK_CLIPS
        progress(f"Cutting {count} clips of faces from {options.calib}")
        detector = open_detector(options.detector, options.face_model)
        calibration = collect_clips(options.calib, manifest, detector, count, scratch / "clips.npy")
        found = len(calibration.clips)
        skipped = len(calibration.skipped)
        progress(f"{found} clips; {skipped} files without a face or unreadable")
        if int8 and found < min(FEW_CLIPS, options.calib_samples):
            progress(f"warning: only {found} calibration clips; {FEW_CLIPS} or more would do")
        if int8 and found < 8:
            raise SvfapError(
                f"Only {found} calibration clips were found in '{options.calib}'; INT8 needs at "
                f"least 8, better {FEW_CLIPS} or more."
            )
        held_back = max(4, min(32, found // 5)) if int8 else found
        gate_clips = calibration.clips[:held_back]
    progress(f"Running PyTorch on {len(gate_clips)} held-back clips for reference")
    reference = fidelity.torch_logits(loaded.model, gate_clips)
    return _Job(
        options, loaded, folder, manifest, progress, gate_clips, reference,
        detector, calibration, held_back,
    )  # fmt: skip


def _build(job: _Job) -> None:
    """All artifacts in order, each behind the gate, then the manifest."""
    wanted = job.options.artifacts
    job.progress("Writing fp32.onnx")
    onnx_from_model(job.loaded.model, job.folder / "fp32.onnx", features=job.options.features)
    _accept(job, "fp32.onnx", ["fp32.onnx"], {"opset": OPSET})
    if "bf16.openvino" in wanted:
        _bf16(job)
    if any(name.startswith("int8") for name in wanted):
        _int8(job)
    if {"fp16.onnx", "fp16.tensorrt"} & set(wanted):
        _half(job, "fp32.onnx", "fp16.onnx")
    if "fp16.tensorrt" in wanted:
        _plan(job, "fp16.onnx", "fp16.tensorrt")
    if "int8.tensorrt" in wanted:
        # The float rest of INT8 in half, or TensorRT would compute it in float32.
        _half(job, "int8.onnx", "int8half.onnx")
        _plan(job, "int8half.onnx", "int8.tensorrt")
    for name in [name for name in job.manifest.artifacts if name not in wanted]:
        for file in job.manifest.artifacts.pop(name).files:
            (job.folder / file.file).unlink()
        job.manifest.quality.pop(name, None)
    bundles.write_manifest(job.folder, job.manifest)


def _half(job: _Job, source: str, name: str) -> None:
    from svfap_edge.export.tensorrt_from_onnx import half_from_onnx

    job.progress(f"Writing {name}")
    half_from_onnx(job.folder / source, job.folder / name)
    _accept(job, name, [name], {"opset": OPSET})


def _plan(job: _Job, source: str, name: str) -> None:
    """Build a TensorRT engine of an ONNX artifact that passed the gate."""
    from svfap_edge.export import tensorrt_from_onnx as trt

    builder = trt.find_builder("auto", job.options.compute_capabilities)
    settings = trt.PlanSettings(
        compute_capabilities=job.options.compute_capabilities, options=job.options.trt_options
    )
    job.progress(f"Building {name} with {builder.name} {builder.version}")
    file = f"{name.partition('.')[0]}.plan"
    info = trt.plan_from_onnx(job.folder / source, job.folder / file, settings, builder)
    job.manifest.artifacts[name] = Artifact(
        name,
        (bundles.describe_file(job.folder / file),),
        built_by={**_built_by(name), builder.name: builder.version},
        needs=trt.needs(info),
    )
    job.manifest.quality[name] = {
        "checked_as": job.manifest.quality[source],
        "layers": info.layers,
        "build": info.to_dict(),
    }


def _bf16(job: _Job) -> None:
    import openvino as ov

    job.progress("Writing bf16.openvino")
    model = ov.Core().read_model(str(job.folder / "fp32.onnx"))
    # Weights are stored in half precision; OpenVINO computes in bf16 where the CPU has it.
    ov.save_model(model, str(job.folder / "bf16.xml"), compress_to_fp16=True)
    _accept(job, "bf16.openvino", ["bf16.xml", "bf16.bin"], {"openvino": ov.__version__})


def _int8(job: _Job) -> None:
    """Quantize; where the gate or the measured drop fails and it may, leave layers in float."""
    from svfap_edge.export import int8

    fidelity.check_clips_tell(job.reference)
    try:
        _quantize(job)
        good = _drop_is_fine(job)
    except QualityGateError:
        if not (job.options.rescue or job.options.max_drop is not None):
            raise
        good = False
    if not good:
        _rescue(job)
    assert job.calibration is not None
    job.manifest.quantization.update(
        {
            "scheme": int8.SCHEME,
            "tool": f"nncf {version('nncf')}",
            "clips": len(job.calibration_clips),
            "labels": _histogram(job.calibration.labels[job.held_back :]),
            "calibration_sha256": hashlib.sha256(
                " ".join(sorted(job.calibration.digests)).encode()
            ).hexdigest(),
            "files": sorted(job.calibration.digests),
            "float_layers": job.float_layers,
            "damage": job.damage,
        }
    )


def _quantize(job: _Job) -> None:
    """Build the INT8 artifacts with the float layers decided so far."""
    import openvino as ov

    from svfap_edge.export import int8

    source = job.folder / "fp32.onnx"
    clips = job.calibration_clips
    if {"int8.onnx", "int8.tensorrt"} & set(job.options.artifacts):
        job.progress(f"Quantizing int8.onnx on {len(clips)} clips")
        int8.int8_onnx_from_fp32(source, job.folder / "int8.onnx", clips, job.float_layers)
        _accept(job, "int8.onnx", ["int8.onnx"], {"opset": OPSET})
    if "int8.openvino" in job.options.artifacts:
        job.progress(f"Quantizing int8.openvino on {len(clips)} clips")
        int8.int8_openvino_from_fp32(source, job.folder / "int8.xml", clips, job.float_layers)
        _accept(job, "int8.openvino", ["int8.xml", "int8.bin"], {"openvino": ov.__version__})


def _drop_is_fine(job: _Job) -> bool:
    """Whether no INT8 artifact loses more than `max_drop` on the labelled files; True unasked."""
    if job.options.max_drop is None:
        return True
    assert job.options.validate is not None
    names = [name for name in job.manifest.artifacts if name.startswith("int8")]
    job.progress(f"Measuring the drop of {', '.join(names)} on {job.options.validate}")
    options = EvaluationOptions(
        baseline="fp32.onnx", artifacts=names, speed=False, max_drop=job.options.max_drop
    )
    # The digests are not in the manifest yet, so the calibration files are refused here.
    assert job.calibration is not None
    marked = replace(job.manifest, quantization={"files": list(job.calibration.digests)})
    assert job.detector is not None
    found = analyse(
        evaluate([Bundle(job.folder, marked)], job.options.validate, job.detector, options)
    )
    for candidate in found.candidates:
        job.progress(candidate.verdict)
        quality = job.manifest.quality[candidate.artifact.name]
        quality["drop"] = {drop.metric: round(drop.points, 3) for drop in candidate.drops}
    return bool(found.passed)


def _rescue(job: _Job) -> None:
    """Rank the layers by their damage; leave in float the fewest that bring INT8 back."""
    from svfap_edge.export import int8, sensitivity

    source = job.folder / "fp32.onnx"
    with tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch:
        before = Path(scratch) / "full"
        shutil.copytree(job.folder, before)
        full = Path(scratch) / "int8.onnx"
        job.progress("INT8 loses too much; quantizing once more to find the layers that hurt")
        int8.int8_onnx_from_fp32(source, full, job.calibration_clips)
        ranked = sensitivity.rank_layers(source, full, job.gate_clips[:4], job.progress)
        job.damage = [damage.to_dict() for damage in ranked]
        plain, quantized = onnx.load(str(source)), onnx.load(str(full))

        def passes(layers: list[str]) -> bool:
            """The gate on a few clips first, which is cheap; the metric last."""
            variant = sensitivity.with_float_layers(quantized, plain, layers)
            found = fidelity.compare(job.reference, sensitivity.run_onnx(variant, job.gate_clips))
            if fidelity.failures(found, "int8"):
                return False
            job.float_layers = layers
            job.progress(f"Trying {len(layers)} of {len(ranked)} layers in float")
            try:
                _quantize(job)
            except QualityGateError:
                return False
            return _drop_is_fine(job)

        chosen = sensitivity.fewest_float_layers(ranked, passes)
        if chosen is None:
            raise QualityGateError(
                "INT8 loses too much even with half of the layers in float: it is not worth "
                "having for this model. The layers that hurt most: "
                f"{', '.join(damage.layer for damage in ranked[:5])}. Nothing was written."
            )
        if chosen != job.float_layers:  # the search ended on another try
            job.float_layers = chosen
            _quantize(job)
            _drop_is_fine(job)
        _tell_cost(job, before, len(ranked))


def _tell_cost(job: _Job, before: Path, layers: int) -> None:
    """One sentence: what stays in float, and what that costs in speed."""
    name = next(name for name in job.manifest.artifacts if name.startswith("int8"))
    bundles.write_manifest(job.folder, job.manifest)
    engine = choose(Bundle.open(job.folder), name)[1]
    full, mixed = time_artifacts(
        [Timed(before, name, engine), Timed(job.folder, name, engine)], clips=10, rounds=2
    )
    ratio = float(np.median(mixed) / np.median(full))
    kept = job.float_layers
    listed = ", ".join(kept[:4]) + (f" and {len(kept) - 4} more" if len(kept) > 4 else "")
    text = (
        f"{len(kept)} of {layers} layers stay in float ({listed}); a clip takes {ratio:.2f} times "
        f"as long as in full INT8 ({name} on {engine})"
    )
    job.manifest.quantization["float_cost"] = text
    job.progress(text)


def _accept(job: _Job, name: str, files: list[str], needs: dict[str, Any]) -> None:
    """List an artifact in the manifest, then pass it through the gate on every engine."""
    job.manifest.artifacts[name] = Artifact(
        name,
        tuple(bundles.describe_file(job.folder / file) for file in files),
        built_by=_built_by(name),
        needs=needs,
    )
    bundles.write_manifest(job.folder, job.manifest)
    checks = {}
    precision, form = name.replace("half", "").split(".")
    for engine in available_engines():
        if form not in ENGINES[engine].formats:
            continue
        job.progress(f"Comparing {name} on {engine} with PyTorch")
        with closing(load_backend(Bundle.open(job.folder), name, engine)) as backend:
            # The precision an engine really uses decides what it may differ by.
            found = fidelity.check(backend, job.reference, job.gate_clips, precision)
            checks[engine] = {**found.to_dict(), "computed_in": backend.spec.precision}
    count = precisions_of_onnx if form == "onnx" else precisions_of_openvino
    job.manifest.quality[name] = {
        "parity": checks,
        "clips": "real" if job.calibration else "synthetic",
        "layers": count(job.folder / files[0]),
    }


def _built_by(name: str) -> dict[str, str]:
    tools = ["svfap-edge", "onnx"]
    tools += ["nncf"] if name.startswith("int8") else []
    tools += ["openvino"] if name.endswith(".openvino") else []
    return {tool: version(tool) for tool in tools}


def _histogram(labels: Sequence[str]) -> dict[str, int]:
    return {label or "unknown": labels.count(label) for label in sorted(set(labels))}


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
