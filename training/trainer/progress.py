"""Progress of training: lines with the rate and the time left, and TensorBoard logs."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

EVERY_S = 10.0  # between two lines
RECENT = 30  # lines over which the rate is averaged: about five minutes, evaluations included


@rank_zero_only
def say(text: str) -> None:
    """Print a line on standard error, once for all processes."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Lines on standard error of the first process; silent in the others.

    Args:
        logs: Folder for TensorBoard's event files; None writes none.
    """

    def __init__(self, logs: Path | None) -> None:
        self._writer: Any = None
        if logs is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(logs / "tensorboard"))  # type: ignore[no-untyped-call]
        self._done = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def start(self, epoch: int, epochs: int, step: int, steps: int, clips: int) -> None:
        """Begin an epoch at one of its steps; all processes together take `clips` clips a step."""
        self._epoch, self._epochs, self._steps, self._clips = epoch, epochs, steps, clips
        self._said_s = time.monotonic()
        if not self._marks:
            self._first = epoch * steps + step
            self._marks.append((self._said_s, 0))

    def step(self, step: int, loss: float) -> None:
        """Count a step; print a line if the last one is `EVERY_S` seconds old."""
        self._done += 1
        now = time.monotonic()
        if now - self._said_s < EVERY_S:
            return
        self._said_s = now
        began, done = self._marks[0]
        seconds = (now - began) / (self._done - done)
        self._marks.append((now, self._done))
        left = self._epochs * self._steps - self._first - self._done
        say(
            f"epoch {self._epoch + 1}/{self._epochs} step {step}/{self._steps} loss {loss:.4f} "
            f"{self._clips / seconds:.1f} clips/s, {duration(left * seconds)} left"
        )

    def row(self, row: dict[str, Any]) -> None:
        """Print and log the figures of an epoch."""
        numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k != "epoch"}
        text = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        say(f"epoch {row['epoch']}/{self._epochs}: {text}")
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, row["epoch"])
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def duration(seconds: float) -> str:
    """Seconds in words, for example "3 h 05 min", "4 min", "20 s"."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if seconds >= 60 else f"{round(seconds)} s"
