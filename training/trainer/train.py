"""The commands `svfap-edge finetune` and `svfap-edge pretrain`, from settings to report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from svfap_edge.atomic import write_text_atomically
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.clips.reading import LabelledClips
from svfap_edge.training.config import write_toml
from svfap_edge.training.model import TPSBT
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig

from .curves import write_report
from .devices import build_fabric
from .finetuning import Finetuning
from .loop import BEST, HISTORY, RESUME, Place, Training, prepare_folder
from .objective import Objective
from .pretraining import Pretraining
from .progress import say
from .resume import check_resume, fingerprint_of

CONFIG = "config.toml"


def finetune(settings: FinetuneConfig, *, resume: bool = False, quantize: bool = False) -> Path:
    """Fine-tune, evaluate the best weights by both protocols and write the report.

    Args:
        settings: All settings of the run.
        resume: Continue the run in `run.output`.
        quantize: Train with the quantization of INT8 in the forward pass.

    Returns:
        The checkpoint with the best weights; the report lies beside it.

    Raises:
        SvfapError: settings, lists, checkpoints or devices are wrong, or training cannot go on.
    """
    fabric = build_fabric(settings.run)
    objective = Finetuning.prepare(settings)
    if quantize:
        from .quantize import quantized

        objective = quantized(objective)
    place = _train(objective, fabric, resume)
    best = Path(settings.run.output) / BEST
    loaded = load_checkpoint(best)
    model = loaded.model.to(fabric.device)
    # The checkpoint holds the model without its quantizers: another model, with other figures.
    published = None if quantize else objective.validated.get(loaded.info["epoch"])
    final = {"val": _both_protocols(objective, fabric, model, objective.val, published)}
    if objective.test is not None:
        final["test"] = _both_protocols(objective, fabric, model, objective.test)
    unreadable = objective.join_logs(fabric)
    if fabric.is_global_zero:
        write_report(Path(settings.run.output), place.history, final, objective.task, unreadable)
    fabric.barrier()
    return best


def pretrain(settings: PretrainConfig, *, resume: bool = False) -> Path:
    """Pre-train by masked auto-encoding; write pictures of reconstructions and the report.

    Args:
        settings: All settings of the run.
        resume: Continue the run in `run.output`.

    Returns:
        The checkpoint with the best weights, for `finetune` with `model.start`.

    Raises:
        SvfapError: settings, lists or devices are wrong, or training cannot go on.
    """
    fabric = build_fabric(settings.run)
    objective = Pretraining.prepare(settings)
    place = _train(objective, fabric, resume)
    unreadable = objective.join_logs(fabric)
    if fabric.is_global_zero:
        write_report(Path(settings.run.output), place.history, {}, None, unreadable)
    fabric.barrier()
    return Path(settings.run.output) / BEST


def _train(objective: Objective, fabric: Fabric, resume: bool) -> Place:
    settings = objective.settings
    folder = Path(settings.run.output)
    prepare_folder(folder, resume, fabric)
    fingerprint = fingerprint_of(objective, fabric.world_size)
    if resume:
        check_resume(folder / RESUME, fingerprint, settings.optim.epochs)
    if fabric.is_global_zero:
        write_text_atomically(folder / CONFIG, write_toml(settings))
    training = Training(objective, fabric, fingerprint)
    if resume:
        training.load()
    training.to_the_end()
    say(f"{folder / HISTORY} holds the figures of each epoch.")
    return training.place


def _both_protocols(
    objective: Finetuning, fabric: Fabric, model: TPSBT, clips: LabelledClips,
    published: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of a list by the streaming protocol, and by the published one unless given."""
    return {
        "published": published or objective.evaluate(fabric, model, clips),
        "streaming": objective.evaluate_streaming(fabric, model, clips),
    }
