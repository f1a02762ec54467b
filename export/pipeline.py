"""Checkpoint to bundle: build every artifact, check each, write all or nothing."""

from __future__ import annotations

import datetime
import platform
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Artifact, Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, CheckpointError, TaskError
from svfap_edge.tasks import Task
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint

from .job import Job, Progress, accept, built_by, prepare
from .model_files import write_openvino
from .onnx_from_model import OPSET, onnx_from_model
from .options import ARTIFACTS, ExportOptions, check_options

__all__ = ["ARTIFACTS", "ExportOptions", "export_bundle"]

ORDER_NOTE = "The order of the labels is the one stored in the checkpoint."


def export_bundle(
    checkpoint: Path,
    output: Path,
    options: ExportOptions,
    progress: Progress = lambda message: None,
    **changes: object,
) -> Bundle:
    """Export a checkpoint.

    Args:
        checkpoint: A file that `svfap_edge.training.checkpoint.load_checkpoint` opens.
        output: The bundle's folder; appears complete or not at all.
        progress: Called with a sentence before each step.
        changes: Fields of `TPSBTConfig` that overrule the checkpoint.

    Raises:
        CheckpointError, TaskError, SourceError, BundleError: bad input, or a full disk; nothing
            was written.
        QualityGateError: an artifact is too far from PyTorch; nothing was written.
    """
    check_options(options)
    bundles.check_target(output, replace=options.overwrite)
    progress(f"Opening {checkpoint.name}")
    if options.task.kind == "traits":
        changes.setdefault("activation", "sigmoid")  # as the published code ends its heads
    loaded = load_checkpoint(
        checkpoint, outputs=len(options.task.labels), weights=options.weights, **changes
    )
    if loaded.assumed:
        progress(loaded.assumed)
    options = replace(options, task=_checked_task(loaded, options, checkpoint))
    manifest = _manifest(checkpoint, loaded, options, output)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch,
            bundles.writing(output, replace=options.overwrite) as folder,
        ):
            job = prepare(options, loaded, folder, manifest, progress, Path(scratch))
            _build(job)
    except OSError as error:
        raise BundleError(
            f"The export to '{output}' stopped: {error}. Nothing was written there. It needs room "
            f"in that folder and in '{tempfile.gettempdir()}'."
        ) from error
    return Bundle.open(output)


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


def _build(job: Job) -> None:
    """Build all artifacts in order, pass each through the gate, then write the manifest."""
    wanted = job.options.artifacts
    job.progress("Writing fp32.onnx")
    onnx_from_model(job.loaded.model, job.folder / "fp32.onnx", features=job.options.features)
    accept(job, "fp32.onnx", ["fp32.onnx"], {"opset": OPSET})
    if "bf16.openvino" in wanted:
        _bf16(job)
    if any(name.startswith("int8") for name in wanted):
        from svfap_edge.export.int8.artifacts import build_int8

        build_int8(job)
    if {"fp16.onnx", "fp16.tensorrt"} & set(wanted):
        _half(job, "fp32.onnx", "fp16.onnx")
    if "fp16.tensorrt" in wanted:
        _plan(job, "fp16.onnx", "fp16.tensorrt")
    if "int8.tensorrt" in wanted:
        # The float rest of INT8 in half, or TensorRT would compute it in float32.
        _half(job, "int8.onnx", "int8-fp16.onnx", held_to="int8")
        _plan(job, "int8-fp16.onnx", "int8.tensorrt")
    for name in [name for name in job.manifest.artifacts if name not in wanted]:
        for file in job.manifest.artifacts.pop(name).files:
            (job.folder / file.file).unlink()
        job.manifest.quality.pop(name, None)
    bundles.write_manifest(job.folder, job.manifest)


def _half(job: Job, source: str, name: str, held_to: str | None = None) -> None:
    from .half_from_onnx import half_from_onnx

    job.progress(f"Writing {name}")
    half_from_onnx(job.folder / source, job.folder / name)
    accept(job, name, [name], {"opset": OPSET}, held_to)


def _plan(job: Job, source: str, name: str) -> None:
    """Build a TensorRT engine of an ONNX artifact that passed the gate."""
    from svfap_edge.export.trt.builder import find_builder, plan_settings
    from svfap_edge.export.trt.plan_from_onnx import needs, plan_from_onnx

    capabilities = job.options.compute_capabilities
    builder = find_builder("auto", capabilities)
    settings = plan_settings(job.options.trt_options, capabilities)
    job.progress(f"Building {name} with {builder.name} {builder.version}")
    file = f"{name.partition('.')[0]}.plan"
    info = plan_from_onnx(job.folder / source, job.folder / file, settings, builder)
    job.manifest.artifacts[name] = Artifact(
        name,
        (bundles.describe_file(job.folder / file),),
        built_by={**built_by(name), builder.name: builder.version},
        needs=needs(info),
    )
    job.manifest.quality[name] = {
        "checked_as": job.manifest.quality[source],
        "layers": info.layers,
        "build": asdict(info),
    }


def _bf16(job: Job) -> None:
    import openvino as ov

    job.progress("Writing bf16.openvino")
    model = ov.Core().read_model(str(job.folder / "fp32.onnx"))
    # Weights are stored in half precision; OpenVINO computes in bf16 where the CPU has it.
    write_openvino(model, job.folder / "bf16.xml", half=True)
    accept(job, "bf16.openvino", ["bf16.xml", "bf16.bin"], {"openvino": ov.__version__})


def _checked_task(loaded: Checkpoint, options: ExportOptions, path: Path) -> Task:
    """The task, with its order of labels certain where the checkpoint holds the same one."""
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
    stored = loaded.info.get("labels")
    if stored is None or loaded.kind == "pre-trained":
        return task
    if [label.lower() for label in stored] != [label.lower() for label in task.labels]:
        raise TaskError(
            f"'{path}' was fine-tuned on other labels than those of task '{task.name}', or in "
            f"another order: {', '.join(stored)}; got {', '.join(task.labels)}. Each output would "
            f"be called by another's name. Pass --labels {','.join(stored)}"
        )
    return task if task.order_certain else replace(task, order_certain=True, note=ORDER_NOTE)


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
