"""Latency of artifacts, each in a process of its own, processes alternating.

Two engines in one process slow each other, and a machine's speed drifts; so every round starts one
fresh process per artifact, one after the other, and ratios compare what ran side by side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InferenceError

WARM_UP = 3
"""Clips run before those that count."""


@dataclass(frozen=True)
class Timed:
    """An artifact to time.

    Attributes:
        bundle: Its folder.
        artifact, engine: As `Engine.load` takes them.
    """

    bundle: Path
    artifact: str
    engine: str


def time_artifacts(
    artifacts: Sequence[Timed],
    *,
    clips: int = 20,
    rounds: int = 3,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[np.ndarray]:
    """Latencies in ms (rounds * clips,) of single clips, for each artifact.

    Raises:
        InferenceError: a process failed, with the end of what it said.
    """
    latencies: list[list[float]] = [[] for _ in artifacts]
    for number in range(rounds):
        progress(f"Timing, round {number + 1} of {rounds}")
        for row, artifact in zip(latencies, artifacts, strict=True):
            row += _in_a_process(artifact, clips, threads)
    return [np.array(row) for row in latencies]


def _in_a_process(timed: Timed, clips: int, threads: int | None) -> list[float]:
    options = [str(timed.bundle), timed.artifact, timed.engine, str(clips), str(threads or 0)]
    return latencies_printed_by(
        "svfap_edge.timing", options, f"'{timed.artifact}' on {timed.engine}"
    )


def latencies_printed_by(module: str, options: Sequence[str], what: str) -> list[float]:
    """Run a module in a fresh process that prints its latencies, a JSON list, as its last line.

    Raises:
        InferenceError: it failed; `what` names it.
    """
    result = subprocess.run(
        [sys.executable, "-m", module, *options], capture_output=True, text=True
    )
    if result.returncode:
        raise InferenceError(f"Timing {what} failed: {result.stderr.strip()[-400:]}")
    return [float(value) for value in json.loads(result.stdout.splitlines()[-1])]


def measure(bundle: str, artifact: str, engine: str, clips: int, threads: int) -> list[float]:
    """Latencies in ms of single clips in this process."""
    from .runtimes import Engine

    random = np.random.default_rng(0)
    with Engine.load(bundle, artifact=artifact, engine=engine, threads=threads or None) as loaded:
        clip = random.integers(0, 256, (1, *loaded.spec.clip.shape), dtype=np.uint8)
        return time_calls(lambda: loaded.infer(clip), clips)


def time_calls(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, after `WARM_UP` that do not count."""
    found = []
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1e3)
    return found[WARM_UP:]


if __name__ == "__main__":
    folder, name, runner, count, cores = sys.argv[1:6]
    print(json.dumps(measure(folder, name, runner, int(count), int(cores))))
