"""How many cameras this machine holds in real time, and what limits it.

    python -m svfap_edge.benchmark.capacity VIDEO [BUNDLE] [--artifact NAME] [--mode throughput]

Frames of a real video with one face are decoded once and played to more and more cameras, forwards
and backwards without a cut, at 30 fps of simulated time. A number of cameras is held if processing
a second of all of them takes no more than a second. Decoding is not part of it: cameras deliver
frames in many ways; what decoding this video took is told beside the result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from svfap_edge.cli.console import Json, reporting, steps, stopping_cleanly
from svfap_edge.errors import SourceError, SvfapError
from svfap_edge.machine import describe_machine
from svfap_edge.perception.cameras import Cameras
from svfap_edge.runtimes import Engine
from svfap_edge.sources.opening import open_source

CAMERA_FPS = 30.0
MOST_CAMERAS = 1024
WARM_UP_S = 1.0
"""Played before the clock starts, beyond the span of a clip."""


@dataclass(frozen=True)
class Trial:
    """One number of cameras.

    Attributes:
        cameras: How many.
        load: Seconds of work for a second of all cameras; up to 1 is real time.
        share: Of that work, by stage: detect, crop, model, rest. With several workers the stages
            of different cameras overlap: detect and crop are shares of the sum.
        predictions: In the counted time.
        expected: As many as one face in each camera brings.
        latency_ms: 50th and 95th percentile of `Prediction.latency_ms`.
        frame_ms: Same, of the time to process one frame of every camera.
    """

    cameras: int
    load: float
    share: dict[str, float]
    predictions: int
    expected: int
    latency_ms: tuple[float, float]
    frame_ms: tuple[float, float]

    @property
    def held(self) -> bool:
        return self.load <= 1.0

    @property
    def limit(self) -> str:
        """The stage that takes most."""
        return max(self.share, key=self.share.__getitem__)


@dataclass(frozen=True)
class Capacity:
    """The most cameras held, and all numbers tried.

    Attributes:
        cameras: 0 if not even one is held.
        trials: In the order of the number of cameras.
        decode_ms: Mean time to decode a frame of the video.
    """

    cameras: int
    trials: tuple[Trial, ...]
    decode_ms: float

    @property
    def at_limit(self) -> Trial:
        """Of the most cameras held, or of one."""
        return next(t for t in self.trials if t.cameras == max(1, self.cameras))


def find_capacity(
    engine: Engine,
    frames: Sequence[np.ndarray],
    *,
    seconds: float = 4.0,
    decode_ms: float = 0.0,
    workers: int = 1,
    progress: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Capacity:
    """Double the number of cameras until they are not held, then narrow it down.

    Args:
        frames: (H, W, 3) uint8 RGB, 1/30 s apart, with one face.
        seconds: Of simulated time for each number of cameras.
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
    return Capacity(low, tuple(trials[count] for count in sorted(trials)), decode_ms)


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
    """Process so many cameras for so many seconds of simulated time."""
    names = [f"camera{k}" for k in range(count)]
    warm = round((engine.spec.clip.span_s + WARM_UP_S) * CAMERA_FPS)
    # Whole hops are counted: all people are predicted in the same frame of each.
    counted = round(max(1, round(seconds / hop_s)) * hop_s * CAMERA_FPS)
    stages = {"detect": 0.0, "crop": 0.0, "model": 0.0}
    latencies: list[float] = []
    walls: list[float] = []
    with Cameras(engine, names, workers=workers, hop_s=hop_s, **options) as cameras:
        for number in range(warm + counted):
            pictures = {
                name: (frames[_there_and_back(number + 7 * k, len(frames))], number / CAMERA_FPS)
                for k, name in enumerate(names)
            }
            before = _spent(cameras)
            start = time.perf_counter()
            found = cameras.process(pictures)
            wall = time.perf_counter() - start
            if number < warm:
                continue
            walls.append(wall)
            after = _spent(cameras)
            stages = {name: stages[name] + after[name] - before[name] for name in stages}
            latencies += [p.latency_ms for each in found.values() for p in each.predictions]
    total = sum(walls)
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
        expected=count * round(counted / CAMERA_FPS / hop_s),
        latency_ms=_two(latencies),
        frame_ms=_two([1e3 * wall for wall in walls]),
    )


def read_frames(source: str, seconds: float) -> tuple[list[np.ndarray], float]:
    """The first seconds of a video at 30 fps, and the mean time to decode a frame in ms.

    Raises:
        SourceError: unreadable, or empty.
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


def _there_and_back(number: int, count: int) -> int:
    if count == 1:
        return 0
    place = number % (2 * count - 2)
    return min(place, 2 * count - 2 - place)


def _spent(cameras: Cameras) -> dict[str, float]:
    every = [view.seconds for view in cameras.views.values()]
    return {name: sum(seconds[name] for seconds in every) for name in every[0]}


def _two(values: Sequence[float]) -> tuple[float, float]:
    if not len(values):
        return (0.0, 0.0)
    p50, p95 = np.percentile(values, [50, 95])
    return float(p50), float(p95)


def main(
    video: Annotated[str, typer.Argument(help="A video with one face.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="The one in the package by default.")
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="The best one by default.")] = None,
    engine: Annotated[str, typer.Option(help="auto, or an engine.")] = "auto",
    mode: Annotated[str, typer.Option(help="latency or throughput.")] = "throughput",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Threads that look at frames.", min=1)] = 1,
    detector: Annotated[str, typer.Option(help="auto, yunet, haar, or none.")] = "auto",
    face_model: Annotated[Path | None, typer.Option(help="YuNet's ONNX file.")] = None,
    detect_every: Annotated[int, typer.Option(help="Search every n-th frame.", min=1)] = 1,
    hop: Annotated[float, typer.Option(help="Seconds between predictions of a person.")] = 0.5,
    seconds: Annotated[float, typer.Option(help="Simulated, for each number of cameras.")] = 4.0,
    as_json: Json = False,
) -> None:
    """Find how many 30 fps cameras with one face each this machine holds in real time."""
    with reporting(as_json), stopping_cleanly(), steps(as_json) as step:
        if mode not in ("latency", "throughput"):
            raise SvfapError(f"--mode must be latency or throughput; got {mode}.")
        if not hop > 0 or not seconds > 0:
            raise SvfapError("--hop and --seconds must be positive numbers of seconds.")
        frames, decode_ms = read_frames(video, seconds)
        with Engine.load(
            bundle, artifact=artifact, engine=engine, threads=threads,
            mode="throughput" if mode == "throughput" else "latency",
        ) as loaded:  # fmt: skip
            found = find_capacity(
                loaded, frames, seconds=seconds, decode_ms=decode_ms, workers=workers,
                progress=step, detector=detector, face_model=face_model,
                detect_every=detect_every, hop_s=hop,
            )  # fmt: skip
            spec = loaded.spec
        facts: dict[str, Any] = {
            "artifact": spec.artifact,
            "engine": spec.engine,
            "precision": spec.precision,
        }
        facts |= {"mode": mode, "workers": workers, "detector": detector, "hop_s": hop}
        facts |= {"detect_every": detect_every, "frame": list(frames[0].shape)}
        if as_json:
            content = {**asdict(found), "limit": found.at_limit.limit, **facts}
            print(json.dumps({**content, "machine": describe_machine()}, ensure_ascii=False))
        else:
            _print(found, facts)


def _print(found: Capacity, facts: dict[str, Any]) -> None:
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction sets']}")
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for trial in found.trials:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in trial.share.items())
        print(
            f"{trial.cameras:4d} cameras: {trial.load:.2f} s of work a second ({shares}); "
            f"predictions {trial.predictions} of {trial.expected}, latency p50 / p95 "
            f"{trial.latency_ms[0]:.0f} / {trial.latency_ms[1]:.0f} ms"
        )
    print(
        f"Held in real time: {found.cameras} cameras of {CAMERA_FPS:.0f} fps; "
        f"{found.at_limit.limit} limits it. Decoding is not counted ({found.decode_ms:.1f} ms a "
        "frame of this video)."
    )
    last = found.at_limit
    if last.predictions < 0.9 * last.expected or last.predictions > 1.1 * last.expected:
        print("note  Not one face in every camera all the time; choose another video or detector.")


if __name__ == "__main__":
    typer.run(main)
