"""What a live camera costs: processor time for a second of video and person, by stage.

Frames of a real video with one face are played at 30 fps of simulated time, as in `capacity`, by
one camera alone and by several that share batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.backend import Mode

from .capacity import play

HOPS_S = (0.5, 0.25, 0.1)
"""Hops asked for; the nearest whole tubelets are measured."""

CAMERAS: tuple[tuple[int, Mode], ...] = ((1, "latency"), (8, "throughput"))
"""Numbers of cameras, and the mode of the engine that suits each: alone, and among several."""


@dataclass(frozen=True)
class LiveRow:
    """What one hop and one number of cameras take.

    Attributes:
        artifact: Name of the artifact.
        engine: Name of the engine.
        precision: Number type that it computes in.
        hop_s: Seconds between the predictions of a person, in force.
        cameras: Number of cameras, each with one face.
        cpu_ms: Processor time in milliseconds, of all threads, for a second of one camera.
        wall_ms: Milliseconds that the calls took for it, of which `stages_ms` are those of finding
            faces, cropping, the model, and the rest.
        latency_ms: 50th and 95th percentile of `Prediction.latency_ms`.
    """

    artifact: str
    engine: str
    precision: str
    hop_s: float
    cameras: int
    cpu_ms: float
    wall_ms: float
    stages_ms: dict[str, float]
    latency_ms: tuple[float, float]


def time_live(
    engine: Engine,
    frames: Sequence[np.ndarray],
    count: int,
    *,
    seconds: float = 5.0,
    progress: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> Iterator[LiveRow]:
    """Measure every hop for `seconds` of simulated time.

    Args:
        frames: (H, W, 3) uint8 RGB, 1/30 s apart, with one face.
        count: Number of cameras.
        options: As `Cameras` takes them.
    """
    for hop_s in HOPS_S:
        progress(f"{count} camera{'s' if count > 1 else ''}, a prediction every {hop_s:g} s")
        trial = play(engine, frames, count, seconds, hop_s=hop_s, **options)
        wall_ms = 1e3 * trial.load / count
        spec = engine.spec
        yield LiveRow(
            artifact=spec.artifact,
            engine=spec.engine,
            precision=spec.precision,
            hop_s=spec.clip.whole_hop_s(hop_s),
            cameras=count,
            cpu_ms=1e3 * trial.cpu / count,
            wall_ms=wall_ms,
            stages_ms={name: share * wall_ms for name, share in trial.share.items()},
            latency_ms=trial.latency_ms,
        )
