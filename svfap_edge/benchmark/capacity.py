"""How many cameras this machine holds in real time, and what limits it.

Frames of a real video with one face are decoded once and played to more and more cameras, forwards
and backwards without a cut, at 30 fps of simulated time. A number of cameras is held if processing
a second of all of them takes no more than a second; decoding is not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svfap_edge.errors import SourceError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.runtimes import Engine
from svfap_edge.sources.opening import open_source

CAMERA_FPS = 30.0
MOST_CAMERAS = 1024
WARM_UP_S = 1.0
"""Simulated time that is played before the clock starts, beyond the span of a clip."""


@dataclass(frozen=True)
class Trial:
    """What one number of cameras took.

    Attributes:
        cameras: Number of cameras.
        load: Seconds of work for a second of all cameras; up to 1 is real time.
        share: Share of that work of each stage: detect, crop, model, rest. With several workers the
            stages of different cameras overlap: detect and crop are shares of the sum.
        predictions: Predictions in the counted time.
        expected: Predictions that one face in each camera brings in that time.
        latency_ms: 50th and 95th percentile of `Prediction.latency_ms`.
        cpu: Seconds of processor time, of all threads, for a second of all cameras.
    """

    cameras: int
    load: float
    share: dict[str, float]
    predictions: int
    expected: int
    latency_ms: tuple[float, float]
    cpu: float = 0.0

    @property
    def held(self) -> bool:
        return self.load <= 1.0

    @property
    def limit(self) -> str:
        """The stage that takes most of the time."""
        return max(self.share, key=self.share.__getitem__)


@dataclass(frozen=True)
class Capacity:
    """The most cameras held, 0 if not even one is, and all trials by their number of cameras."""

    cameras: int
    trials: tuple[Trial, ...]

    @property
    def at_limit(self) -> Trial:
        """The trial of the most cameras held, or of one camera if none is held."""
        return next(t for t in self.trials if t.cameras == max(1, self.cameras))


def find_capacity(
    engine: Engine,
    frames: Sequence[np.ndarray],
    *,
    seconds: float = 4.0,
    workers: int = 1,
    progress: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Capacity:
    """Double the number of cameras until they are not held, then narrow it down.

    Args:
        frames: (H, W, 3) uint8 RGB, 1/30 s apart, with one face.
        seconds: Simulated seconds for each number of cameras.
        workers, options: As `Cameras` takes them.
    """
    trials: dict[int, Trial] = {}

    def held(count: int) -> bool:
        progress(f"{count} cameras")
        trials[count] = play(engine, frames, count, seconds, workers=workers, **options)
        progress(f"{count} cameras: {trials[count].load:.2f} s of work a second")
        return trials[count].held

    low, high = 0, 1
    while high <= MOST_CAMERAS and held(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return Capacity(low, tuple(trials[count] for count in sorted(trials)))


def play(
    engine: Engine,
    frames: Sequence[np.ndarray],
    count: int,
    seconds: float,
    *,
    workers: int = 1,
    hop_s: float = 0.5,
    **options: Any,
) -> Trial:
    """Process `count` cameras for `seconds` of simulated time; options as in `find_capacity`."""
    names = [f"camera{k}" for k in range(count)]
    cycle = [*frames, *frames[-2:0:-1]]  # there and back
    warm = round((engine.spec.clip.span_s + WARM_UP_S) * CAMERA_FPS)
    hop_s = engine.spec.clip.whole_hop_s(hop_s)
    # Hops are counted in fives, which are whole frames of 1/30 s where a slot is 0.08 or 0.16 s.
    hops = 5 * max(1, round(seconds / hop_s / 5))
    counted = round(hops * hop_s * CAMERA_FPS)
    stages = {"detect": 0.0, "crop": 0.0, "model": 0.0}
    latencies: list[float] = []
    total = cpu = 0.0
    with Cameras(engine, names, workers=workers, hop_s=hop_s, **options) as cameras:
        for number in range(warm + counted):
            pictures = {
                name: (cycle[(number + 7 * k) % len(cycle)], number / CAMERA_FPS)
                for k, name in enumerate(names)
            }
            before = _spent(cameras)
            start, busy = time.perf_counter(), time.process_time()
            found = cameras.process(pictures)
            wall, busy = time.perf_counter() - start, time.process_time() - busy
            if number < warm:
                continue
            total += wall
            cpu += busy
            after = _spent(cameras)
            stages = {name: stages[name] + after[name] - before[name] for name in stages}
            latencies += [p.latency_ms for each in found.values() for p in each.predictions]
    # Looking goes on in several threads at once; its stages share the time that it took.
    looked = stages["detect"] + stages["crop"]
    if workers > 1 and looked:
        shrink = min(1.0, max(0.0, total - stages["model"]) / looked)
        stages |= {name: stages[name] * shrink for name in ("detect", "crop")}
    stages["rest"] = max(0.0, total - sum(stages.values()))
    return Trial(
        cameras=count,
        load=total / (counted / CAMERA_FPS),
        share={name: value / total for name, value in stages.items()},
        predictions=len(latencies),
        expected=count * hops,
        latency_ms=_two(latencies),
        cpu=cpu / (counted / CAMERA_FPS),
    )


def read_frames(source: str, seconds: float) -> tuple[list[np.ndarray], float]:
    """Read the first seconds of a video, and measure the mean milliseconds to decode a frame.

    The frames, (H, W, 3) uint8 RGB, are repeated or left out so that they are 1/30 s apart.
    SourceError if the video cannot be read, or is empty.
    """
    frames: list[np.ndarray] = []
    decoded, spent = 0, 0.0
    with open_source(source) as opened:
        items = iter(opened)
        while len(frames) < seconds * CAMERA_FPS:
            start = time.perf_counter()
            frame = next(items, None)
            spent += time.perf_counter() - start
            if frame is None:
                break
            decoded += 1
            while len(frames) <= frame.timestamp_s * CAMERA_FPS:
                frames.append(frame.image)
    if not frames:
        raise SourceError(f"'{source}' has no frames.")
    return frames, 1e3 * spent / decoded


def _spent(cameras: Cameras) -> dict[str, float]:
    every = [view.seconds for view in cameras.views.values()]
    return {name: sum(seconds[name] for seconds in every) for name in every[0]}


def _two(values: Sequence[float]) -> tuple[float, float]:
    if not len(values):
        return (0.0, 0.0)
    p50, p95 = np.percentile(values, [50, 95])
    return float(p50), float(p95)
