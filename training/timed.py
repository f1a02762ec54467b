"""A training loop of so many minutes, for the scripts that make the default model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from svfap_edge.training.optim import rate_at

REPORT_MINUTES = 2.5


@dataclass(frozen=True)
class Pace:
    """How long to train, and how fast: the rate falls by half a cosine from `rate` to `least`."""

    minutes: float
    rate: float
    least: float
    warm_up: int  # steps


def train_for(
    pace: Pace,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    tell: Callable[[float, int, float | None], None],
    after: Callable[[int], None] = lambda done: None,
) -> None:
    """Take steps until the time is over.

    Args:
        loss_of: The loss of the batch of step 0, 1, ...
        tell: Called every few minutes and at the end with the minutes gone, the steps done and
            the mean loss since the last call (None if there was no step).
        after: Called after each step with the steps done.
    """
    trained = [weight for group in optimizer.param_groups for weight in group["params"]]
    start, step, tell_at = time.monotonic(), 0, REPORT_MINUTES
    losses: list[float] = []

    def mean_loss() -> float | None:
        return round(float(np.mean(losses)), 4) if losses else None

    while (elapsed := (time.monotonic() - start) / 60) < pace.minutes:
        rate = rate_at(int(1e6 * elapsed / pace.minutes), 10**6, 0, pace.rate, pace.least)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / pace.warm_up)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        after(step)
        if elapsed >= tell_at:
            tell_at = elapsed + REPORT_MINUTES
            tell(elapsed, step, mean_loss())
            losses = []
    tell(pace.minutes, step, mean_loss())
