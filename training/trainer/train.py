"""The commands `svfap-edge finetune` and `svfap-edge pretrain`, from settings to report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from svfap_edge.atomic import write_text_atomically
from svfap_edge.training.checkpoint import load_checkpoint
from svfap_edge.training.config import write_toml
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
        resume: Whether the run in `run.output` is continued.
        quantize: Whether the quantization of INT8 is in the forward pass.

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
    loaded = load_checkpoint(Path(settings.run.output) / BEST)
    model = loaded.model.to(fabric.device)
    # The checkpoint holds the model without its quantizers: another model, with other figures.
    known = {} if quantize else {"val": objective.validated.get(loaded.info["epoch"])}
    final = {
        name: {
            "published": known.get(name) or objective.evaluate(fabric, model, clips),
            "streaming": objective.evaluate(fabric, model, clips, streaming=True),
        }
        for name, clips in objective.lists.items()
        if name != "train"
    }
    return _report(objective, fabric, place, final)


def pretrain(settings: PretrainConfig, *, resume: bool = False) -> Path:
    """Pre-train by masked auto-encoding; write pictures of reconstructions and the report.

    Arguments, result and errors are those of `finetune`, whose `model.start` takes the result.
    """
    fabric = build_fabric(settings.run)
    objective = Pretraining.prepare(settings)
    place = _train(objective, fabric, resume)
    return _report(objective, fabric, place, {})


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


def _report(
    objective: Objective, fabric: Fabric, place: Place, final: dict[str, dict[str, Any]]
) -> Path:
    """Write the report; return the checkpoint with the best weights."""
    folder = Path(objective.settings.run.output)
    unreadable = objective.join_logs(fabric)
    if fabric.is_global_zero:
        write_report(folder, place.history, final, objective.task, unreadable)
    fabric.barrier()
    return folder / BEST
