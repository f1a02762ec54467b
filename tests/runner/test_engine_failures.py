"""What goes wrong around a run: slow and failing consumers, a failing engine, signals, a full disk.

Nothing hangs, no wrong prediction passes for a good one, the error is told once, and what can go on
goes on. Every test has a watchdog.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import BundleError, InferenceError, SourceError
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.runner import account
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine, ModelSpec, Outputs, load_backend
from svfap_edge.runtimes.backend import Backend
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.overlay import OverlayVideo
from svfap_edge.sinks.sink import Sink
from svfap_edge.sources.sample import Generated
from tests.conftest import skip_if_ignored
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")

TIMEOUT_S = 120
CLIP = ClipSpec(8, 0.8, 8)


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """A test that hangs fails."""

    def bark(number: int, frame: Any) -> None:
        raise AssertionError(f"still running after {TIMEOUT_S} s")

    previous = signal.signal(signal.SIGALRM, bark)
    signal.alarm(TIMEOUT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("f") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)


class Faulty:
    """A real backend that fails at some of its calls."""

    def __init__(
        self, inner: Backend, failing: Callable[[int], bool], how: Callable[[Outputs], Outputs]
    ) -> None:
        self.spec: ModelSpec = inner.spec
        self.calls = 0
        self._inner, self._failing, self._how = inner, failing, how

    def run(self, clips: np.ndarray) -> Outputs:
        self.calls += 1
        outputs = self._inner.run(clips)
        return self._how(outputs) if self._failing(self.calls) else outputs

    def close(self) -> None:
        self._inner.close()


def raising(outputs: Outputs) -> Outputs:
    raise RuntimeError("the accelerator fell off")


def not_a_number(outputs: Outputs) -> Outputs:
    """One value of one clip."""
    logits = outputs.logits.copy()
    logits[-1, 0] = np.nan
    return Outputs(logits, outputs.features)


def bad_features(outputs: Outputs) -> Outputs:
    return Outputs(outputs.logits, np.full((len(outputs.logits), 3), np.inf, np.float32))


WAYS = [(raising, "fell off"), (not_a_number, "NaN"), (bad_features, "returned")]


def faulty_engine(
    bundle: Bundle,
    failing: Callable[[int], bool] = lambda call: False,
    how: Callable[[Outputs], Outputs] = raising,
) -> Engine:
    inner = load_backend(bundle, engine="onnxruntime", threads=1)
    return Engine(Faulty(inner, failing, how), bundle.manifest)


def grey(time_s: float) -> np.ndarray:
    return np.full((24, 32, 3), round(20 * time_s) % 256, np.uint8)


def camera(seconds: float = 6.0) -> Generated:
    return Generated("grey", grey, seconds, 25.0)


class Listener(Sink):
    """A sink that notes what it gets."""

    def __init__(self, at: str = "", delay_s: float = 0.0) -> None:
        self.frames: list[float] = []
        self.predictions: list[tuple[float, float]] = []
        self.calls: list[str] = []
        self._at, self._delay_s = at, delay_s

    def write(self, camera: str | None, perception: Perception) -> None:
        time.sleep(self._delay_s)
        self.frames.append(perception.timestamp_s)
        self.predictions += [(p.end_s, float(p.logits[0])) for p in perception.predictions]
        self._call("write")

    def end(self, camera: str | None, changes: list[StateChange], summary: dict[str, Any]) -> None:
        self._call("end")

    def finish(self, summary: dict[str, Any]) -> None:
        self._call("finish")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self._at == name and len(self.frames) >= 30:
            raise ZeroDivisionError(f"a bug in {name}")


def healthy(bundle: Bundle, seconds: float = 6.0) -> list[tuple[float, float]]:
    """(time, logit) of all predictions when nothing fails."""
    listener = Listener()
    with faulty_engine(bundle) as engine:
        run(camera(seconds), engine, [listener], detector="none")
    return listener.predictions


def test_a_slow_consumer_gets_everything(bundle: Bundle) -> None:
    slow = Listener(delay_s=0.01)
    with faulty_engine(bundle) as engine:
        summary = run(camera(2.0), engine, [slow], detector="none")
    assert slow.frames == [i / 25 for i in range(50)]
    assert slow.predictions == healthy(bundle, 2.0)
    assert summary.seconds["write"] > 0.4


@pytest.mark.parametrize("at", ["write", "end", "finish", "close"])
def test_a_consumer_that_raises(bundle: Bundle, tmp_path: Path, at: str) -> None:
    """Its error comes out, all sinks are closed, and the engine can go on."""
    broken, other = Listener(at), Listener()
    lines = JsonLines(str(tmp_path / "x.jsonl"))
    film = OverlayVideo(tmp_path / "o.mp4", BRIGHTNESS_TASK, 25)
    with faulty_engine(bundle) as engine:
        sinks = [film, broken, other, lines]
        with pytest.raises(ZeroDivisionError, match=f"a bug in {at}"):
            run(camera(2.0), engine, sinks, detector="none")
        assert broken.calls.count("close") == other.calls.count("close") == 1
        assert jsonl(tmp_path / "x.jsonl")
        assert frames_of(tmp_path / "o.mp4") == len(broken.frames)
        again = Listener()
        assert run(camera(2.0), engine, [again], detector="none").predictions > 0


def test_a_callback_that_raises(bundle: Bundle) -> None:
    def progress(done: int, total: int | None) -> None:
        raise KeyError("no such widget")

    listener = Listener()
    with faulty_engine(bundle) as engine, pytest.raises(KeyError, match="no such widget"):
        run(camera(), engine, [listener], detector="none", progress=progress)
    assert listener.calls == ["write", "close"]


def test_the_first_error_is_the_one_that_is_told(bundle: Bundle) -> None:
    with faulty_engine(bundle) as engine:
        sinks = [Listener("close"), Listener("write")]
        with pytest.raises(ZeroDivisionError, match="a bug in write"):
            run(camera(), engine, sinks, detector="none")


@pytest.mark.parametrize(("how", "words"), WAYS)
def test_streams_go_on_after_a_failed_step(
    bundle: Bundle, how: Callable[[Outputs], Outputs], words: str
) -> None:
    """All streams of the batch miss that one prediction, and only that."""

    def collect(engine: Engine) -> tuple[dict[tuple[str, float], float], list[str]]:
        streams = [engine.open_stream(f"s{i}", hop_s=0.2) for i in range(3)]
        found, errors = {}, []
        for tick in range(60):
            for place, stream in enumerate(streams):
                stream.add(np.full((8, 8, 3), 3 * tick + place, np.uint8), tick / 20)
            try:
                for p in engine.step():
                    found[p.stream, p.end_s] = float(p.logits[0])
            except InferenceError as error:
                errors.append(str(error))
        assert all(stream.state == "valid" for stream in streams)
        return found, errors

    with faulty_engine(bundle) as engine:
        good, none = collect(engine)
    with faulty_engine(bundle, lambda call: call == 4, how) as engine:
        found, errors = collect(engine)
    assert none == []
    assert len(errors) == 1 and words in errors[0]
    assert found == {key: value for key, value in good.items() if key in found}
    missing = [key for key in good if key not in found]
    assert [name for name, _ in missing] == ["s0", "s1", "s2"]
    assert len({end_s for _, end_s in missing}) == 1


@pytest.mark.parametrize(("how", "words"), WAYS)
def test_a_run_goes_on_after_a_failed_step(
    bundle: Bundle, tmp_path: Path, how: Callable[[Outputs], Outputs], words: str
) -> None:
    listener = Listener()
    sinks = [listener, JsonLines(str(tmp_path / "x.jsonl"))]
    with faulty_engine(bundle, lambda call: call in (3, 4, 8), how) as engine:
        summary = run(camera(), engine, sinks, detector="none")
    good = healthy(bundle)
    assert listener.predictions == [p for i, p in enumerate(good, 1) if i not in (3, 4, 8)]
    assert summary.frames == 150
    (warning,) = summary.warnings
    assert "failed 3 times" in warning and words in warning
    lines = jsonl(tmp_path / "x.jsonl")
    assert lines[-1]["warnings"] == [warning]
    assert sum(line["type"] == "prediction" for line in lines) == len(good) - 3


@pytest.mark.parametrize("seconds", [6.0, 1.0], ids=["again and again", "only"])
def test_an_engine_that_never_works_ends_the_run(
    bundle: Bundle, tmp_path: Path, seconds: float
) -> None:
    engine = faulty_engine(bundle, lambda call: True)
    lines = JsonLines(str(tmp_path / "x.jsonl"))
    with engine, pytest.raises(BundleError, match="fell off"):
        run(camera(seconds), engine, [lines], detector="none")
    assert engine.backend.calls <= 2 + account.FAILING_S / 0.5  # type: ignore[attr-defined]
    assert all(line["type"] == "state" for line in jsonl(tmp_path / "x.jsonl"))


def test_an_engine_that_dies_ends_the_run(bundle: Bundle) -> None:
    listener = Listener()
    engine = faulty_engine(bundle, lambda call: call > 5)
    with engine, pytest.raises(InferenceError, match="fell off"):
        run(camera(60), engine, [listener], detector="none")
    assert listener.predictions == healthy(bundle)[:5]
    assert listener.calls[-1] == "close"
    assert listener.frames[-1] < 9


def test_an_old_prediction_does_not_pass_for_a_new_one(bundle: Bundle) -> None:
    """After a failure nobody has a prediction until the next good step."""
    with faulty_engine(bundle, lambda call: call == 3) as engine:
        perceiver = Perceiver(engine, detector="none", hop_s=0.2)
        failed_s, seen = None, []
        for frame in camera(2.0):
            try:
                (person,) = perceiver.process(frame.image, frame.timestamp_s).people
            except InferenceError:
                failed_s = frame.timestamp_s
                continue
            if failed_s is not None and person.prediction is not None:
                seen.append(person.prediction.end_s)
        assert failed_s is not None
        assert min(seen) == pytest.approx(failed_s + 0.2, abs=0.05)


class Faces:
    """Finds what it was told."""

    name = "told"

    def __init__(self, boxes: list[Box]) -> None:
        self.boxes = boxes

    def detect(self, frame: np.ndarray) -> list[Box]:
        return self.boxes


def test_someone_who_leaves_while_the_engine_fails_is_not_kept(bundle: Bundle) -> None:
    left, right = Box(0, 0, 20, 20), Box(60, 0, 20, 20)
    failing: list[bool] = []
    with faulty_engine(bundle, lambda call: bool(failing)) as engine:
        finder = Faces([left, right])
        perceiver = Perceiver(engine, detector=finder, hop_s=0.05, forget_s=1.0)
        image = np.full((30, 90, 3), 90, np.uint8)
        changes = []
        for tick in range(100):
            finder.boxes = [left, right] if tick < 40 else [right]
            failing[:] = [True] if 50 < tick < 80 else []
            try:
                changes += perceiver.process(image, tick / 20).changes
            except InferenceError:
                continue
        assert [s.name for s in engine.streams] == ["person-2"]
        assert [(c.stream, c.state) for c in changes if c.state == "ended"] == [
            ("person-1", "ended")
        ]


def test_thirty_faces_at_once(bundle: Bundle) -> None:
    """Each keeps its name, its state, and predictions of its own pixels."""
    boxes = [Box(40 * (i % 6) + 4, 40 * (i // 6) + 4, 30, 30) for i in range(30)]
    image = np.zeros((210, 250, 3), np.uint8)
    for number, box in enumerate(boxes):
        image[int(box.y) : int(box.y) + 31, int(box.x) : int(box.x) + 31] = 5 * number + 20
    with faulty_engine(bundle) as engine:
        perceiver = Perceiver(engine, detector=Faces(boxes), hop_s=0.2)
        for tick in range(40):
            seen = perceiver.process(image, tick / 20)
    assert len(seen.people) == len({person.name for person in seen.people}) == 30
    for person in seen.people:
        assert person.state == "valid" and person.prediction is not None
        assert person.prediction.stream == person.name
        number = next(i for i, box in enumerate(boxes) if box.iou(person.box) > 0.9)
        assert person.prediction.logits[0] == pytest.approx((5 * number + 20) / 255, abs=1e-4)


def jsonl(path: Path) -> list[dict[str, Any]]:
    """Every line of a file, which must end with a whole one."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def frames_of(path: Path) -> int:
    """Frames of a video that can really be read."""
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of grey."""
    path = tmp_path_factory.mktemp("v") / "grey.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for number in range(3000):
        writer.write(np.full((48, 64, 3), number // 12, np.uint8))
    writer.release()
    return path


def start(
    bundle: Bundle, film: Path, *options: object, limit: int | None = None, output: Any = None
) -> subprocess.Popen[str]:
    """`svfap-edge run` in a process; `limit` is the size in bytes at which a file is full."""

    def restrict() -> None:
        import resource

        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "svfap_edge", "run", film, "--bundle", bundle.path]
    command += ["--detector", "none", "--engine", "onnxruntime", "--threads", 1, "--hop", 0.2]
    return subprocess.Popen(
        [str(word) for word in (*command, *options)],
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SVFAP_EDGE_CACHE": "off"},
        preexec_fn=restrict,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, standard error); the process is killed if it hangs."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT_S - 10)
    except BaseException:
        process.kill()
        raise
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_of_a_video(
    bundle: Bundle, film: Path, tmp_path: Path, number: signal.Signals
) -> None:
    skip_if_ignored(number)
    lines, video = tmp_path / "x.jsonl", tmp_path / "o.mp4"
    process = start(bundle, film, "--jsonl", lines, "--video", video)
    while process.poll() is None and not (lines.exists() and lines.read_text().count("\n") > 5):
        time.sleep(0.05)
    process.send_signal(number)
    code, errors = ended(process)
    assert code == 130, errors
    assert errors.strip() == "interrupted"
    found = jsonl(lines)
    last_s = max(line["end_s"] for line in found if line["type"] == "prediction")
    assert all(line["type"] in ("prediction", "state") for line in found)
    assert frames_of(video) >= 25 * last_s


def test_a_full_disk_under_json_lines(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"
    code, errors = ended(start(bundle, film, "--jsonl", lines, limit=5000))
    assert code == 2
    assert errors.count("SourceError") == len(errors.strip().splitlines()) == 1
    assert "Cannot write results" in errors and "x.jsonl" in errors and "File too large" in errors
    assert len(jsonl(lines)) > 10
    assert 4000 < lines.stat().st_size <= 5000


def test_a_full_disk_under_standard_output(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    with (tmp_path / "x.jsonl").open("w") as output:
        process = start(bundle, film, "--jsonl", "-", limit=5000, output=output)
        code, errors = ended(process)
    assert code == 2
    assert errors.count("SourceError") == len(errors.strip().splitlines()) == 1
    assert "standard output" in errors


def test_a_full_disk_under_the_video(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    """OpenCV says nothing of it; the JSON lines are whole."""
    lines, video = tmp_path / "x.jsonl", tmp_path / "o.mp4"
    options = ("--video", video, "--jsonl", lines)
    code, errors = ended(start(bundle, film, *options, limit=200_000))
    assert code == 2
    assert errors.count("SourceError") == 1
    assert "is not whole" in errors and "o.mp4" in errors
    assert jsonl(lines)[-1]["type"] == "summary"


def test_a_full_disk_under_the_picture(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    short = tmp_path / "short"
    short.mkdir()
    for number in range(20):
        cv2.imwrite(str(short / f"{number}.png"), np.full((48, 64, 3), number, np.uint8))
    process = start(bundle, short, "--plot", tmp_path / "t.png", limit=4000)
    code, errors = ended(process)
    assert code == 2
    assert errors.count("SourceError") == 1 and "Cannot write the picture" in errors


def test_a_line_that_has_no_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is cut back to whole lines, and goes on when there is room again."""
    sink = JsonLines(str(tmp_path / "x.jsonl"))
    change = StateChange("person-1", "valid", 1.0)
    sink.end("door", [change], {})
    real = sink._file

    class Full:
        def write(self, data: bytes) -> int:
            if len(data) <= 10:
                raise OSError(28, "No space left on device")
            assert real is not None
            return real.write(data[:10])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    with monkeypatch.context() as patch:
        patch.setattr(sink, "_file", Full())
        with pytest.raises(SourceError, match="No space left on device"):
            sink.end("door", [change], {})
        assert len(jsonl(tmp_path / "x.jsonl")) == 2
    sink.finish({})
    sink.close()
    assert [line["type"] for line in jsonl(tmp_path / "x.jsonl")] == ["state", "summary", "summary"]
