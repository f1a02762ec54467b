"""Checkpoint to bundle: build every artifact, check each, write all or nothing."""

from __future__ import annotations

import datetime
import platform
import tempfile
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from svfap_edge import bundle as bundles
from svfap_edge.bundle import Bundle, Manifest
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import CheckpointError, TaskError
from svfap_edge.tasks import TASKS, Task
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint, weights_file
from svfap_edge.training.checkpoint_file import write_safetensors

from .build import (
    build_artifacts,
    check_passed,
    finish,
    saying_nothing_was_written,
    store_checks,
)
from .job import Job, Progress, accept, prepare
from .model_files import OPSET
from .onnx_from_model import onnx_from_model
from .options import ARTIFACTS, ExportOptions, check_options
from .reference import torch_logits

__all__ = ["ARTIFACTS", "ExportOptions", "export_bundle"]

WEIGHTS = "weights.safetensors"
"""Name of the file of weights in a bundle."""

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
        QualityGateError: an artifact is too far from PyTorch. It was left out; those that passed
            were written, if any.
    """
    check_options(options)
    bundles.check_target(output, replace=options.overwrite)
    progress(f"Opening {checkpoint.name}")
    checkpoint = weights_file(checkpoint)
    if options.task is not None and options.task.kind == "traits":
        changes.setdefault("activation", "sigmoid")  # as the published code ends its heads
    outputs = None if options.task is None else len(options.task.labels)
    loaded = load_checkpoint(checkpoint, outputs=outputs, weights=options.weights, **changes)
    if loaded.assumed:
        progress(loaded.assumed)
    task = _checked_task(loaded, options, checkpoint)
    manifest = _manifest(checkpoint, loaded, options, task, output)
    with (
        saying_nothing_was_written(),
        bundles.writing(output, replace=options.overwrite) as folder,
        tempfile.TemporaryDirectory(prefix="svfap-edge-") as scratch,
    ):
        progress("Writing fp32.onnx")
        onnx_from_model(loaded.model, folder / "fp32.onnx", features=options.features)
        answer = partial(torch_logits, loaded.model)
        job = prepare(options, folder, manifest, progress, Path(scratch), answer, "PyTorch")
        accept(job, "fp32.onnx", ["fp32.onnx"], {"opset": OPSET})
        if options.keep_weights:
            _keep_weights(job, loaded, task)
        build_artifacts(job)
        store_checks(job, answer)
        finish(job)
    check_passed(job, output)
    return Bundle.open(output)


def _keep_weights(job: Job, loaded: Checkpoint, task: Task) -> None:
    file = job.folder / WEIGHTS
    about = {"config": loaded.model.config.to_dict(), "task": task.to_dict()}
    write_safetensors(file, loaded.model.state_dict(), about, half=True)
    job.manifest = replace(job.manifest, weights=bundles.describe_file(file))


def _manifest(
    checkpoint: Path, loaded: Checkpoint, options: ExportOptions, task: Task, output: Path
) -> Manifest:
    config = loaded.model.config
    span_s = options.span_s or config.frames * task.spacing_s
    return Manifest(
        name=options.name or output.resolve().name,
        task=task,
        clip=ClipSpec(config.frames, span_s, config.size),
        margin=options.margin,
        artifacts={},
        features=config.width if options.features else 0,
        provenance=_provenance(checkpoint, loaded),
    )


def _checked_task(loaded: Checkpoint, options: ExportOptions, path: Path) -> Task:
    """The task, with its order of labels certain where the checkpoint holds the same one."""
    config, task = loaded.model.config, options.task or loaded.info.get("task")
    if loaded.kind == "pre-trained" and not options.fresh_head:
        raise CheckpointError(
            f"'{path}' is a pre-training checkpoint: it has no head, so it predicts nothing. "
            "Fine-tune it first; or, to measure speed or export features, pass --fresh-head."
        )
    if task is None:
        raise CheckpointError(
            f"'{path}' does not say what it was trained for, as checkpoints of svfap-edge finetune "
            f"do. Name its task: --task {'|'.join(TASKS)}, or a name of your own with --labels."
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
