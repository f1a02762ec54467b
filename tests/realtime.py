"""The soak run in real time: a camera thread pushes frames at a fixed rate.

Every frame must be accounted for. `python -m tests.soak --realtime 30 --fps 30` runs it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from svfap_edge import Engine, PushSource

from .soak import HOP_S, Limits, Record, judge_latency, judge_memory, resident_mb

READ_EVERY_S = 1.0
"""Seconds between readings of the memory."""


class Shutter(threading.Thread):
    """A camera: pushes frames on a schedule that does not drift, and ends the source.

    Attributes:
        pushed: Frames pushed so far.
        late: Frames that were late by more than the time of a frame.
    """

    def __init__(self, source: PushSource, frames: np.ndarray, fps: float, seconds: float) -> None:
        super().__init__(name="soak-camera", daemon=True)
        self.pushed = 0
        self.late = 0
        self._source, self._frames, self._fps, self._seconds = source, frames, fps, seconds

    def run(self) -> None:
        start = time.monotonic()
        last = round(self._seconds * self._fps)
        for number in range(last):
            wait_s = start + number / self._fps - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            elif wait_s < -1 / self._fps:
                self.late += 1
            self._source.push(self._frames[number % len(self._frames)], time.monotonic())
            self.pushed += 1
        self._source.end()


def run(
    engine: Engine,
    frames: np.ndarray,
    streams: int,
    seconds: float,
    fps: float,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Record, list[str]]:
    """Run; return what was noted and what does not add up. Each frame goes to all streams."""
    record = Record()
    faces = [engine.open_stream(f"face-{i + 1}", hop_s=HOP_S) for i in range(streams)]
    indexes: list[int] = []
    with PushSource("soak") as source:
        shutter = Shutter(source, frames, fps, seconds)
        started = read_at = time.monotonic()
        shutter.start()
        for frame in source:
            indexes.append(frame.index)
            for stream in faces:
                stream.add(frame.image, frame.timestamp_s)
            wall, cpu = time.perf_counter(), time.thread_time()
            predictions = engine.step(faces)
            if predictions:
                record.wall_ms.append((time.perf_counter() - wall) * 1e3)
                record.cpu_ms.append((time.thread_time() - cpu) * 1e3)
                record.counts["predictions"] += len(predictions)
            if time.monotonic() >= read_at:
                record.memory.append((frame.index, resident_mb()))
                read_at = time.monotonic() + READ_EVERY_S
                progress((time.monotonic() - started) / seconds)
        shutter.join()
        counts = source.counts
    record.counts.update(
        {
            "frames pushed": shutter.pushed,
            "pushed late by more than a frame": shutter.late,
            "captured": counts.captured,
            "processed": counts.processed,
            "dropped": counts.dropped,
            "gaps": counts.gaps,
        }
    )
    return record, unaccounted(record, indexes)


def unaccounted(record: Record, indexes: list[int]) -> list[str]:
    """What does not add up, frame by frame."""
    counts = record.counts
    failures = []
    if counts["captured"] != counts["frames pushed"]:
        failures.append(f"{counts['frames pushed']} frames pushed, {counts['captured']} captured.")
    if counts["captured"] != counts["processed"] + counts["dropped"]:
        failures.append(
            f"{counts['captured']} captured, but {counts['processed']} processed and "
            f"{counts['dropped']} dropped."
        )
    if len(indexes) != counts["processed"] or len(set(indexes)) != len(indexes):
        failures.append(f"{counts['processed']} processed, {len(set(indexes))} of them seen.")
    if indexes != sorted(indexes):
        failures.append("Frames came out of order.")
    if not counts["predictions"]:
        failures.append("Nothing was predicted.")
    return failures


def judge(
    record: Record, failures: list[str], limits: Limits
) -> tuple[dict[str, object], list[str]]:
    """Judge a run: its numbers, and the checks that failed."""
    memory, more = judge_memory(record.memory, limits)
    latency, slower = judge_latency(record, limits)
    return {**memory, **latency, **record.counts}, [*failures, *more, *slower]
