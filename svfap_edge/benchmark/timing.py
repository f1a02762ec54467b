"""Latency and cold start of models, each in a process of its own, the processes taking turns.

Two engines in one process slow each other, and a machine's speed drifts; so every round starts one
fresh process for each model, one after the other, and ratios compare what ran side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svfap_edge.machine import peak_memory_mb

from . import pytorch
from .processes import run_apart

if TYPE_CHECKING:
    from svfap_edge.runtimes import Engine

WARM_UP = 3
"""Calls made before those that count."""


@dataclass(frozen=True)
class Timed:
    """An artifact to time, or a checkpoint in PyTorch.

    Attributes:
        bundle: Folder of the bundle, or the checkpoint's file.
        artifact: Name of the artifact, or one of `pytorch.VARIANTS`.
        engine: Name of the engine as `Engine.load` takes it, or `pytorch.NAME`.
        signed_by: File of the public key whose owner has to have signed the bundle, or None.
    """

    bundle: Path
    artifact: str
    engine: str
    signed_by: Path | None = None

    def __str__(self) -> str:
        return f"{self.artifact} on {self.engine}"

    def load(self, threads: int | None) -> Engine:
        """Load the artifact into this process."""
        from svfap_edge.runtimes import Engine

        return Engine.load(
            self.bundle, artifact=self.artifact, engine=self.engine, threads=threads,
            require_signature=self.signed_by,
        )  # fmt: skip


@dataclass(frozen=True)
class ModelTimes:
    """The precision that an engine really computed in, and the milliseconds of each call by the
    number of clips in it."""

    precision: str
    ms: dict[int, list[float]]


def time_artifacts(
    artifacts: Sequence[Timed],
    *,
    clips: int = 20,
    rounds: int = 3,
    progress: Callable[[str], None] = lambda message: None,
) -> list[np.ndarray]:
    """Time calls with one clip in fresh processes; see `run_apart` for errors. Returns the
    milliseconds of each call, (rounds * clips,), for each artifact."""
    latencies: list[list[float]] = [[] for _ in artifacts]
    for number in range(rounds):
        progress(f"Timing, round {number + 1} of {rounds}")
        for row, artifact in zip(latencies, artifacts, strict=True):
            row += run_apart(time_model, f"Timing {artifact}", timed=artifact, calls=clips).ms[1]
    return [np.array(row) for row in latencies]


def time_model(
    timed: Timed,
    calls: int,
    seconds: float = 0.0,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
) -> ModelTimes:
    """Time one model in this process, which should be a fresh one.

    Args:
        calls: Smallest number of calls of each batch size.
        seconds: Shortest time that the calls of each batch size take together.
        batches: Numbers of clips in a call; with none, the model is only loaded.
    """
    if timed.engine == pytorch.NAME:
        call_of = pytorch.open_model(timed.bundle, timed.artifact, threads)
        ms = {batch: time_calls(call_of(batch), calls, seconds) for batch in batches}
        return ModelTimes(pytorch.VARIANTS[timed.artifact], ms)
    random = np.random.default_rng(0)
    ms = {}
    with timed.load(threads) as loaded:
        for batch in batches:
            clips = random.integers(0, 256, (batch, *loaded.spec.clip.shape), dtype=np.uint8)
            ms[batch] = time_calls(partial(loaded.infer, clips), calls, seconds)
        return ModelTimes(loaded.spec.precision, ms)


def cold_start(
    timed: Timed, threads: int | None = None, cache: str | None = None
) -> tuple[float, float]:
    """The seconds from the start of a process to its first prediction, and its most memory in MB.

    The file system's cache is as warm as the last start left it; only a reboot empties it. A
    `cache`, a folder or "off", overrules `SVFAP_EDGE_CACHE`.
    """
    environment = {} if cache is None else {"SVFAP_EDGE_CACHE": cache}
    start = time.time()  # the one clock that two processes share everywhere
    predicted, peak_mb = run_apart(
        predict_once, f"Starting {timed}", environment, timed=timed, threads=threads
    )
    return predicted - start, peak_mb


def predict_once(timed: Timed, threads: int | None) -> tuple[float, float]:
    """Load a model and predict once, the least that an application does; then the time of the
    clock, and the most memory in MB that this process held."""
    with timed.load(threads) as loaded:
        loaded.infer(np.zeros((1, *loaded.spec.clip.shape), np.uint8))
        return time.time(), peak_memory_mb()


def time_calls(call: Callable[[], object], count: int, seconds: float = 0.0) -> list[float]:
    """Call at least `count` times and for at least `seconds`, after `WARM_UP` calls that do not
    count; the milliseconds of each call."""
    for _ in range(WARM_UP):
        call()
    found: list[float] = []
    total_ms = 0.0
    while len(found) < count or total_ms < seconds * 1e3:
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
        total_ms += found[-1]
    return found
