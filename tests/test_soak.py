"""The soak run, for seconds, and that its judge finds what it is for."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.stream import Stream

from . import realtime, soak

LEAK = 16 * 1024  # bytes a frame

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_a_short_run_passes(tiny: Bundle) -> None:
    """Three minutes of four cameras are 24,000 frames; streams end and begin."""
    limits = soak.Limits(latency=3)  # of 40 steps; the machine may be busy
    report = soak.soak(tiny, 24_000, 4, engine="onnxruntime", threads=1, limits=limits)
    assert report.failures == []
    numbers = report.numbers
    assert numbers["frames"] == 24_000
    assert numbers["predictions"] == pytest.approx(2000, abs=30)
    assert numbers["predictions compared"] > 1000
    assert numbers["streams"] > numbers["open streams"] == 4
    assert numbers["times lost"] > 10
    assert numbers["late frames refused"] > 40
    json.dumps(report.to_json())
    assert "All checks passed." in report.to_markdown()


@linux
def test_a_leak_is_found(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame is kept once too often, in pages of its own.

    The heap would hide the leak: tests before this one left free memory there.
    """
    kept: list[mmap.mmap] = []
    inner = Stream.add

    def leaking(self: Stream, face: np.ndarray, timestamp_s: float) -> bool:
        kept.append(mmap.mmap(-1, LEAK))
        kept[-1].write(b"1" * LEAK)
        return inner(self, face, timestamp_s)

    monkeypatch.setattr(Stream, "add", leaking)
    limits = soak.Limits(latency=100)
    report = soak.soak(tiny, 8_000, 4, engine="onnxruntime", threads=1, limits=limits)
    assert len(kept) >= 8_000
    assert any("Memory grew" in text for text in report.failures)


def record(memory_mb: np.ndarray, ms: np.ndarray) -> soak.Record:
    frames = int(len(ms) * soak.HOP_S * soak.FPS)
    found = soak.Record(wall_ms=ms.tolist(), cpu_ms=ms.tolist())
    found.memory = [(round(i * frames / len(memory_mb)), mb) for i, mb in enumerate(memory_mb)]
    found.counts.update({"frames": frames, "predictions": len(ms), "open streams": 1, "streams": 1})
    return found


@pytest.mark.parametrize(
    ("memory_mb", "ms", "words"),
    [
        (np.r_[50, np.full(99, 300.0)], np.full(1000, 5.0), []),
        (np.linspace(300, 310, 100), np.full(1000, 5.0), ["Memory grew"]),
        (np.r_[np.full(60, 300.0), 340, np.full(39, 300.0)], np.full(1000, 5.0), ["away"]),
        (np.full(100, 300.0), np.linspace(5, 8, 1000), ["times as long"]),
        (np.full(100, 300.0), np.full(5, 5.0), ["too few"]),
    ],
    ids=["good", "growth", "peak", "slower", "short"],
)
def test_the_judge(memory_mb: np.ndarray, ms: np.ndarray, words: list[str]) -> None:
    _, failures = soak.judge(record(memory_mb, ms), 1, 100, soak.Limits())
    assert len(failures) == len(words)
    assert all(word in text for word, text in zip(words, failures, strict=True))


def test_time_of_the_processor_excuses_a_busy_machine() -> None:
    found = record(np.full(100, 300.0), np.linspace(5, 8, 1000))
    found.cpu_ms = [5.0] * 1000
    assert soak.judge(found, 1, 100, soak.Limits())[1] == []


def test_everything_wrong_is_reported() -> None:
    found = record(np.full(100, 300.0), np.full(1000, 5.0))
    found.difference, found.longest_buffer = 0.5, 200
    found.objects, found.threads = [10_000, 90_000], [3, 9]
    found.counts.update({"open streams": 3, "predictions": -500})
    _, failures = soak.judge(found, 1, 100, soak.Limits())
    for word in ("4 streams are open", "held 200", "differ", "were due", "objects", "Threads"):
        assert sum(word in text for text in failures) == 1, word


@linux
def test_frames_of_real_videos(videos: Path, tiny: Bundle) -> None:
    paths = sorted(str(path) for path in videos.iterdir())
    frames = soak.video_frames(paths, 48, count=12)
    assert frames.shape == (12, 48, 48, 3)
    with Engine.load(tiny, engine="onnxruntime", threads=1) as engine:
        found = soak.Soak(engine, frames, 2).run(600)
    assert found.counts["frames"] == 600


@linux
@pytest.mark.parametrize("fps", [30, 400], ids=["in time", "too fast"])
def test_real_time_accounts_for_every_frame(tiny: Bundle, fps: float) -> None:
    limits = soak.Limits(latency=100, slack_mb=64)
    report = soak.soak(
        tiny, 0, 2, engine="onnxruntime", threads=1, limits=limits, realtime_s=8, fps=fps
    )
    assert report.failures == []
    numbers = report.numbers
    assert numbers["captured"] == numbers["frames pushed"] == round(8 * fps)
    assert numbers["captured"] == numbers["processed"] + numbers["dropped"]


def test_a_frame_that_is_not_accounted_for_is_reported() -> None:
    found = soak.Record()
    found.counts.update({"frames pushed": 9, "captured": 9, "processed": 6, "dropped": 3})
    found.counts["predictions"] = 1
    assert realtime.unaccounted(found, [0, 1, 3, 4, 6, 8]) == []
    assert realtime.unaccounted(found, [0, 1, 3, 6, 4, 8]) == ["Frames came out of order."]
    found.counts["dropped"] = 2
    assert len(realtime.unaccounted(found, [0, 1, 3, 4, 6])) == 2
