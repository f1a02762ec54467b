"""What `Engine.step` costs beyond the engine library's own call, on the same clip.

Both are called in turns in one process, in the opposite order in every other turn, on one loaded
model; the overhead is the median of the difference within each turn. `Engine.step` gathers the clip
of a stream's frames, checks shapes and values, and makes a prediction of the logits; reading and
resizing frames (`Stream.add`) is timed apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from svfap_edge.errors import InferenceError
from svfap_edge.runtimes import Engine, Stream
from svfap_edge.runtimes.backend import INPUT_NAME

from .timing import WARM_UP, Timed

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
    """Measure an artifact in this process, which should be a fresh one.

    Args:
        seconds: Shortest time that all turns take together.
        threads: CPU threads of the engine; None for its own choice.

    Raises:
        InferenceError: both calls do not give the same logits.
    """
    with timed.load(threads) as loaded:
        turns = _Turns(loaded)
        what, call = raw_call(loaded, turns.clip)
        for _ in range(WARM_UP):
            turns.prepare()
            turns.compare(call())
        raw: list[float] = []
        step: list[float] = []
        deadline = time.perf_counter() + seconds
        while len(raw) < MIN_TURNS or time.perf_counter() < deadline:
            turns.prepare()
            order = ((call, raw), (turns.step, step))
            for run, row in order if len(raw) % 2 == 0 else order[::-1]:
                start = time.perf_counter()
                run()
                row.append((time.perf_counter() - start) * 1e3)
        difference = np.array(step) - np.array(raw)
        parts = [float(np.median(part)) for part in np.array_split(difference, PARTS)]
        added_ms, raw_ms = float(np.median(difference)), float(np.median(raw))
        return Overhead(
            name=f"{loaded.spec.artifact} on {loaded.spec.engine}",
            precision=loaded.spec.precision,
            raw=what,
            turns=len(raw),
            raw_ms=raw_ms,
            step_ms=float(np.median(step)),
            added_ms=added_ms,
            share=added_ms / raw_ms,
            low_ms=min(parts),
            high_ms=max(parts),
            add_ms=turns.time_adding(),
        )


class _Turns:
    """A stream with the same clip ready for every turn."""

    def __init__(self, engine: Engine) -> None:
        spec = engine.spec.clip
        random = np.random.default_rng(0)
        self.clip = random.integers(0, 256, (1, *spec.shape), np.uint8)
        self._engine = engine
        self._spacing_s = spec.spacing_s
        self._time_s = 0.0
        self._stream = self._open("overhead")

    def _open(self, name: str) -> Stream:
        hop_s = 0.5 * self._spacing_s  # a clip is due with every frame
        return self._engine.open_stream(name, hop_s=hop_s, min_coverage=1.0)

    def prepare(self) -> None:
        """Make the clip ready: its frames once more, later in time."""
        for frame in self.clip[0]:
            self._time_s += self._spacing_s
            self._stream.add(frame, self._time_s)

    def step(self) -> np.ndarray:
        (prediction,) = self._engine.step([self._stream])
        return prediction.logits

    def compare(self, raw: np.ndarray) -> None:
        difference = float(np.abs(self.step() - raw[0]).max())
        if not difference <= TOLERANCE:
            raise InferenceError(
                f"Engine.step and the engine itself differ by {difference:.2g} on one clip."
            )

    def time_adding(self) -> float:
        """Median milliseconds of `Stream.add` with a frame that has to be resized."""
        frame = np.repeat(np.repeat(self.clip[0, 0], 2, 0), 2, 1)
        stream = self._open("adding")
        found = []
        for number in range(200):
            start = time.perf_counter()
            stream.add(frame, number * self._spacing_s)
            found.append((time.perf_counter() - start) * 1e3)
        return float(np.median(found))


def raw_call(engine: Engine, clip: np.ndarray) -> tuple[str, Callable[[], np.ndarray]]:
    """The library's own call for a clip, as its user would write it.

    Args:
        clip: (1, frames, size, size, 3) uint8 RGB.

    Returns:
        The name of the library's call, and a function that makes it and returns the logits (1, L).
    """
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
