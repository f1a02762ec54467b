"""Live sources that work: what is opened, what is counted, which clock holds, and who waits."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import (
    ConfigError,
    DependencyMissing,
    FrameError,
    SourceError,
    TimestampError,
)
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sources.capture import built_with
from svfap_edge.sources.frames import Frame, Gap, SourceCounts
from svfap_edge.sources.live import Camera, LiveSettings, PulledFrames, PushSource
from svfap_edge.sources.opening import open_source
from tests.cameras import FakeCamera, MjpegServer, check_account, noise, until
from tests.conftest import ROOT
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(4, 0.2, 8)
QUICK = LiveSettings(connect_timeout_s=1, read_timeout_s=0.3, missing_s=0.2, backoff_s=0.05)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("live") / "brightness"
    bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)
    with Engine.load(folder) as loaded:
        yield loaded


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(SourceError, match=r"Camera 97 cannot be opened.*plugged in"):
        open_source("camera:97", live=QUICK)


def test_gstreamer_needs_an_opencv_that_has_it() -> None:
    if built_with("GStreamer"):
        with open_source("videotestsrc ! videoconvert ! appsink", live=QUICK) as source:
            assert next(iter(source)).image.dtype == np.uint8
    else:
        with pytest.raises(DependencyMissing, match=r"needs GStreamer.*rtsp:// URL"):
            open_source("videotestsrc ! videoconvert ! appsink")


def test_settings() -> None:
    settings = LiveSettings(backoff_s=1, backoff_max_s=10, jitter=0.2)
    waits = [settings.wait_s(attempt, 0.5) for attempt in range(6)]
    assert waits == [1, 2, 4, 8, 10, 10]
    assert settings.wait_s(10**6, 1.0) == pytest.approx(12)
    assert settings.wait_s(0, 0.0) == pytest.approx(0.8)
    for wrong in (
        {"read_timeout_s": 0}, {"missing_s": float("nan")}, {"backoff_s": 60}, {"jitter": 1},
        {"max_attempts": 0},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LiveSettings(**wrong)  # type: ignore[arg-type]


def test_frames_of_a_camera_have_times_of_the_monotonic_clock() -> None:
    camera = FakeCamera()
    before = time.monotonic()
    with Camera("fake", QUICK, opening=camera) as source:
        assert source.live and source.frames is None and source.fps == 100
        frames = list(itertools.islice(source, 20))
        origin = source.origin_s
    assert origin is not None and before < origin < time.monotonic()
    times = np.array([f.timestamp_s for f in frames])
    assert times[0] == 0 and (np.diff(times) > 0).all()
    assert not any(f.gap for f in frames)
    assert camera.opened == camera.closed == 1
    check_account(source.counts)
    assert source.counts.processed == 20
    assert source.warnings == []


def test_frames_before_the_iteration_are_forgotten() -> None:
    camera = FakeCamera()
    with Camera("fake", QUICK, opening=camera) as source:
        until(lambda: camera.given > 20)
        assert source.counts == SourceCounts()
        first = next(iter(source))
        assert first.index == 0
        assert not np.array_equal(first.image, noise(0))


def test_capture_does_not_wait_for_a_slow_consumer() -> None:
    camera = FakeCamera()
    ages = []
    with Camera("fake", QUICK, opening=camera) as source:
        for frame in itertools.islice(source, 5):
            assert source.origin_s is not None
            ages.append(time.monotonic() - source.origin_s - frame.timestamp_s)
            time.sleep(0.15)
        last = frame.index
    counts = source.counts
    check_account(counts)
    assert counts.processed == 5
    assert counts.dropped > 20
    assert last > 20  # the index counts what was dropped
    assert max(ages) < 0.14  # the newest, not the oldest


def test_a_camera_can_be_waited_for() -> None:
    camera = FakeCamera()
    camera.broken = OSError("not yet")
    settings = LiveSettings(missing_s=0.1, backoff_s=0.05, wait_for_first=True)
    with Camera("fake", settings, opening=camera) as source:
        items = source.items()
        assert next(items).reason == "lost"  # type: ignore[union-attr]
        camera.broken = None
        frame = next(item for item in items if isinstance(item, Frame))
        assert frame.timestamp_s == 0
    camera.broken = OSError("not yet")
    with pytest.raises(SourceError, match=r"'fake' gave no frame.*OSError: not yet"):
        Camera("fake", QUICK, opening=camera)


def test_pushed_frames_keep_the_applications_clock() -> None:
    source = PushSource("ros")
    buffer = np.zeros((8, 8, 3), np.uint8)
    frames = source.items()
    for index in range(5):
        buffer[:] = 50 + index
        assert source.push(buffer, 1000 + index / 10)
        buffer[:] = 0  # the application uses its buffer again
        frame = next(frames)
        assert isinstance(frame, Frame)
        assert frame.image.max() == 50 + index
        assert frame.timestamp_s == pytest.approx(index / 10)
    assert source.origin_s == 1000
    source.push(noise(1), 1001)
    source.push(noise(2), 1001.1)
    source.end()
    assert [np.array_equal(f.image, noise(2)) for f in source] == [True]
    assert source.counts == SourceCounts(captured=7, processed=6, dropped=1, resized=1)


def test_pushing_wrongly() -> None:
    source = PushSource("ros")
    with pytest.raises(FrameError, match="float32"):
        source.push(np.zeros((8, 8, 3), np.float32), 0)
    with pytest.raises(FrameError, match=r"\(8, 8\)"):
        source.push(np.zeros((8, 8), np.uint8), 0)
    with pytest.raises(TimestampError, match="finite"):
        source.push(noise(0), float("nan"))
    assert source.push(noise(0), 5)
    source.close()
    assert not source.push(noise(0), 6)  # the camera's thread may not know yet
    assert list(source) == []
    assert source.counts == SourceCounts(captured=1, dropped=1, refused=3)
    source.close()


def test_a_clock_that_is_set_back() -> None:
    source = PushSource("ros")
    frames = iter(source)
    source.push(noise(0), 100.0)
    assert next(frames).timestamp_s == 0
    assert [source.push(noise(2), 40.0 + i / 10) for i in range(10)] == [False] * 10
    source.push(noise(3), 100.1)
    assert next(frames).timestamp_s == pytest.approx(0.1)
    assert not source.push(noise(4), 40.0)
    (said,) = source.warnings
    assert "restart_clock()" in said
    source.restart_clock()
    for index in range(3):
        source.push(noise(5 + index), 40.0 + index / 10)
        frame = next(frames)
        assert frame.timestamp_s == pytest.approx(0.101 + index / 10)
        assert frame.gap == (index == 0)
    assert source.counts.refused == 11


def test_a_clock_restarted_before_the_first_frame() -> None:
    source = PushSource("ros")
    frames = iter(source)
    source.restart_clock()
    found = []
    for index in range(4):
        assert source.push(noise(index), 10 + index / 2)
        found.append(next(frames))
    assert [f.timestamp_s for f in found] == [0, 0.5, 1, 1.5]
    assert not any(f.gap for f in found)


def test_a_clock_that_jumps_ahead_makes_a_gap() -> None:
    source = PushSource("ros")
    frames = iter(source)
    found = []
    for index, time_s in enumerate((0, 0.1, 3600, 3600.1)):
        source.push(noise(index), time_s)
        found.append(next(frames))
    assert [f.gap for f in found] == [False, False, True, False]


def test_a_gap_is_not_lost_with_a_replaced_frame() -> None:
    source = PushSource("ros")
    for index, time_s in enumerate((0, 10, 10.1)):
        source.push(noise(index), time_s)
    frame = next(iter(source))
    assert frame.gap and frame.timestamp_s == pytest.approx(10.1)


def test_many_threads_push_and_every_frame_is_accounted_for() -> None:
    source = PushSource("ros")
    clock = itertools.count()
    lock = threading.Lock()
    taken = []

    def push() -> None:
        for _ in range(200):
            with lock:
                time_s = next(clock) / 100
                source.push(noise(int(time_s * 100), (4, 4)), time_s)

    threads = [threading.Thread(target=push) for _ in range(4)]
    reader = threading.Thread(target=lambda: taken.extend(source))
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join(20)
    source.end()
    reader.join(20)
    assert not reader.is_alive()
    check_account(source.counts)
    assert source.counts.captured == 800
    assert source.counts.processed == len(taken)
    times = [f.timestamp_s for f in taken]
    assert times == sorted(set(times)) and times[-1] == pytest.approx(7.99)


def test_an_iterator_that_must_not_lose_frames() -> None:
    still = np.full((8, 8, 3), 60, np.uint8)
    with PulledFrames(((still, i / 25) for i in range(50)), keep_all=True) as source:
        frames = list(source)
    assert [f.index for f in frames] == list(range(50))
    assert source.counts == SourceCounts(captured=50, processed=50)


def test_gaps_of_a_recording_are_those_of_its_own_clock() -> None:
    def slow_disk() -> Iterator[tuple[np.ndarray, float]]:
        for index, time_s in enumerate((0, 0.04, 0.08, 5, 5.04)):
            if index == 2:
                time.sleep(2.5 * QUICK.missing_s)
            yield noise(index), time_s

    with PulledFrames(slow_disk(), settings=QUICK, keep_all=True) as source:
        items = list(source.items())
    assert [item.timestamp_s for item in items] == [0, 0.04, 0.08, 5, 5.04]
    assert [isinstance(item, Frame) and item.gap for item in items] == [
        False, False, False, True, False
    ]  # fmt: skip
    assert source.counts.gaps == 0
    assert source.warnings == []


def test_an_iterator_as_a_camera() -> None:
    closed = threading.Event()

    def camera() -> Iterator[tuple[np.ndarray, float]]:
        try:
            for index in itertools.count():
                time.sleep(0.01)
                yield noise(index), time.time()
        finally:
            closed.set()

    with open_source(camera(), live=QUICK) as source:
        for _ in itertools.islice(source, 3):
            time.sleep(0.1)
    assert closed.wait(5)
    check_account(source.counts)
    assert source.counts.dropped > 0
    assert open_source(source) is source


@pytest.mark.parametrize("keep_all", [False, True])
def test_an_iterator_with_frames_that_cannot_be_used(keep_all: bool) -> None:
    def frames() -> Iterator[tuple[np.ndarray, float]]:
        for index in range(40):  # pairs of one time each; every eighth grey, two sizes of them
            image = noise(index) if index % 8 else noise(index, (8, 8 + index))[..., 0]
            yield image, index // 2 / 25
        yield noise(40), float("nan")
        yield noise(41), 1.0

    with PulledFrames(frames(), keep_all=keep_all) as source:
        times = [frame.timestamp_s for frame in source]
    assert len(source.warnings) == 2
    assert source.counts.refused == 21
    assert source.counts.captured == 21
    assert times[-1] == 1.0
    check_account(source.counts)


def test_an_iterator_without_any_frame_that_can_be_used() -> None:
    with (
        PulledFrames((noise(i)[..., 0], i / 25) for i in range(9)) as source,
        pytest.raises(FrameError, match="Grey"),
    ):
        list(source)
    assert source.counts.refused == 9
    assert list(PulledFrames(())) == []


def test_an_iterator_that_raises() -> None:
    def camera() -> Iterator[tuple[np.ndarray, float]]:
        yield noise(0), 0.0
        raise RuntimeError("the driver crashed")

    frames = iter(open_source(camera()))
    next(frames)
    with pytest.raises(SourceError, match="RuntimeError: the driver crashed"):
        next(frames)
    with pytest.raises(SourceError, match="ValueError"):
        list(open_source([(noise(0), 0.0, "more")]))  # type: ignore[list-item]


def test_a_run_ends_after_its_seconds(engine: Engine, tmp_path: Path) -> None:
    with Camera("fake", QUICK, opening=FakeCamera()) as source:
        sinks = [JsonLines(str(tmp_path / "x.jsonl"))]
        summary = run(source, engine, sinks, detector="none", hop_s=0.1, seconds=1.0)
    assert 1.0 <= summary.duration_s < 1.5
    assert summary.predictions >= 5
    counts = SourceCounts(**summary.counts)
    check_account(counts)
    assert counts.processed == summary.frames
    assert "wait" in summary.seconds and "decode" not in summary.seconds
    last = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[-1])
    assert last["counts"]["captured"] == counts.captured


def test_another_thread_ends_the_run(engine: Engine) -> None:
    source = PushSource("quiet")
    threading.Timer(0.3, source.stop).start()
    summary = run(source, engine, detector="none")
    assert summary.frames == 0


def test_a_url_with_real_frames() -> None:
    server = MjpegServer()
    try:
        with open_source(server.url, live=QUICK) as source:
            frames = list(itertools.islice(source, 20))
    finally:
        server.kill()
    assert frames[0].image.shape == (48, 64, 3)
    spacing = np.diff([f.timestamp_s for f in frames])
    assert 0.01 < np.median(spacing) < 0.06
    check_account(source.counts)
    assert source.counts.failed == 0


def test_nobody_there() -> None:
    server = MjpegServer()
    server.kill()
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot be opened\. Check the address"):
        open_source(server.url, live=QUICK)
    assert time.monotonic() - start < 3


def test_items_say_what_is_missing_and_iteration_does_not() -> None:
    source = PushSource("ros", QUICK)
    source.push(noise(0), 7.0)
    items = source.items()
    assert isinstance(next(items), Frame)
    first, second = next(items), next(items)
    assert isinstance(first, Gap) and isinstance(second, Gap)
    assert (first.reason, first.first, second.first) == ("silent", True, False)
    assert 0.2 <= first.timestamp_s < second.timestamp_s < 2
    assert source.counts.gaps == 1


def test_the_documented_embedding_runs(engine: Engine) -> None:
    text = (ROOT / "docs" / "live.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}

    class Message:
        pixels = noise(0)
        stamp_s = 5.0

    class Node:
        @staticmethod
        def subscribe(callback: object) -> None:
            callback(Message)  # type: ignore[operator]
            names["camera"].end()  # type: ignore[attr-defined]

    names["node"] = Node
    exec(compile(code, "docs/live.md", "exec"), names)
    assert names["camera"].counts.processed == 1  # type: ignore[attr-defined]
