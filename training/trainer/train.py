"""The commands `svfap-edge finetune` and `svfap-edge pretrain`: devices, training, report."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from svfap_edge.atomic import write_text_atomically, written_whole
from svfap_edge.errors import ConfigError
from svfap_edge.training.checkpoint import Checkpoint, load_checkpoint
from svfap_edge.training.checkpoint_file import write_safetensors
from svfap_edge.training.config import write_toml
from svfap_edge.training.settings import FinetuneConfig, PretrainConfig, RunSettings

from .curves import write_report
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
    if fabric.is_global_zero:
        _write_plain(loaded, objective, Path(settings.run.output) / BEST)
    model = loaded.model.to(fabric.device)
    # The checkpoint holds the model without its quantizers: another model, with other figures.
    row = {} if quantize else place.history[loaded.info["epoch"] - 1]
    known = {"val": {k: v for k, v in row.items() if k not in ("epoch", "loss")}}
    final = {
        name: {
            "published": known.get(name) or objective.evaluate(fabric, model, clips),
            "streaming": objective.evaluate(fabric, model, clips, streaming=True),
        }
        for name, clips in objective.lists.items()
        if name != "train"
    }
    return _report(objective, fabric, place, final)


def _write_plain(loaded: Checkpoint, objective: Finetuning, best: Path) -> None:
    """Write the best weights once more as safetensors, which no reader can run code from."""
    about = {
        "config": loaded.model.config.to_dict(),
        "task": objective.task.to_dict(),
    }
    with written_whole(best.with_suffix(".safetensors")) as path:
        write_safetensors(path, loaded.model.state_dict(), about)


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


def build_fabric(run: RunSettings) -> Fabric:
    """Launch Fabric with the devices, nodes, strategy and precision of the settings.

    Under `torchrun` the number of processes is the one that it started.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
    for name in ("lightning.fabric", "lightning.pytorch"):  # no notes; warnings stay
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        devices, nodes = processes_of(run)
        fabric = Fabric(
            accelerator=run.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy_of(run),
            precision=run.precision,
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"These devices are not available here: accelerator={run.accelerator}, "
            f"devices={run.devices}, strategy={run.strategy}, precision={run.precision}. "
            f"{str(error).strip()[:300]}"
        ) from error
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started not in (1, fabric.world_size):
        raise ConfigError(
            f"{started} processes were started (WORLD_SIZE), but this one trains with "
            f"{fabric.world_size}. Set run.devices, run.nodes and run.strategy=ddp to what was "
            "started, or start them with torchrun."
        )
    return fabric


def processes_of(run: RunSettings) -> tuple[int | str, int]:
    """Number of devices of each node, and number of nodes.

    Under `torchrun`, settings that are left at 1 mean what it started; otherwise each of its
    processes would train on its own in the same folder. Other numbers are a ValueError.
    """
    if not TorchElasticEnvironment.detect():
        return run.devices, run.nodes
    devices = run.devices
    if devices in (1, "auto"):
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if run.nodes == 1 else run.nodes
    TorchElasticEnvironment().validate_settings(int(devices), nodes)
    return devices, nodes


def strategy_of(run: RunSettings) -> str | Strategy:
    """The strategy by its name; for "fsdp", fully sharded data parallelism (Zhao et al. 2023).

    It saves whole weights in one file, since only a run on equally many devices could open a
    sharded checkpoint.
    """
    if run.strategy != "fsdp":
        return run.strategy
    return ModelParallelStrategy(_shard, save_distributed_checkpoint=False)


def _shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share the weights among all processes; they are gathered block by block."""
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block)
    fully_shard(model)
    return model
