"""What `Engine.step` costs beyond the engine library's own call, on the same clip.

Both are called in turns in one process, in the opposite order in every other turn; the overhead is
the median of the difference within each turn. `Stream.add` is timed apart.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from svfap_edge.errors import InferenceError
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.backend import INPUT_NAME

from .timing import WARM_UP, Timed, time_calls

MIN_TURNS = 20
PARTS = 5
"""Number of parts of a run whose medians show how sure the overhead is."""

TOLERANCE = 1e-3
"""Largest difference of logits between both calls, which compute the same."""


@dataclass(frozen=True)
class Overhead:
    """What `Engine.step` adds, in milliseconds; medians over the turns.

    Attributes:
        name: The artifact and engine: "int8.onnx on openvino".
        precision: What the engine really computed in.
        raw, raw_ms: Name and time of the library's call.
        step_ms: Time of `Engine.step`.
        added_ms: Difference of both within a turn.
        share: Added time as a share of the library's call.
        low_ms, high_ms: Smallest and largest median difference of a fifth of the turns.
        add_ms: Time of `Stream.add` with a frame of twice the model's side.
    """

    name: str
    precision: str
    raw: str
    turns: int
    raw_ms: float
    step_ms: float
    added_ms: float
    share: float
    low_ms: float
    high_ms: float
    add_ms: float


def time_overhead(timed: Timed, seconds: float = 5.0, threads: int | None = None) -> Overhead:
    """Measure an artifact in this process, which should be a fresh one, for at least `seconds`.
    InferenceError if both calls do not give the same logits."""
    with timed.load(threads) as loaded:
        what, raw, step = _time_both(loaded, seconds)
        difference = np.array(step) - np.array(raw)
        parts = [float(np.median(part)) for part in np.array_split(difference, PARTS)]
        added_ms, raw_ms = float(np.median(difference)), float(np.median(raw))
        return Overhead(
            name=str(timed),
            precision=loaded.spec.precision,
            raw=what,
            turns=len(raw),
            raw_ms=raw_ms,
            step_ms=float(np.median(step)),
            added_ms=added_ms,
            share=added_ms / raw_ms,
            low_ms=min(parts),
            high_ms=max(parts),
            add_ms=_adding_ms(loaded),
        )


def _time_both(engine: Engine, seconds: float) -> tuple[str, list[float], list[float]]:
    """The name of the library's call, and the milliseconds that it and `Engine.step` took in each
    turn on one clip."""
    spec = engine.spec.clip
    clip = np.random.default_rng(0).integers(0, 256, (1, *spec.shape), np.uint8)
    stream = engine.open_stream("overhead", hop_s=0.5 * spec.spacing_s, min_coverage=1.0)
    ticks = itertools.count()
    what, call = raw_call(engine, clip)

    def prepare() -> None:
        """Make the clip ready: its frames once more, later in time."""
        for frame in clip[0]:
            stream.add(frame, next(ticks) * spec.spacing_s)

    def step() -> np.ndarray:
        (prediction,) = engine.step([stream])
        return prediction.logits

    for _ in range(WARM_UP):
        prepare()
        difference = float(np.abs(step() - call()[0]).max())
        if not difference <= TOLERANCE:
            raise InferenceError(
                f"Engine.step and the engine itself differ by {difference:.2g} on one clip."
            )
    spent: dict[Callable[[], np.ndarray], list[float]] = {call: [], step: []}
    deadline = time.perf_counter() + seconds
    while len(spent[call]) < MIN_TURNS or time.perf_counter() < deadline:
        prepare()
        for run in (call, step) if len(spent[call]) % 2 == 0 else (step, call):
            start = time.perf_counter()
            run()
            spent[run].append((time.perf_counter() - start) * 1e3)
    return what, spent[call], spent[step]


def _adding_ms(engine: Engine) -> float:
    """Median milliseconds of `Stream.add` with a frame that has to be resized."""
    spec = engine.spec.clip
    frame = np.zeros((2 * spec.size, 2 * spec.size, 3), np.uint8)
    stream = engine.open_stream("adding", hop_s=0.5 * spec.spacing_s, min_coverage=1.0)
    ticks = itertools.count()
    found = time_calls(lambda: stream.add(frame, next(ticks) * spec.spacing_s), 200)
    return float(np.median(found))


def raw_call(engine: Engine, clip: np.ndarray) -> tuple[str, Callable[[], np.ndarray]]:
    """The library's own call as its user would write it: its name, and a function that makes it for
    a clip, (1, frames, size, size, 3) uint8 RGB, and returns the logits, (1, L)."""
    backend: Any = engine.backend
    if (session := getattr(backend, "_session", None)) is not None:
        return "InferenceSession.run", lambda: np.asarray(session.run(None, {INPUT_NAME: clip})[0])
    if (compiled := getattr(backend, "_compiled", None)) is not None:
        request = compiled.create_infer_request()

        def infer() -> np.ndarray:
            request.infer([clip], share_inputs=True)
            return np.asarray(request.get_output_tensor(0).data)

        return "InferRequest.infer", infer
    return f"{type(backend).__name__}.run", lambda: np.asarray(backend.run(clip).logits)
