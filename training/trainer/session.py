"""What `svfap-edge finetune` and `svfap-edge pretrain` do from settings to report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from svfap_edge.atomic import write_text_atomically
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.config import write_toml
from svfap_edge.training.model import TPSBT
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig, RunSettings

from .curves import write_report
from .devices import build_fabric
from .finetuning import Finetuning
from .job import Job
from .loop import BEST, HISTORY, RESUME, Place, fit, prepare_folder
from .pretraining import Pretraining
from .progress import say
from .resume import check_resume, record_of

CONFIG = "config.toml"


def finetune(settings: FinetuneConfig, *, resume: bool = False, quantize: bool = False) -> Path:
    """Fine-tune, evaluate the best weights by both protocols, write the report.

    Args:
        quantize: Train with the quantization of INT8 in the forward pass.

    Returns:
        The checkpoint with the best weights; the report lies beside it.

    Raises:
        SvfapError: settings, lists, checkpoints or devices are wrong, or training cannot go on.
    """
    fabric = build_fabric(settings.run)
    job = Finetuning.prepare(settings)
    if quantize:
        from .quantize import quantized

        job = quantized(job)
    place = _train(job, settings, fabric, resume)
    best = Path(settings.run.output) / BEST
    loaded = load_checkpoint(best)
    model = loaded.model.to(fabric.device)
    # What was quantized in training is plain in the checkpoint: another model, other figures.
    published = None if quantize else job.validated.get(loaded.info["epoch"])
    final = {"val": _both_protocols(job, fabric, model, job.val, published)}
    if job.test is not None:
        final["test"] = _both_protocols(job, fabric, model, job.test)
    unreadable = job.join_logs(fabric)
    if fabric.is_global_zero:
        write_report(Path(settings.run.output), place.history, final, job.task, unreadable)
    fabric.barrier()
    return best


def pretrain(settings: PretrainConfig, *, resume: bool = False) -> Path:
    """Pre-train by masked auto-encoding; write pictures of reconstructions and the report.

    Returns:
        The checkpoint with the best weights, for `finetune` with `model.start`.
    """
    fabric = build_fabric(settings.run)
    job = Pretraining.prepare(settings)
    place = _train(job, settings, fabric, resume)
    unreadable = job.join_logs(fabric)
    if fabric.is_global_zero:
        write_report(Path(settings.run.output), place.history, {}, None, unreadable)
    fabric.barrier()
    return Path(settings.run.output) / BEST


def _train(
    job: Job, settings: FinetuneConfig | PretrainConfig, fabric: Fabric, resume: bool
) -> Place:
    run: RunSettings = settings.run
    prepare_folder(Path(run.output), resume, fabric)
    record = record_of(job, fabric.world_size)
    if resume:
        check_resume(Path(run.output) / RESUME, record, settings.optim.epochs)
    if fabric.is_global_zero:
        write_text_atomically(Path(run.output) / CONFIG, write_toml(settings))
    place = fit(job, settings.optim, run, fabric, record, resume)
    say(f"{Path(run.output) / HISTORY} holds the figures of each epoch.")
    return place


def _both_protocols(
    job: Finetuning, fabric: Fabric, model: TPSBT, clips: LabelledClips,
    published: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a list by the streaming protocol, and by the published one unless given."""
    return {
        "published": published or job.evaluate(fabric, model, clips),
        "streaming": job.evaluate_streaming(fabric, model, clips),
    }
