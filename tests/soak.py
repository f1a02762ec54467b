"""A long run through several streams: memory must stay flat, latency must not grow.

`python -m tests.soak --frames 1000000 --streams 4` pushes a million frames as fast as they go; time
is simulated, nothing sleeps. People come and go: now and then a stream ends and another one begins,
a face is lost for a while, a frame comes too late. With `--realtime MINUTES` a camera thread
pushes frames at `--fps`, and every drop must be accounted for. The report is printed as Markdown,
`-o DIR` writes it and `soak.json` into a folder, and the exit code is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from svfap_edge.bundle import Bundle
from svfap_edge.clip import KEPT_CLIPS
from svfap_edge.errors import SourceError, TimestampError
from svfap_edge.machine import describe_machine
from svfap_edge.runtimes import Engine, Prediction, Stream
from svfap_edge.sources.opening import open_source

FPS = 30.0
HOP_S = 0.5
START_S = 1e6
"""Time of the first frame in seconds, as of a clock that has run for days."""

POOL = 144
"""Number of different frames, 4.8 s: whole slots of 0.08, 0.1 and 0.16 s, so that equal clips come
again."""

SETTLED = 0.05
"""Share of the run after which memory must be flat."""

SAMPLES = 400
"""Number of readings of the memory."""

LIFETIME = 6007
"""Frames of a stream until another one takes its place; a prime, so that this drifts over hops."""

LOST_EVERY, LATE_EVERY = 1511, 499
"""Frames from one lost face to the next, and from one frame that comes too late to the next."""

SAME = 1e-3
"""How far logits of the same clip may differ: batches of other sizes round otherwise."""


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a run fails.

    Attributes:
        growth: Share by which memory may grow after `SETTLED`, by the straight line through it.
        deviation: Share by which any later reading of the memory may differ from the median.
        slack_mb: Growth and deviation in MB that are allowed in any case.
        latency: Ratio of the median step in the last tenth of the run to that in the first. Other
            programs lengthen wall time and not the time of the processor: one of the two ratios
            has to keep this limit.
    """

    growth: float = 0.01
    deviation: float = 0.03
    slack_mb: float = 4.0
    latency: float = 1.2


@dataclass
class Record:
    """What is noted during a run.

    Attributes:
        memory: Readings of the memory, each (frames so far, resident MB).
        wall_ms: Wall time in ms of every step that made predictions.
        cpu_ms: Processor time in ms of the same steps.
        counts: Numbers of frames pushed and refused, predictions, streams, ...
        difference: Largest difference of logits between equal clips.
        longest_buffer: The most frames that a stream held.
        hop_s: Seconds between the predictions of a stream.
        objects: Python objects that the collector knows, once settled and at the end.
        threads: Threads that run, once settled and at the end.
    """

    memory: list[tuple[int, float]] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    difference: float = 0.0
    longest_buffer: int = 0
    hop_s: float = HOP_S
    objects: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


def resident_mb() -> float:
    """Memory of this process that is in use now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def drawn_frames(side: int, count: int = POOL) -> np.ndarray:
    """Pictures of squares that move, with noise: (count, side, side, 3) uint8, all different."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 200, (side // 8 + 2, side // 8 + 2, 3), np.uint8)
    picture = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    noise = random.integers(0, 50, (count, side, side, 3), np.uint8)
    shifts = np.arange(count) * 16 // count
    return noise + np.stack([picture[s : s + side, s : s + side] for s in shifts])


def video_frames(paths: Sequence[str], side: int, count: int = POOL) -> np.ndarray:
    """Faces of real videos; where none is found, the middle of the frame: (count, side, side, 3).

    Raises:
        SourceError: the videos do not have `count` frames.
    """
    from svfap_edge.perception.detectors import Box, crop_face, open_detector

    detector = open_detector("auto")
    frames: list[np.ndarray] = []
    for number, path in enumerate(paths):
        wanted = count * (number + 1) // len(paths)
        with open_source(path) as source:
            for frame in source:
                if len(frames) == wanted:
                    break
                height, width = frame.image.shape[:2]
                middle = Box(width / 4, height / 4, width / 2, height / 2)
                found = detector.detect(frame.image)
                frames.append(crop_face(frame.image, found[0] if found else middle, 0.0, side))
    if len(frames) < count:
        raise SourceError(f"{', '.join(paths)}: {len(frames)} frames; {count} are needed.")
    return np.stack(frames)


class Soak:
    """A run, and the record that it makes."""

    def __init__(self, engine: Engine, frames: np.ndarray, streams: int) -> None:
        self.record = Record(hop_s=engine.spec.clip.whole_hop_s(HOP_S))
        self._engine = engine
        self._frames = frames
        self._opened = 0
        self._streams = [self._open() for _ in range(streams)]
        self._since = [0] * streams
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def run(self, frames: int, progress: Callable[[float], None] = lambda share: None) -> Record:
        """Push `frames` frames, one to each stream in turn, and return the record."""
        ticks = frames // len(self._streams)
        every = max(1, ticks // SAMPLES)
        settled = round(SETTLED * ticks)
        for tick in range(ticks):
            self._push(tick)
            self._step(tick)
            if tick % every == 0:
                self.record.memory.append((tick * len(self._streams), resident_mb()))
                progress(tick / ticks)
            if tick in (settled, ticks - 1):
                gc.collect()
                self.record.objects.append(len(gc.get_objects()))
                self.record.threads.append(threading.active_count())
        self.record.counts["open streams"] = len(self._engine.streams)
        return self.record

    def _push(self, tick: int) -> None:
        counts = self.record.counts
        for place, stream in enumerate(self._streams):
            number = tick + place * 37
            time_s = START_S + tick / FPS
            if number % LIFETIME == LIFETIME - 1:
                stream.close()
                stream = self._streams[place] = self._open()
                self._since[place] = tick
            if number % LOST_EVERY == 0:
                stream.mark_stale()
                counts["times lost"] += 1
            elif number % LATE_EVERY == 0 and tick > self._since[place]:
                try:
                    stream.add(self._frames[0], time_s - 1)
                except TimestampError:
                    counts["late frames refused"] += 1
            stream.add(self._frames[number % len(self._frames)], time_s)
            counts["frames"] += 1
            held = len(stream._buffer)  # nothing public shows it
            self.record.longest_buffer = max(self.record.longest_buffer, held)

    def _step(self, tick: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        predictions = self._engine.step(self._streams)
        if not predictions:
            return
        self.record.wall_ms.append((time.perf_counter() - wall) * 1e3)
        self.record.cpu_ms.append((time.process_time() - cpu) * 1e3)
        self.record.counts["predictions"] += len(predictions)
        places = {stream.name: place for place, stream in enumerate(self._streams)}
        for prediction in predictions:
            self._compare(prediction, tick, places[prediction.stream])

    def _compare(self, prediction: Prediction, tick: int, place: int) -> None:
        """Compare with the logits of the same clip before, which must be the same.

        A stream's first clips are left out: they may lack the frame nearest to their first slot and
        take its neighbour.
        """
        assert np.isfinite(prediction.logits).all()
        age_s = (tick - self._since[place]) / FPS
        if prediction.coverage < 1 or age_s < self._engine.spec.clip.span_s:
            return
        clip = (place, tick % len(self._frames))
        known = self._known.setdefault(clip, prediction.logits.copy())
        difference = float(np.abs(known - prediction.logits).max())
        self.record.difference = max(self.record.difference, difference)
        self.record.counts["predictions compared"] += 1

    def _open(self) -> Stream:
        self._opened += 1
        self.record.counts["streams"] += 1
        return self._engine.open_stream(f"face-{self._opened}", hop_s=HOP_S)


@dataclass(frozen=True)
class Report:
    """A run, judged.

    Attributes:
        facts: What ran, and on which machine.
        numbers: Memory in MB, latency in ms, and what was counted.
        failures: The checks that failed, in words; empty if the run is good.
    """

    facts: dict[str, Any]
    numbers: dict[str, Any]
    failures: list[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_markdown(self) -> str:
        rows = [f"| {name} | {value} |" for name, value in (self.facts | self.numbers).items()]
        verdict = [f"- FAILED: {text}" for text in self.failures] or ["All checks passed."]
        return "\n".join(["# Soak", "", "| what | value |", "|---|---|", *rows, "", *verdict, ""])


def judge(record: Record, streams: int, buffer: int, limits: Limits) -> tuple[dict, list[str]]:  # type: ignore[type-arg]
    """Judge a run: its numbers, and the checks that failed. So many `streams` must be open at the
    end, each holding at most `buffer` frames."""
    memory, failures = judge_memory(record.memory, limits)
    latency, slower = judge_latency(record, limits)
    failures += slower
    counts = record.counts
    if counts["open streams"] != streams:
        failures.append(f"{counts['open streams']} streams are open, of {streams}.")
    if record.longest_buffer > buffer:
        failures.append(f"A stream held {record.longest_buffer} frames; {buffer} are the most.")
    if not record.difference <= SAME:
        failures.append(f"Logits of the same clip differ by {record.difference:.2g}.")
    expected = counts["frames"] / FPS / record.hop_s
    if abs(counts["predictions"] - expected) > 0.05 * expected + 2 * counts["streams"]:
        failures.append(f"{counts['predictions']} predictions; {expected:.0f} were due.")
    if len(record.objects) == 2 and record.objects[1] > 1.05 * record.objects[0] + 5000:
        failures.append(f"Python objects grew from {record.objects[0]} to {record.objects[1]}.")
    if len(record.threads) == 2 and record.threads[1] > record.threads[0]:
        failures.append(f"Threads grew from {record.threads[0]} to {record.threads[1]}.")
    numbers = {
        **memory,
        **latency,
        **counts,
        "largest difference of equal clips": record.difference,
        "most frames in a stream": record.longest_buffer,
        "Python objects, settled and at the end": record.objects,
        "threads, settled and at the end": record.threads,
    }
    return numbers, failures


def judge_memory(
    readings: Sequence[tuple[int, float]], limits: Limits
) -> tuple[dict[str, float], list[str]]:
    frames, mb = (np.array(column, float) for column in zip(*readings, strict=True))
    late = frames >= SETTLED * frames[-1]
    middle = float(np.median(mb[late]))
    slope = float(np.polyfit(frames[late], mb[late], 1)[0]) if late.sum() > 1 else 0.0
    growth = slope * float(frames[-1] - frames[late][0])
    deviation = float(np.abs(mb[late] - middle).max())
    failures = []
    if growth > max(limits.slack_mb, limits.growth * middle):
        failures.append(f"Memory grew by {growth:.1f} MB after the first {SETTLED:.0%}.")
    if deviation > max(limits.slack_mb, limits.deviation * middle):
        failures.append(f"Memory was {deviation:.1f} MB away from its median of {middle:.1f} MB.")
    numbers = {
        "resident MB at the start": round(float(mb[0]), 1),
        "resident MB, median after the first 5 %": round(middle, 1),
        "resident MB at the end": round(float(mb[-1]), 1),
        "growth after that by the line's slope, MB": round(growth, 2),
        "slope, MB per million frames": round(slope * 1e6, 3),
        "largest deviation from the median, MB": round(deviation, 2),
    }
    return numbers, failures


def judge_latency(record: Record, limits: Limits) -> tuple[dict[str, Any], list[str]]:
    tenth = len(record.wall_ms) // 10
    if tenth < 1:
        return {}, [f"{len(record.wall_ms)} steps with predictions are too few to compare tenths."]
    numbers: dict[str, Any] = {}
    ratios = []
    for name, ms in (("wall", record.wall_ms), ("processor", record.cpu_ms)):
        first, last = (np.percentile(part, [50, 95]) for part in (ms[:tenth], ms[-tenth:]))
        ratios.append(float(last[0] / max(first[0], 1e-6)))
        numbers[f"{name} ms a step, first tenth, p50 and p95"] = first.round(3).tolist()
        numbers[f"{name} ms a step, last tenth, p50 and p95"] = last.round(3).tolist()
        numbers[f"{name} time, last to first"] = round(ratios[-1], 3)
    if min(ratios) > limits.latency:
        return numbers, [
            f"A step took {ratios[0]:.2f} times as long at the end ({ratios[1]:.2f} of processor)."
        ]
    return numbers, []


def soak(
    bundle: Bundle,
    frames: int,
    streams: int,
    *,
    videos: Sequence[str] = (),
    engine: str = "auto",
    threads: int | None = None,
    limits: Limits | None = None,
    realtime_s: float | None = None,
    fps: float = FPS,
    progress: Callable[[float], None] = lambda share: None,
) -> Report:
    """Run and judge the run: `frames` frames of all streams together or, in real time, as many as a
    camera of `fps` frames a second gives in `realtime_s` seconds (see tests/realtime.py). Without
    videos, pictures are drawn. `progress` is called with the share of the run that is done, 0..1.

    Raises:
        SvfapError: the bundle or a video cannot be read.
    """
    limits = limits or Limits()
    spec = bundle.manifest.clip
    side = round(1.5 * spec.size)  # so that every frame is resized
    pictures = video_frames(videos, side) if videos else drawn_frames(side)
    started = time.perf_counter()
    with Engine.load(bundle, engine=engine, threads=threads) as loaded:
        if realtime_s is None:
            record = Soak(loaded, pictures, streams).run(frames, progress)
            most = KEPT_CLIPS * spec.frames
            numbers, failures = judge(record, streams, most, limits)
            clock = f"simulated, {frames / streams / FPS / 3600:.3f} hours"
        else:
            from . import realtime

            record, wrong = realtime.run(loaded, pictures, streams, realtime_s, fps, progress)
            numbers, failures = realtime.judge(record, wrong, limits)
            clock = f"real, {fps:g} frames a second"
        facts = {
            "model": f"{bundle.manifest.name}, {loaded.spec.artifact} on {loaded.spec.engine}",
            "frames from": ", ".join(Path(v).name for v in videos) or "drawn",
            "streams": streams,
            "time": clock,
            "seconds it took": round(time.perf_counter() - started, 1),
            **describe_machine(),
        }
    return Report(facts, numbers, failures)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--realtime", type=float, metavar="MINUTES", help="instead of --frames")
    parser.add_argument("--fps", type=float, default=FPS, help="of the camera in real time")
    parser.add_argument("--video", action="append", default=[], help="repeatable; else drawn")
    parser.add_argument("--bundle", type=Path, help="the one in the package by default")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, help="folder for soak.json and soak.md")
    options = parser.parse_args()
    shown = [-1]

    def progress(share: float) -> None:
        if int(share * 20) > shown[0]:
            shown[0] = int(share * 20)
            print(f"{share:.0%}, {resident_mb():.1f} MB", file=sys.stderr, flush=True)

    report = soak(
        Bundle.open(options.bundle),
        options.frames,
        options.streams,
        videos=options.video,
        engine=options.engine,
        threads=options.threads,
        realtime_s=None if options.realtime is None else 60 * options.realtime,
        fps=options.fps,
        progress=progress,
    )
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.to_json(), indent=1)
        (options.output / "soak.json").write_text(text + "\n", encoding="utf-8")
        (options.output / "soak.md").write_text(report.to_markdown(), encoding="utf-8")
    print(report.to_markdown())
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
