"""Live sources when something breaks: nothing hangs, nothing wrong is presented as valid, and the
source recovers."""

from __future__ import annotations

import faulthandler
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import InferenceError, SourceError
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.perception.results import Perception
from svfap_edge.runner.account import RunSummary
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine, Prediction
from svfap_edge.schedule import MIN_COVERAGE
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.overlay import MAX_REPEAT_S, OverlayVideo
from svfap_edge.sinks.sink import Sink
from svfap_edge.sources.frames import Frame, Gap, SourceCounts
from svfap_edge.sources.live import Camera, LiveSettings, PushSource
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.reader import MAX_ABANDONED
from tests.cameras import FakeCamera, MjpegServer, check_account, jpeg, noise, until
from tests.conftest import skip_if_ignored
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx
from tests.rtsp import RtspServer

CLIP = ClipSpec(4, 0.2, 8)
QUICK = LiveSettings(
    connect_timeout_s=1, read_timeout_s=0.4, missing_s=0.3, backoff_s=0.05, backoff_max_s=0.2
)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """End the session with every thread's traceback if a test hangs."""
    faulthandler.dump_traceback_later(200, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP).path


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    with Engine.load(folder) as loaded:
        yield loaded


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.stalled.clear()
    server.kill()


class Recorder(Sink):
    """A sink that keeps everything in order, and calls `act` with every frame and gap."""

    def __init__(self, act: Callable[[Perception | Gap], None] = lambda item: None) -> None:
        self.events: list[tuple[str, Any]] = []
        self._act = act

    def write(self, camera: str | None, perception: Perception) -> None:
        self.events.append(("frame", perception))
        self.events += [("prediction", p) for p in perception.predictions]
        self.events += [("state", c.state) for c in perception.changes]
        self._act(perception)

    def missing(self, camera: str | None, gap: Gap, changes: list[Any]) -> None:
        self.events.append(("gap", gap))
        self.events += [("state", c.state) for c in changes]
        self._act(gap)

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.events if name == kind]


def watched(source: Any) -> list[Frame]:
    """A list that fills with the frames that a source gives."""
    frames: list[Frame] = []
    items = source.items

    def noting() -> Iterator[Frame | Gap]:
        for item in items():
            if isinstance(item, Frame):
                frames.append(item)
            yield item

    source.items = noting
    return frames


def run_through_a_fault(
    engine: Engine, source: Any, breaking: Callable[[], None], mending: Callable[[], None]
) -> tuple[Recorder, RunSummary]:
    """Run; break the source after 3 predictions, mend it at the first gap, stop after 3 more.

    Nothing may be predicted in between, and no clip may span the gap.
    """
    phase = ["before"]

    def act(item: Perception | Gap) -> None:
        count = len(recorder.of("prediction"))
        if phase[0] == "before" and count >= 3:
            breaking()
            phase[0] = "broken"
        elif phase[0] == "broken" and isinstance(item, Gap):
            mending()
            phase[:] = ["mended", str(count)]
        elif phase[0] == "mended" and count >= int(phase[1]) + 3:
            source.stop()

    recorder, frames = Recorder(act), watched(source)
    with source:
        summary = run(source, engine, [recorder], detector="none", hop_s=0.1, seconds=15)
    assert phase[0] == "mended"
    predictions = recorder.of("prediction")
    back = next(i for i, frame in enumerate(frames) if frame.gap)
    lost_s, back_s = frames[back - 1].timestamp_s, frames[back].timestamp_s
    assert not [p for p in predictions if lost_s < p.end_s < back_s]
    later = [p for p in predictions if p.end_s >= back_s]
    assert len(later) >= 3
    for prediction in later:
        slots = prediction.start_s + CLIP.spacing_s * np.arange(CLIP.frames)
        possible = (slots >= back_s - CLIP.spacing_s - 1e-6).mean()
        assert MIN_COVERAGE <= prediction.coverage <= possible + 1e-6
    assert recorder.of("state")[:3] == ["warming", "valid", "stale"]
    assert recorder.of("state")[-1] == "valid"
    check_account(source.counts)
    assert source.counts.processed == summary.frames
    return recorder, summary


def test_unplugged_and_plugged_in_again(engine: Engine) -> None:
    camera = FakeCamera()

    def unplug() -> None:
        camera.broken = OSError("no such device")

    def plug_in() -> None:
        camera.broken = None

    source = Camera("fake", QUICK, opening=camera)
    recorder, summary = run_through_a_fault(engine, source, unplug, plug_in)
    assert recorder.of("gap")[0].reason == "lost"
    assert summary.counts["reconnected"] == 1
    assert summary.counts["failed"] >= 2
    assert sum("no such device" in warning for warning in summary.warnings) == 1
    assert sum("lost for more than" in warning for warning in summary.warnings) == 1


def test_reads_that_fail_without_a_word(engine: Engine) -> None:
    camera = FakeCamera()

    def fail() -> None:
        camera.draw = lambda index: None

    def mend() -> None:
        camera.draw = noise

    source = Camera("fake", QUICK, opening=camera)
    recorder, summary = run_through_a_fault(engine, source, fail, mend)
    assert recorder.of("gap")[0].reason == "lost"
    assert summary.counts["failed"] > 10


def test_a_read_that_hangs(engine: Engine) -> None:
    camera = FakeCamera()
    source = Camera("fake", QUICK, opening=camera)

    def mend() -> None:
        until(lambda: source.counts.abandoned == 1)
        camera.hanging.clear()

    _, summary = run_through_a_fault(engine, source, camera.hanging.set, mend)
    assert summary.counts["abandoned"] == summary.counts["reconnected"] == 1
    captured = source.counts.captured
    camera.going_on.set()  # the abandoned thread returns; its frame is nobody's
    until(lambda: camera.closed == 2)
    assert source.counts.captured == captured


def test_threads_left_behind_are_bounded() -> None:
    camera = FakeCamera()
    settings = LiveSettings(read_timeout_s=0.05, missing_s=0.2, backoff_s=0.01, backoff_max_s=0.01)
    with Camera("fake", settings, opening=camera) as source:
        next(iter(source))
        camera.hanging.set()
        until(lambda: source.counts.failed > 2 * MAX_ABANDONED)
        assert source.counts.abandoned == MAX_ABANDONED == camera.opened
        camera.hanging.clear()
        camera.going_on.set()
        until(lambda: source.counts.reconnected == 1)
    until(lambda: camera.closed == camera.opened)


def test_opening_that_hangs_is_an_error_in_time() -> None:
    forever = threading.Event()

    def opening() -> Any:
        forever.wait(30)

    start = time.monotonic()
    settings = LiveSettings(connect_timeout_s=0.2, read_timeout_s=0.2)
    with pytest.raises(SourceError, match="hangs"):
        Camera("fake", settings, opening=opening)
    assert time.monotonic() - start < 2
    forever.set()


def test_giving_up_after_the_set_attempts(engine: Engine, tmp_path: Path) -> None:
    camera = FakeCamera()
    settings = LiveSettings(backoff_s=0.01, backoff_max_s=0.02, max_attempts=3)

    def unplug(item: Perception | Gap) -> None:
        camera.broken = OSError("no such device")

    sinks = [JsonLines(str(tmp_path / "x.jsonl")), Recorder(unplug)]
    with (
        Camera("fake", settings, opening=camera) as source,
        pytest.raises(SourceError, match=r"3 attempts in a row.*no such device"),
    ):
        run(source, engine, sinks, detector="none")
    check_account(source.counts)
    assert camera.opened == 4
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["source", "state"]


@pytest.mark.parametrize("level", [100, 5], ids=["frozen", "black"])
def test_a_picture_that_shows_nothing_new(engine: Engine, level: int) -> None:
    camera = FakeCamera()

    def freeze() -> None:
        still = noise(9999)
        camera.draw = lambda index: still if level == 100 else noise(index, level=10) // 2

    def thaw() -> None:
        camera.draw = noise

    source = Camera("fake", QUICK, opening=camera)
    recorder, summary = run_through_a_fault(engine, source, freeze, thaw)
    reason = "frozen" if level == 100 else "black"
    assert recorder.of("gap")[0].reason == reason
    withheld = summary.counts["duplicate" if level == 100 else "black"]
    assert withheld >= 10
    assert summary.counts["reconnected"] == summary.counts["failed"] == 0
    words = "froze" if level == 100 else "was black"
    assert sum(words in warning for warning in summary.warnings) == 1


def test_every_frame_twice_is_half_the_frames(engine: Engine) -> None:
    source = Camera("fake", opening=FakeCamera(lambda index: noise(index // 2)))
    with source:
        summary = run(source, engine, detector="none", hop_s=0.1, seconds=1)
    check_account(source.counts)
    counts = source.counts
    assert counts.duplicate == pytest.approx(counts.captured / 2, abs=0.1 * counts.captured)
    assert counts.gaps == 0
    assert summary.predictions >= 5
    assert sum("repeat" in warning for warning in summary.warnings) == 1


def test_a_size_that_changes(engine: Engine, tmp_path: Path) -> None:
    sizes = [(48, 64), (96, 128), (48, 64)]
    camera = FakeCamera(lambda index: noise(index, sizes[min(2, index // 40)]))
    recorder = Recorder(lambda item: source.stop() if camera.given > 100 else None)
    sinks = [recorder, OverlayVideo(tmp_path / "o.mp4", BRIGHTNESS_TASK, 25)]
    with Camera("fake", LiveSettings(), opening=camera) as source:
        frames = watched(source)
        run(source, engine, sinks, detector="none", seconds=20)
    changed = [b for a, b in itertools.pairwise(frames) if a.image.shape != b.image.shape]
    assert len(changed) == source.counts.resized == 2
    assert all(frame.gap for frame in changed)
    assert [w for w in source.warnings if "size" in w] == [
        "The frame size changed from 64x48 to 128x96."
    ]
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).read()[0]


def test_a_slow_consumer_gets_fewer_frames_and_holds_up_nothing(engine: Engine) -> None:
    recorder = Recorder(lambda item: time.sleep(0.04))
    with Camera("fake", LiveSettings(), opening=FakeCamera()) as source:
        summary = run(source, engine, [recorder], detector="none", hop_s=0.1, seconds=1.5)
    check_account(source.counts)
    assert len(recorder.of("frame")) < 0.7 * summary.counts["processed"]
    assert summary.counts["processed"] > summary.counts["dropped"]
    predictions: list[Prediction] = recorder.of("prediction")
    assert len(predictions) >= 5
    assert all(MIN_COVERAGE <= p.coverage <= 1 for p in predictions)
    assert source.counts.gaps == 0


def test_a_sink_that_raises(engine: Engine, tmp_path: Path) -> None:
    def act(item: Perception | Gap) -> None:
        if recorder.of("prediction"):
            raise RuntimeError("the robot's callback failed")

    recorder = Recorder(act)
    task = engine.manifest.task
    sinks = [
        JsonLines(str(tmp_path / "x.jsonl")), OverlayVideo(tmp_path / "o.mp4", task, 25), recorder
    ]  # fmt: skip
    camera = FakeCamera()
    with (
        pytest.raises(RuntimeError, match="the robot's callback failed"),
        Camera("fake", QUICK, opening=camera) as source,
    ):
        run(source, engine, sinks, detector="none")
    check_account(source.counts)
    until(lambda: camera.closed == 1)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines[-1]["type"] == "prediction"
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).read()[0]


def test_an_engine_that_fails_ends_the_run_and_the_camera(tmp_path: Path) -> None:
    model = brightness_model(CLIP, nan_above=0.1)
    folder = bundle_of_onnx(tmp_path / "nan", model, BRIGHTNESS_TASK, CLIP).path
    camera = FakeCamera()
    recorder = Recorder()
    with (
        Engine.load(folder) as engine,
        pytest.raises(InferenceError, match="NaN"),
        Camera("fake", QUICK, opening=camera) as source,
    ):
        run(source, engine, [recorder], detector="none")
    assert not recorder.of("prediction")
    check_account(source.counts)
    until(lambda: camera.closed == 1)


def test_people_leave_while_no_frames_come(engine: Engine) -> None:
    source = PushSource("ros", LiveSettings(missing_s=0.1))
    source.push(noise(0), 50.0)
    recorder = Recorder(lambda item: source.stop() if "ended" in recorder.of("state") else None)
    summary = run(source, engine, [recorder], detector="none", forget_s=0.5, seconds=10)
    assert recorder.of("state") == ["warming", "ended"]
    assert [gap.first for gap in recorder.of("gap")][:3] == [True, False, False]
    assert summary.people == 1


def test_the_overlay_stays_bounded_when_the_clock_jumps(engine: Engine, tmp_path: Path) -> None:
    source = PushSource("ros")
    sink = OverlayVideo(tmp_path / "o.mp4", BRIGHTNESS_TASK, 20)
    perceiver = Perceiver(engine, detector="none")
    items = source.items()
    for index, time_s in enumerate((0.0, 0.05, 86400.0, 86400.05)):
        source.push(noise(index), time_s)
        frame = next(items)
        assert isinstance(frame, Frame)
        sink.write(None, perceiver.process(frame.image, frame.timestamp_s))
    sink.close()
    count = cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)
    assert 4 <= count <= 20 * MAX_REPEAT_S + 4


def test_a_server_killed_and_restarted_with_another_size(
    engine: Engine, server: MjpegServer
) -> None:
    def restart() -> None:
        server.body = lambda index: jpeg(noise(index, (96, 128)))
        server.start()

    source = open_source(server.url, live=QUICK)
    recorder, summary = run_through_a_fault(engine, source, server.kill, restart)
    assert recorder.of("gap")[0].reason == "lost"
    assert summary.counts["reconnected"] == 1
    shapes = [f.image.shape for f in recorder.of("frame")]
    assert shapes[0] == (48, 64, 3) and shapes[-1] == (96, 128, 3)
    assert any("64x48 to 128x96" in warning for warning in summary.warnings)


def test_an_interlaced_camera_gives_no_memory_that_nobody_wrote() -> None:
    """OpenCV 4.13 and 4.14 do: it is refused there. Others show it."""
    camera = RtspServer(lambda index: np.full((64, 96, 3), 40 + 20 * (index % 9), np.uint8), "tff")
    live = replace(QUICK, connect_timeout_s=8)
    try:
        if tuple(int(n) for n in cv2.__version__.split(".")[:2]) >= (4, 13):
            with pytest.raises(SourceError, match="interlaced"):
                open_source(camera.url, live=live)
        else:
            with open_source(camera.url, live=live) as source:
                assert next(iter(source)).image.mean() > 30
    finally:
        camera.kill()


def test_a_server_that_stalls(engine: Engine, server: MjpegServer) -> None:
    source = open_source(server.url, live=QUICK)
    recorder, summary = run_through_a_fault(
        engine, source, server.stalled.set, server.stalled.clear
    )
    assert recorder.of("gap")[0].reason in ("silent", "lost")
    assert summary.counts["gaps"] >= 1


def test_an_rtsp_camera_killed_and_restarted(engine: Engine) -> None:
    camera = RtspServer(noise)
    try:
        source = open_source(camera.url, live=replace(QUICK, connect_timeout_s=8))
        recorder, summary = run_through_a_fault(engine, source, camera.kill, camera.start)
        assert camera.asked.count("PLAY") == 2
        assert summary.counts["reconnected"] == 1
        assert all(f.image.shape == (48, 64, 3) for f in recorder.of("frame"))
        assert abs(float(np.mean([f.image.mean() for f in recorder.of("frame")])) - 100) < 5
    finally:
        camera.kill()


def test_an_rtsp_camera_that_stalls(engine: Engine) -> None:
    camera = RtspServer(noise)
    try:
        source = open_source(camera.url, live=replace(QUICK, connect_timeout_s=8))
        recorder, summary = run_through_a_fault(
            engine, source, camera.stalled.set, camera.stalled.clear
        )
        assert recorder.of("gap")[0].reason in ("silent", "lost")
        assert summary.counts["gaps"] >= 1
    finally:
        camera.kill()


def test_corrupt_packets(engine: Engine, server: MjpegServer) -> None:
    random = np.random.default_rng(0)

    def body(index: int) -> bytes:
        good = jpeg(noise(index))
        if index % 10 == 5:
            return bytes(random.integers(0, 256, 300, dtype=np.uint8))
        if index % 10 == 6:
            return b""
        if index % 10 == 8:
            broken = bytearray(good)
            for place in random.integers(200, len(good), 20):
                broken[place] ^= 0xFF
            return bytes(broken)
        return good

    server.body = body
    with open_source(server.url, live=QUICK) as source:
        summary = run(source, engine, detector="none", hop_s=0.1, seconds=2)
    check_account(source.counts)
    assert summary.counts["failed"] >= 2
    assert summary.frames > 40
    assert summary.predictions >= 5


def test_a_size_that_changes_within_a_connection(server: MjpegServer) -> None:
    """FFmpeg keeps the first size and scales to it; a half-white picture stays one."""

    def body(index: int) -> bytes:
        scale = 1 if index < 15 else 2
        image = noise(index, (48 * scale, 64 * scale))
        image[:, 32 * scale :] = 255 - image[:, 32 * scale :] // 8
        return jpeg(image)

    server.body = body
    with open_source(server.url, live=QUICK) as source:
        frames = list(itertools.islice(source, 40))
    for frame in frames:
        middle = frame.image.shape[1] // 2
        assert frame.image[:, : middle - 8].mean() < 130
        assert frame.image[:, middle + 8 :].mean() > 220


def test_a_recording_by_http_is_refused(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for index in range(30):
        writer.write(noise(index))
    writer.release()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(SourceError, match=r"recording of 30 frames.*Download"):
            open_source(f"http://127.0.0.1:{server.server_address[1]}/v.mp4", live=QUICK)
        server.shutdown()


def start_run(url: str, bundle: Path, tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "svfap_edge", "run", url, "--bundle", str(bundle), "--detector",
        "none", "--hop", "0.1", "--jsonl", str(tmp_path / "x.jsonl"), "--video",
        str(tmp_path / "o.mp4"), *options,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(tmp_path: Path) -> list[dict[str, Any]]:
    """All whole lines; the last line of a file that is being written may be cut."""
    path = tmp_path / "x.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def check_files(tmp_path: Path) -> None:
    text = (tmp_path / "x.jsonl").read_text()
    assert text.endswith("\n")
    last = json.loads(text.splitlines()[-1])
    assert last["type"] == "summary"
    check_account(SourceCounts(**last["counts"]))
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.read()[0]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "stalled"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGTERM, True)],
    ids=["SIGTERM", "SIGINT", "SIGTERM while stalled"],
)
def test_a_signal_ends_a_live_run_well(
    server: MjpegServer, folder: Path, tmp_path: Path, number: signal.Signals, stalled: bool
) -> None:
    """Also while FFmpeg waits for a server that says nothing."""
    skip_if_ignored(number)
    process = start_run(server.url, folder, tmp_path)
    try:
        until(lambda: len(lines_of(tmp_path)) > 5 or process.poll() is not None, 80)
        if stalled:
            server.stalled.set()
            until(lambda: any(line["type"] == "gap" for line in lines_of(tmp_path)), 40)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "captured" in out
    assert ("No frame came for more than 1 s" in errors) == stalled
    check_files(tmp_path)


def test_seconds_and_json_of_a_live_run(server: MjpegServer, tiny: Bundle, tmp_path: Path) -> None:
    process = start_run(server.url, tiny.path, tmp_path, "--seconds", "1.5", "--json")
    try:
        out, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    summary = json.loads(out)
    assert 1.5 <= summary["duration_s"] < 3
    assert summary["counts"]["processed"] == summary["frames"] > 3
    check_files(tmp_path)


def test_a_process_ends_well_with_a_camera_left_open(server: MjpegServer) -> None:
    """A read that returns while the interpreter ends would abort it."""
    code = (
        "import itertools, sys\n"
        "from svfap_edge import LiveSettings, open_source\n"
        "source = open_source(sys.argv[1], live=LiveSettings(read_timeout_s=0.5))\n"
        "print(len(list(itertools.islice(source, 5))))"
    )
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", code, server.url], capture_output=True, text=True, timeout=60
        )
        assert (result.returncode, result.stdout) == (0, "5\n"), result.stderr


def test_no_thread_is_left_running() -> None:
    """After all the tests above."""
    until(
        lambda: not [t.name for t in threading.enumerate() if t.name.startswith("svfap-")],
        timeout_s=10,
    )
