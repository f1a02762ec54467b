"""What Lightning Fabric is told of processes and of how they share the work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import FSDPStrategy

from svfap_edge.errors import ConfigError

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import Strategy

    from svfap_edge.training.settings import RunSettings


def processes_of(run: RunSettings) -> tuple[int | str, int]:
    """Devices of each node, and nodes. Settings left at one mean, under `torchrun`, what it
    started: else each of its processes would be a training of its own in the same folder.

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
    """The strategy by name, or FSDP that saves whole weights in one file: a sharded checkpoint
    could not be opened by anything but a run on as many devices."""
    return FSDPStrategy(state_dict_type="full") if run.strategy == "fsdp" else run.strategy


def require_all_processes(fabric: Fabric) -> None:
    """Raises ConfigError where a launcher started processes that do not train together."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started not in (1, fabric.world_size):
        raise ConfigError(
            f"{started} processes were started (WORLD_SIZE), but this one trains with "
            f"{fabric.world_size}. Set run.devices, run.nodes and run.strategy=ddp to what was "
            "started, or start them with torchrun."
        )
