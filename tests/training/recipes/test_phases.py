"""The loop that trains for a set time."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from svfap_edge.training.recipes import phases
from svfap_edge.training.recipes.phases import train_for

SECOND = 1 / 60


def test_steps_are_taken_reported_and_followed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "WARM_UP", 10)
    clock = itertools.count(0, 0.01)  # seconds; every step reads it once
    monkeypatch.setattr(phases, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    taken: list[tuple[int, float]] = []
    reported: list[tuple[float, int, float | None]] = []
    followed: list[int] = []

    def loss_of(step: int) -> Tensor:
        taken.append((step, optimizer.param_groups[0]["lr"]))
        return weight.square().sum()

    train_for(SECOND, 0.1, optimizer, loss_of, lambda *row: reported.append(row), followed.append)
    steps, rates = zip(*taken, strict=True)
    assert steps == tuple(range(len(steps)))
    assert followed == [step + 1 for step in steps]
    assert rates[0] < rates[5] < rates[9] > rates[-1]
    assert max(rates) <= 0.1
    assert 2 <= len(reported) <= 6
    assert [reported[-1][0], reported[-1][1]] == [SECOND, len(steps)]
    first, last = reported[0][2], reported[-2][2]
    assert first is not None
    assert last is not None
    assert last < first
    assert abs(weight.item()) < 0.5


def test_no_time_is_no_step() -> None:
    weight = nn.Parameter(torch.ones(1))
    reported: list[tuple[float, int, float | None]] = []
    train_for(
        0.0,
        0.1,
        torch.optim.SGD([weight], lr=0.1),
        lambda step: weight.sum(),
        lambda *row: reported.append(row),
    )
    assert reported == [(0.0, 0, None)]
    assert weight.item() == 1
