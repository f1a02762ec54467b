"""Processes: those that torchrun started train together, whatever the settings leave open."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

from svfap_edge.errors import ConfigError
from svfap_edge.training.settings import RunSettings
from svfap_edge.training.trainer.train import build_fabric, processes_of, strategy_of

PLAIN = RunSettings(accelerator="cpu", precision="32-true")


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun sets in the first of 2 x 3 processes."""
    found = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 6, "LOCAL_WORLD_SIZE": 3}
    found |= {"GROUP_RANK": 0, "GROUP_WORLD_SIZE": 2}
    for name, value in found.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")


def test_settings_left_at_one_take_what_torchrun_started(torchrun: None) -> None:
    assert processes_of(PLAIN) == (3, 2)
    assert processes_of(RunSettings(devices="auto")) == (3, 2)
    assert processes_of(RunSettings(devices=3, nodes=2)) == (3, 2)


def test_without_torchrun_the_settings_count() -> None:
    assert processes_of(RunSettings(devices=3, nodes=2)) == (3, 2)
    assert processes_of(PLAIN) == (1, 1)


@pytest.mark.parametrize("run", [RunSettings(devices=2), RunSettings(nodes=4)])
def test_other_numbers_than_torchruns_are_refused(torchrun: None, run: RunSettings) -> None:
    with pytest.raises(ConfigError, match=r"are not available here.*does not match the world size"):
        build_fabric(run)


def test_processes_of_another_launcher_are_not_separate_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"4 processes were started.*trains with 1"):
        build_fabric(PLAIN)


def test_fsdp_is_known_by_its_strategy() -> None:
    names = ("auto", "ddp", "fsdp")
    found = [strategy_of(replace(PLAIN, strategy=name)) for name in names]
    assert found[:2] == ["auto", "ddp"]
    assert isinstance(found[2], ModelParallelStrategy)
