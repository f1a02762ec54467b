"""Several sources on one engine: files in order of time, cameras at their own pace, and failures
that stay with the one they belong to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, ConfigError, SourceError, SvfapError
from svfap_edge.perception.results import Perception
from svfap_edge.runner.account import RunSummary
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sources.frames import Frame, Gap, Source, SourceCounts
from svfap_edge.sources.live import Camera, LiveSettings, PushSource
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.sample import Generated
from tests.cameras import FakeCamera, MjpegServer, noise, until
from tests.cli.test_commands import call, refused
from tests.conftest import skip_if_ignored
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

from .test_engine_failures import faulty_engine

CLIP = ClipSpec(4, 0.4, 8)
QUICK = LiveSettings(
    connect_timeout_s=1, read_timeout_s=0.3, missing_s=0.2, backoff_s=0.05, max_attempts=1
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("c") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


@pytest.fixture
def engine(bundle: Bundle) -> Iterator[Engine]:
    with Engine.load(bundle, engine="onnxruntime", threads=1) as loaded:
        yield loaded


def ramp(fps: float, seconds: float, start: int = 0) -> Generated:
    def draw(time_s: float) -> np.ndarray:
        return np.full((24, 32, 3), start + round(40 * time_s), np.uint8)

    return Generated(f"ramp-{fps:g}", draw, seconds, fps)


def play(
    engine: Engine, sources: dict[str, Source], path: Path | None = None, **options: Any
) -> RunSummary:
    """All sources through one engine, each frame being a face."""
    sinks = [] if path is None else [JsonLines(str(path))]
    return run(sources, engine, sinks, detector="none", hop_s=0.2, **options)


def lines_of(path: Path, camera: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if camera is None or line.get("camera") == camera]


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    """A line less what the clock on the wall has to do with."""
    timed = ("latency_ms", "wall_s", "fps", "speed", "seconds")
    plain = {key: value for key, value in line.items() if key not in timed}
    if "cameras" in plain:
        plain["cameras"] = {name: without_times(each) for name, each in plain["cameras"].items()}
    return plain


def test_files_give_what_each_gives_alone(engine: Engine, tmp_path: Path) -> None:
    """Also with different frame rates and lengths; each line names its camera."""
    every = {"door": (25.0, 3.0, 0), "desk": (12.0, 4.0, 50), "hall": (25.0, 1.0, 100)}
    for name, of in every.items():
        play(engine, {name: ramp(*of)}, tmp_path / name)
    path = tmp_path / "all"
    summary = play(engine, {name: ramp(*of) for name, of in every.items()}, path)
    for name in every:
        *alone, last = lines_of(tmp_path / name, name)
        *mine, end = lines_of(path, name)
        assert len(mine) == len(alone) > 4
        for line, want in zip(mine, alone, strict=True):
            scores, wanted = line.pop("scores", {}), want.pop("scores", {})
            assert scores == pytest.approx(wanted, abs=1e-5)
            assert line.pop("score", None) == pytest.approx(want.pop("score", None), abs=1e-5)
            assert without_times(line) == without_times(want)
        assert without_times(end) == without_times(last)
        assert summary.cameras[name].frames == last["frames"]
    total = lines_of(path)[-1]
    assert "camera" not in total and total == {"type": "summary", **summary.to_json()}
    assert total["frames"] == 75 + 48 + 25 and total["people"] == 3
    assert sum(total["labels"].values()) == total["predictions"]
    assert set(total["seconds"]) == {"decode", "detect", "crop", "model", "write", "rest"}
    assert sum(total["seconds"].values()) == pytest.approx(total["wall_s"], abs=0.01)
    ends = [line["camera"] for line in lines_of(path)[:-1] if line["type"] == "summary"]
    assert ends == ["hall", "door", "desk"]
    assert engine.streams == ()


def test_clips_of_files_share_a_batch_and_none_is_missed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    inner = engine.backend.run
    monkeypatch.setattr(engine.backend, "run", lambda c: (sizes.append(len(c)), inner(c))[1])
    sources: dict[str, Source] = {f"c{k}": ramp(25 - k / 100, 2.0) for k in range(4)}
    summary = play(engine, sources)
    assert sizes.count(4) > 0.7 * len(sizes)
    assert sum(sizes) == summary.predictions


def test_a_run_of_files_ends_after_its_seconds(engine: Engine) -> None:
    summary = play(engine, {"a": ramp(25, 3.0), "b": ramp(10, 0.5)}, seconds=1.0)
    assert summary.cameras["a"].duration_s == pytest.approx(1.0, abs=0.041)
    assert summary.cameras["b"].frames == 5


def test_the_same_files_give_the_same_lines(videos: Path, tmp_path: Path) -> None:
    sources = [f"a={videos / 'WolfgangLanger_Pexels.mp4'}", videos / "face_noface.mov"]
    found = []
    for name in ("one", "two"):
        path = tmp_path / name
        options = ("--seconds", 2, "--detect-every", 2, "--smooth", 1, "--threads", 1)
        result = call("run", *sources, "--jsonl", path, *options)
        assert result.exit_code == 0, result.output
        found.append([without_times(line) for line in lines_of(path)])
    assert found[0] == found[1]
    for camera in ("a", "face_noface"):
        mine = [line for line in found[0] if line.get("camera") == camera]
        predictions = [line for line in mine if line["type"] == "prediction"]
        assert predictions and all(line["stream"].startswith(f"{camera}-") for line in predictions)
        assert all(set(line["smoothed"]) == set(line["scores"]) for line in predictions)
        assert camera in result.output


def test_each_camera_has_its_video_and_picture(bundle: Bundle, tmp_path: Path) -> None:
    """One brightness a camera, and it is the one seen in that camera's video."""
    for name, level in (("dark", 60), ("light", 200)):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(30):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((360, 640, 3), level, np.uint8))
    sources = [f"{name}={tmp_path / name}" for name in ("dark", "light")]
    outputs = ["--jsonl", tmp_path / "all.jsonl"]
    for option, suffix in (("--video", "mp4"), ("--plot", "png")):
        outputs += [option, tmp_path / "out" / f"of-{{camera}}.{suffix}"]
    options = ("--bundle", bundle.path, "--detector", "none")
    result = call("run", *sources, *outputs, *options)
    assert result.exit_code == 0, result.output
    for name, level in (("dark", 60), ("light", 200)):
        capture = cv2.VideoCapture(str(tmp_path / "out" / f"of-{name}.mp4"))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 30
        _, image = capture.read()
        assert abs(float(np.median(image)) - level) < 8
        assert cv2.imread(str(tmp_path / "out" / f"of-{name}.png")) is not None
        assert f"wrote {tmp_path / 'out' / f'of-{name}.mp4'}" in result.output
        boxes = [line["box"] for line in lines_of(tmp_path / "all.jsonl", name) if "box" in line]
        assert boxes and boxes[0] == {"x": 0.0, "y": 0.0, "width": 640.0, "height": 360.0}
    one = call("run", tmp_path / "dark", "--video", tmp_path / "{camera}-alone.mp4", *options)
    assert one.exit_code == 0 and (tmp_path / "dark-alone.mp4").is_file()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder of frames, the 11th of which is no image."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((24, 32, 3), 90, np.uint8))
    (folder / "10.png").write_bytes(b"no image")
    return folder


def test_a_file_that_fails_ends_alone(engine: Engine, damaged: Path, tmp_path: Path) -> None:
    warnings: list[str] = []
    sources: dict[str, Source] = {"good": ramp(25, 2.0), "bad": open_source(damaged)}
    summary = play(engine, sources, tmp_path / "x", warn=warnings.append)
    assert summary.cameras["good"].frames == 50 and summary.cameras["bad"].frames == 10
    assert list(summary.failed) == ["bad"] and "10.png" in summary.failed["bad"]
    assert warnings == [f"bad: {summary.failed['bad']}"]
    *_, ended, last = lines_of(tmp_path / "x", "bad")
    assert ended["state"] == "ended"
    assert last["type"] == "summary" and last["failed"] == summary.failed["bad"]
    assert lines_of(tmp_path / "x")[-1]["failed"] == summary.failed


def test_failures_on_the_command_line(bundle: Bundle, damaged: Path, tmp_path: Path) -> None:
    good = damaged.parent / "good"
    good.mkdir()
    cv2.imwrite(str(good / "0.png"), np.full((24, 32, 3), 90, np.uint8))
    options = ("--bundle", bundle.path, "--detector", "none")
    result = call("run", damaged, f"x={good}", "gone.mp4", *options, "--jsonl", tmp_path / "x")
    assert result.exit_code == 2
    assert result.output.count("warning: gone: No source 'gone.mp4'") == 1
    assert result.output.count("warning: damaged: ") == 1
    assert "gone failed: " in result.output and "damaged failed: " in result.output
    assert list(lines_of(tmp_path / "x")[-1]["failed"]) == ["gone", "damaged"]
    result = call("run", good, damaged, *options, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found["cameras"]) == {"good", "damaged"} and set(found["failed"]) == {"damaged"}
    assert "No source 'a.mp4'" in refused(2, "run", "a.mp4", "b.mp4", *options)


def test_a_named_source_is_a_camera_also_alone(bundle: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((24, 32, 3), 90, np.uint8))
    options = ("--bundle", bundle.path, "--detector", "none", "--jsonl", tmp_path / "x")
    assert call("run", f"door={tmp_path / 'a.png'}", *options).exit_code == 0
    lines = lines_of(tmp_path / "x", "door")
    assert {line.get("stream") for line in lines} == {"door-1", None}


def test_what_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.full((24, 32, 3), 90, np.uint8))
    assert "named 'a'" in refused(2, "run", f"a={picture}", f"a={picture}")
    for option in ("--video", "--plot"):
        said = refused(2, "run", picture, picture, option, tmp_path / "o.png")
        assert "one file for 2 cameras (a, a-2)" in said and "o-{camera}.png" in said
    assert "No detector" in refused(2, "run", picture, picture, "--detector", "x")
    gone = tmp_path / "none" / "x"
    assert "Cannot write" in refused(2, "run", picture, picture, "--jsonl", gone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_files_and_cameras_are_not_mixed(engine: Engine) -> None:
    sources: dict[str, Source] = {"door": PushSource("door"), "film": ramp(25, 1.0)}
    with pytest.raises(SvfapError, match="Run them apart: door; and film"):
        play(engine, sources)


def fake(**settings: Any) -> tuple[FakeCamera, Camera]:
    camera = FakeCamera()
    return camera, Camera("fake", QUICK, opening=camera)


def quiet() -> bool:
    return not [t.name for t in threading.enumerate() if t.name.startswith("svfap-")]


def test_cameras_run_at_their_own_pace(engine: Engine, tmp_path: Path) -> None:
    sources: dict[str, Source] = {"door": fake()[1], "desk": fake()[1]}
    summary = play(engine, sources, tmp_path / "x", seconds=1.0)
    for name, each in summary.cameras.items():
        assert 1.0 <= each.duration_s < 1.5
        assert each.predictions >= 3 and each.people == 1
        counts = SourceCounts(**each.counts)
        assert counts.captured == counts.processed + counts.dropped
        assert counts.processed == each.frames
        mine = lines_of(tmp_path / "x", name)
        assert [m["state"] for m in mine if m["type"] == "state"] == ["warming", "valid", "ended"]
        times = [m["end_s"] for m in mine if m["type"] == "prediction"]
        assert times == sorted(times) and len(times) == each.predictions
        assert set(each.seconds) == {"wait", "detect", "crop", "model"}
    assert set(summary.seconds) == {"detect", "crop", "model", "write"}
    assert summary.counts["processed"] == summary.frames
    until(quiet)


def test_a_camera_lost_for_good_ends_alone(engine: Engine, tmp_path: Path) -> None:
    (broken, lost), (_, kept) = fake(), fake()
    threading.Timer(0.6, lambda: setattr(broken, "broken", RuntimeError("unplugged"))).start()
    warnings: list[str] = []
    sources: dict[str, Source] = {"lost": lost, "kept": kept}
    summary = play(engine, sources, tmp_path / "x", seconds=2.0, warn=warnings.append)
    assert list(summary.failed) == ["lost"] and "unplugged" in summary.failed["lost"]
    assert summary.cameras["kept"].duration_s >= 2.0 > summary.cameras["lost"].duration_s
    assert [text for text in warnings if "gave no frame" in text] == [
        f"lost: {summary.failed['lost']}"
    ]
    lines = lines_of(tmp_path / "x")
    end = next(i for i, line in enumerate(lines) if line.get("failed"))
    assert lines[end]["camera"] == "lost"
    assert any(line["type"] == "prediction" for line in lines[end:])


def test_a_camera_that_is_silent_for_a_while(engine: Engine, tmp_path: Path) -> None:
    """Its people turn stale, in order with what else is told; the other camera goes on."""
    camera, door = fake()
    desk = fake()[1]
    steps = [(0.7, camera.hanging.set), (1.05, camera.hanging.clear), (1.05, camera.going_on.set)]
    for after_s, what in steps:
        threading.Timer(after_s, what).start()
    play(engine, {"door": door, "desk": desk}, tmp_path / "x", seconds=2.0)
    mine = lines_of(tmp_path / "x", "door")
    gap = next(i for i, line in enumerate(mine) if line["type"] == "gap")
    assert mine[gap]["reason"] == "silent"
    assert mine[gap + 1]["state"] == "stale"
    after = [line["type"] for line in mine[gap + 2 :]]
    assert mine[gap + 2]["state"] == "warming" and "prediction" in after
    states = [line["state"] for line in lines_of(tmp_path / "x", "desk") if "state" in line]
    assert states == ["warming", "valid", "ended"]


@pytest.mark.parametrize("kind", ["black", "frozen", "silent"])
def test_a_camera_that_shows_nothing_ends_after_its_seconds(engine: Engine, kind: str) -> None:
    eye = FakeCamera()
    if kind == "black":
        eye.draw = lambda index: np.zeros((48, 64, 3), np.uint8)
    elif kind == "frozen":
        eye.draw = lambda index: noise(0)
    else:
        threading.Timer(0.3, eye.hanging.set).start()
    source = Camera("fake", replace(QUICK, missing_s=0.2), opening=eye)
    started = time.monotonic()
    play(engine, {"a": source}, seconds=1.0)
    eye.going_on.set()
    assert 0.8 < time.monotonic() - started < 6


def test_another_thread_ends_the_run(engine: Engine) -> None:
    sources: dict[str, Source] = {"a": PushSource("a"), "b": PushSource("b")}
    for source in sources.values():
        threading.Timer(0.2, source.stop).start()
    summary = play(engine, sources)
    assert summary.frames == 0 and summary.failed == {}


class Broken(PushSource):
    def items(self) -> Iterator[Frame | Gap]:
        raise ZeroDivisionError("a bug in a source")


def test_a_bug_in_a_source_ends_the_run(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug in a source"):
        play(engine, {"a": fake()[1], "b": Broken("b")}, tmp_path / "x")
    until(quiet)
    assert all(line["type"] != "summary" for line in lines_of(tmp_path / "x"))


class Full(JsonLines):
    """Lines for which there is no room."""

    def write(self, camera: str | None, perception: Perception) -> None:
        raise SourceError("no room")


def test_lines_that_cannot_be_written_end_the_run(engine: Engine, tmp_path: Path) -> None:
    sources: dict[str, Source] = {"a": fake()[1], "b": fake()[1]}
    with pytest.raises(SourceError, match="no room"):
        run(sources, engine, [Full(str(tmp_path / "x"))], detector="none")
    for source in sources.values():
        source.close()
    until(quiet)


@pytest.mark.parametrize("live", [False, True], ids=["files", "cameras"])
def test_an_engine_that_fails_once_is_survived(bundle: Bundle, live: bool) -> None:
    warnings: list[str] = []
    with faulty_engine(bundle, lambda number: number == 2) as engine:
        sources: dict[str, Source] = {"a": ramp(25, 2.0), "b": ramp(25, 2.0)}
        if live:
            sources = {"a": fake()[1], "b": fake()[1]}
        summary = play(engine, sources, seconds=1.5, warn=warnings.append)
    assert "fell off" in warnings[0] and len(warnings) == 1
    assert "failed once" in summary.warnings[-1]
    assert min(each.predictions for each in summary.cameras.values()) >= 3


@pytest.mark.parametrize("live", [False, True], ids=["files", "cameras"])
def test_an_engine_that_never_works_ends_the_run(
    bundle: Bundle, tmp_path: Path, live: bool
) -> None:
    with faulty_engine(bundle, lambda number: True) as engine:
        sources: dict[str, Source] = {"a": ramp(25, 2.0), "b": ramp(25, 2.0)}
        if live:
            sources = {"a": fake()[1], "b": fake()[1]}
        with pytest.raises(BundleError, match="fell off"):
            play(engine, sources, tmp_path / "x", seconds=1.0)
    assert all(line["type"] != "prediction" for line in lines_of(tmp_path / "x"))


def start(bundle: Bundle, path: Path, *sources: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "svfap_edge", "run", *sources, "--bundle", bundle.path]
    command += ["--detector", "none", "--hop", 0.2, "--threads", 1, "--jsonl", path]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def cameras_in(path: Path) -> set[str]:
    """Those with a prediction so far."""
    if not path.exists():
        return set()
    whole = path.read_text().rpartition("\n")[0].splitlines()
    lines = [json.loads(line) for line in whole]
    return {line["camera"] for line in lines if line["type"] == "prediction"}


def end_by(process: subprocess.Popen[str], path: Path, number: int) -> tuple[int, str, str]:
    """Send a signal when two cameras have predictions: (exit code, output, errors)."""
    skip_if_ignored(number)
    try:
        until(lambda: len(cameras_in(path)) == 2 or process.poll() is not None, 80)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in errors
    return process.returncode, out, errors


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_cameras_well(
    bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    servers = [MjpegServer(), MjpegServer()]
    path = tmp_path / "x"
    try:
        process = start(bundle, path, *(f"s{i}={s.url}" for i, s in enumerate(servers)))
        code, out, errors = end_by(process, path, number)
    finally:
        for server in servers:
            server.kill()
    assert code == 0, errors
    lines = lines_of(path)
    assert set(lines[-1]["cameras"]) == {"s0", "s1"} and lines[-1]["failed"] == {}
    for name, each in lines[-1]["cameras"].items():
        assert each["counts"]["captured"] == each["counts"]["processed"] + each["counts"]["dropped"]
        assert lines_of(path, name)[-1]["type"] == "summary"
        assert name in out
    assert "captured" in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_a_run_of_files(
    bundle: Bundle, tmp_path: Path, number: signal.Signals
) -> None:
    film = tmp_path / "film.mp4"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 480))
    for index in range(1500):
        writer.write(np.full((480, 640, 3), index % 200, np.uint8))
    writer.release()
    path = tmp_path / "x"
    code, _, errors = end_by(start(bundle, path, film, film), path, number)
    assert code == 130, errors
    assert errors.strip() == "interrupted"
    assert {line["camera"] for line in lines_of(path)} == {"film", "film-2"}


@pytest.mark.parametrize("names", [(), (1,), (None,), ("",), ("a", 2)])
def test_sources_need_names_that_are_text(engine: Engine, tmp_path: Path, names: Any) -> None:
    sources = {name: ramp(25, 1.0) for name in names}
    with pytest.raises(ConfigError, match="sources must be a source, or sources by their names"):
        run(sources, engine, [JsonLines(str(tmp_path / "x"))], detector="none")
    assert (tmp_path / "x").read_text() == ""


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_seconds_are_positive(engine: Engine, seconds: float) -> None:
    with pytest.raises(ConfigError, match="seconds must be a positive number; got"):
        run(ramp(25, 1.0), engine, seconds=seconds)


def test_what_was_not_written_is_not_reported(bundle: Bundle, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((24, 32, 3), 90, np.uint8))
    pattern = tmp_path / "new" / "{camera}.mp4"
    options = ("--bundle", bundle.path, "--detector", "none", "--video", pattern)
    result = call("run", f"a={tmp_path / 'a.png'}", "gone.mp4", *options)
    assert result.exit_code == 2 and (tmp_path / "new" / "a.mp4").is_file()
    assert "a.mp4" in result.output and "wrote " in result.output
    assert f"wrote {tmp_path / 'new' / 'gone.mp4'}" not in result.output
    assert "names no file" in refused(2, "run", tmp_path / "a.png", "--video", "")
