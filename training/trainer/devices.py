"""Devices, processes and how they share the work, set up for Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from svfap_edge.errors import ConfigError

if TYPE_CHECKING:
    from lightning.fabric.strategies.strategy import Strategy

    from svfap_edge.training.settings import RunSettings


def build_fabric(run: RunSettings) -> Fabric:
    """Launch Fabric with the devices, nodes, strategy and precision of the settings.

    Under `torchrun` the number of processes is the one that it started.

    Raises:
        ConfigError: the machine has no such device, or too few of them; or a launcher started
            another number of processes than the settings ask for.
    """
    if run.threads:
        torch.set_num_threads(run.threads)
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
    _require_all_processes(fabric)
    return fabric


def processes_of(run: RunSettings) -> tuple[int | str, int]:
    """Number of devices of each node, and number of nodes.

    Under `torchrun`, settings that are left at 1 mean what it started; otherwise each of its
    processes would train on its own in the same folder.

    Raises:
        ValueError: the settings ask for other numbers than torchrun started.
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


def is_sharded(fabric: Fabric) -> bool:
    """Whether each process holds a part of the weights only."""
    return isinstance(fabric.strategy, ModelParallelStrategy)


def _require_all_processes(fabric: Fabric) -> None:
    """Raise ConfigError if a launcher started processes that do not train together."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started not in (1, fabric.world_size):
        raise ConfigError(
            f"{started} processes were started (WORLD_SIZE), but this one trains with "
            f"{fabric.world_size}. Set run.devices, run.nodes and run.strategy=ddp to what was "
            "started, or start them with torchrun."
        )
