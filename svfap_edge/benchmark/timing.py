"""Latency and cold start of models, each in a process of its own, the processes taking turns.

Two engines in one process slow each other, and a machine's speed drifts; so every round starts one
fresh process for each model, one after the other, and ratios compare what ran side by side.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from . import pytorch
from .processes import answer_of, answering

WARM_UP = 3
"""Calls made before those that count."""

COLD = """
import sys, time
from svfap_edge import Engine
from svfap_edge.benchmark.processes import answering
import numpy as np
folder, artifact, engine, threads = sys.argv[1:]
with (
    answering() as answer,
    Engine.load(folder, artifact=artifact, engine=engine, threads=int(threads) or None) as loaded,
):
    loaded.infer(np.zeros((1, *loaded.spec.clip.shape), np.uint8))
    predicted = time.time()
    from svfap_edge.machine import peak_memory_mb
    answer([predicted, peak_memory_mb()])
"""
"""The program that `cold_start` runs: the least that an application does."""


@dataclass(frozen=True)
class Timed:
    """An artifact to time, or a checkpoint in PyTorch.

    Attributes:
        bundle: Folder of the bundle, or the checkpoint's file.
        artifact: Name of the artifact, or one of `pytorch.VARIANTS`.
        engine: Name of the engine as `Engine.load` takes it, or `pytorch.NAME`.
    """

    bundle: Path
    artifact: str
    engine: str

    def __str__(self) -> str:
        return f"{self.artifact} on {self.engine}"


@dataclass(frozen=True)
class ModelTimes:
    """How fast one process ran a model.

    Attributes:
        precision: What the engine really computed in, such as "bf16".
        ms: Milliseconds of each call, by the number of clips in the call.
    """

    precision: str
    ms: dict[int, list[float]]


@dataclass(frozen=True)
class ColdStart:
    """A process that loads a model and predicts once.

    Attributes:
        seconds: From the start of the process to the prediction.
        peak_mb: Most memory that the process held, in MB.
    """

    seconds: float
    peak_mb: float


def time_artifacts(
    artifacts: Sequence[Timed],
    *,
    clips: int = 20,
    rounds: int = 3,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[np.ndarray]:
    """Time calls with one clip.

    Args:
        clips: Counted calls of a process.
        rounds: Processes of each artifact.
        threads: CPU threads of the engine; None for its own choice.
        progress: Called with what begins.

    Returns:
        Milliseconds of each call, (rounds * clips,), for each artifact.

    Raises:
        SvfapError: a process failed; see `answer_of`.
    """
    latencies: list[list[float]] = [[] for _ in artifacts]
    for number in range(rounds):
        progress(f"Timing, round {number + 1} of {rounds}")
        for row, artifact in zip(latencies, artifacts, strict=True):
            row += time_model(artifact, calls=clips, threads=threads).ms[1]
    return [np.array(row) for row in latencies]


def time_model(
    timed: Timed,
    *,
    calls: int,
    seconds: float = 0.0,
    batches: Sequence[int] = (1,),
    threads: int | None = None,
) -> ModelTimes:
    """Time one model in a fresh process.

    Args:
        calls: Smallest number of calls of each batch size.
        seconds: Shortest time that the calls of each batch size take together.
        batches: Numbers of clips in a call; with none, the model is only loaded.
        threads: CPU threads of the engine; None for its own choice.

    Raises:
        SvfapError: the process failed; see `answer_of`.
    """
    job = {
        "folder": str(timed.bundle),
        "artifact": timed.artifact,
        "engine": timed.engine,
        "calls": calls,
        "seconds": seconds,
        "batches": list(batches),
        "threads": threads,
    }
    found = answer_of(["-m", __name__, json.dumps(job)], f"Timing {timed}")
    ms = {int(batch): values for batch, values in found["ms"].items()}
    return ModelTimes(found["precision"], ms)


def cold_start(timed: Timed, threads: int | None = None, cache: str | None = None) -> ColdStart:
    """Start a process that loads the model and predicts once.

    The file system's cache is as warm as the last start left it; only a reboot empties it.

    Args:
        threads: CPU threads of the engine; None for its own choice.
        cache: Folder that overrules `SVFAP_EDGE_CACHE`; "off" for no cache.

    Raises:
        SvfapError: the process failed; see `answer_of`.
    """
    options = [str(timed.bundle), timed.artifact, timed.engine, str(threads or 0)]
    setting = {} if cache is None else {"SVFAP_EDGE_CACHE": cache}
    start = time.time()  # the one clock that two processes share everywhere
    predicted, memory = answer_of(["-c", COLD, *options], f"Starting {timed}", setting)
    return ColdStart(predicted - start, memory)


def measure(
    folder: str,
    artifact: str,
    engine: str,
    calls: int,
    seconds: float,
    batches: Sequence[int],
    threads: int | None,
) -> ModelTimes:
    """`time_model` in this process."""
    if engine == pytorch.NAME:
        call_of = pytorch.open_model(Path(folder), artifact, threads)
        ms = {batch: time_calls(call_of(batch), calls, seconds) for batch in batches}
        return ModelTimes(pytorch.VARIANTS[artifact], ms)
    from svfap_edge.runtimes import Engine

    random = np.random.default_rng(0)
    ms = {}
    with Engine.load(folder, artifact=artifact, engine=engine, threads=threads) as loaded:
        for batch in batches:
            clips = random.integers(0, 256, (batch, *loaded.spec.clip.shape), dtype=np.uint8)
            ms[batch] = time_calls(partial(loaded.infer, clips), calls, seconds)
        return ModelTimes(loaded.spec.precision, ms)


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


if __name__ == "__main__":
    with answering() as answer:
        times = measure(**json.loads(sys.argv[1]))
        answer({"precision": times.precision, "ms": times.ms})
