"""The loop of so many minutes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from svfap_edge.training.recipes import phases as timed
from svfap_edge.training.recipes.phases import Pace, train_for

SECOND = 1 / 60


def test_steps_are_taken_told_and_followed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "REPORT_MINUTES", 0.25 * SECOND)
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    taken: list[tuple[int, float]] = []
    told: list[tuple[float, int, float | None]] = []
    followed: list[int] = []

    def loss_of(step: int) -> Tensor:
        time.sleep(0.01)
        taken.append((step, optimizer.param_groups[0]["lr"]))
        return weight.square().sum()

    pace = Pace(SECOND, rate=0.1, least=0.001, warm_up=10)
    train_for(pace, optimizer, loss_of, lambda *row: told.append(row), followed.append)
    steps, rates = zip(*taken, strict=True)
    assert steps == tuple(range(len(steps)))
    assert followed == [step + 1 for step in steps]
    assert rates[0] < rates[5] < rates[9] > rates[-1]
    assert max(rates) <= 0.1
    assert 2 <= len(told) <= 6
    assert [told[-1][0], told[-1][1]] == [SECOND, len(steps)]
    first, last = told[0][2], told[-2][2]
    assert first is not None
    assert last is not None
    assert last < first
    assert abs(weight.item()) < 0.5


def test_no_time_is_no_step() -> None:
    weight = nn.Parameter(torch.ones(1))
    told: list[tuple[float, int, float | None]] = []
    train_for(
        Pace(0.0, 0.1, 0.1, 1),
        torch.optim.SGD([weight], lr=0.1),
        lambda step: weight.sum(),
        lambda *row: told.append(row),
    )
    assert told == [(0.0, 0, None)]
    assert weight.item() == 1
