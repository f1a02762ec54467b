"""Many cameras on one engine: shared batches, fairness, threads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.benchmark.capacity import find_capacity, play, read_frames
from svfap_edge.bundle import Bundle
from svfap_edge.errors import ConfigError, InferenceError, TimestampError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine, Outputs

from .test_perceiver import Painted, scene


@pytest.fixture(scope="module")
def loaded(tiny: Bundle) -> Iterator[Engine]:
    with Engine.load(tiny, engine="onnxruntime", threads=1) as engine:
        yield engine


@pytest.fixture
def engine(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The real tiny model. Painted faces are found by color."""
    for module in ("perceiver", "cameras"):
        monkeypatch.setattr(f"svfap_edge.perception.{module}.open_detector", lambda *_: Painted())
    yield loaded
    for stream in loaded.streams:
        stream.close()


class Slow:
    """The engine's backend, made slow; notes the size of every batch."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0):
        self.sizes: list[int] = []
        self.seconds = seconds
        inner = engine.backend.run

        def run(clips: np.ndarray) -> Outputs:
            self.sizes.append(len(clips))
            time.sleep(self.seconds * len(clips))
            return inner(clips)

        monkeypatch.setattr(engine.backend, "run", run)


def test_all_cameras_share_a_batch(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(engine, monkeypatch)
    with Cameras(engine, "abc", hop_s=0.2) as cameras:
        names: set[str] = set()
        for i in range(40):
            frames = {name: (scene((100, 200), (250, 90)), i / 20) for name in "abc"}
            for name, perception in cameras.process(frames).items():
                assert all(p.stream.startswith(f"{name}-") for p in perception.predictions)
                names |= {p.stream for p in perception.predictions}
    assert names == {f"{camera}-{number}" for camera in "abc" for number in (1, 2)}
    assert set(slow.sizes) == {6}


def test_a_step_does_not_wait_for_detectors(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that look without a pause leave room for the one that steps."""

    class Slowly(Painted):
        def detect(self, frame: np.ndarray) -> list[Box]:
            time.sleep(0.05)
            return super().detect(frame)

    monkeypatch.setattr("svfap_edge.perception.cameras.open_detector", lambda *_: Slowly())
    stop = threading.Event()
    with Cameras(engine, "abcd", hop_s=0.2) as cameras:

        def look(name: str) -> None:
            frame = 0
            while not stop.is_set():
                cameras.look(name, scene((100, 200)), frame / 20)
                frame += 1

        threads = [threading.Thread(target=look, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        waits = []
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            started = time.monotonic()
            cameras.step()
            waits.append(time.monotonic() - started)
            time.sleep(0.005)
        stop.set()
        for thread in threads:
            thread.join()
        assert np.median(waits) < 0.03
        assert all(p.statistics.predictions >= 2 for p in cameras.views.values())
        assert all(p.statistics.missed == 0 for p in cameras.views.values())


def test_who_left_while_the_model_ran_has_no_prediction(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = engine.backend.run
    with Cameras(engine, "a", hop_s=0.2) as cameras:
        frame = 0
        while not cameras.look("a", scene((100, 200)), frame / 20):
            frame += 1

        def run(clips: np.ndarray) -> Outputs:
            cameras.look("a", scene(), frame / 20 + 3)
            return inner(clips)

        monkeypatch.setattr(engine.backend, "run", run)
        told = cameras.step()["a"]
    assert [change.state for change in told.changes] == ["ended"]
    assert told.predictions == ()


def test_results_equal_each_camera_alone(engine: Engine) -> None:
    def pictures(value: int) -> list[np.ndarray]:
        return [scene((100 + i, value + i)) for i in range(40)]

    def alone(name: str, value: int) -> dict[float, list[float]]:
        perceiver = Perceiver(engine, prefix=name, hop_s=0.2)
        results = [perceiver.process(p, i / 20) for i, p in enumerate(pictures(value))]
        perceiver.finish()
        return {p.end_s: p.logits.tolist() for r in results for p in r.predictions}

    want = {"a": alone("a", 60), "b": alone("b", 150)}
    found: dict[str, dict[float, list[float]]] = {"a": {}, "b": {}}
    with Cameras(engine, "ab", hop_s=0.2, workers=2) as cameras:
        for i in range(40):
            frames = {"a": (pictures(60)[i], i / 20), "b": (pictures(150)[i], i / 20)}
            for name, perception in cameras.process(frames).items():
                found[name] |= {p.end_s: p.logits.tolist() for p in perception.predictions}
    for name in "ab":
        assert found[name].keys() == want[name].keys()
        for end_s, logits in want[name].items():
            np.testing.assert_allclose(found[name][end_s], logits, atol=1e-5)


def test_no_camera_starves_where_the_batch_is_full(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Camera a has eight people and a slow engine; b and c have one each."""
    slow = Slow(engine, monkeypatch, 0.001)
    crowd = scene(*((45.0 * k + 5, 40 + 20 * k) for k in range(8)))
    served: Counter[str] = Counter()
    with Cameras(engine, "abc", hop_s=0.2, most=1) as cameras:
        for i in range(80):
            alone = scene((100, 200))
            frames = {"a": (crowd, i / 20), "b": (alone, i / 20), "c": (alone, i / 20)}
            for perception in cameras.process(frames).values():
                served.update(p.stream for p in perception.predictions)
        missed = {name: p.statistics.missed for name, p in cameras.views.items()}
    assert max(slow.sizes) == 1
    assert len(served) == 10
    lonely = [served["b-1"], served["c-1"]]
    assert min(lonely) > 15  # almost every hop
    crowded = [served[f"a-{k}"] for k in range(1, 9)]
    assert max(crowded) - min(crowded) <= 2  # the rest is shared equally
    assert sum(crowded) > 30
    assert missed["a"] > 90 > 4 > missed["b"]


def test_a_thread_for_each_camera(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(engine, monkeypatch, 0.002)
    names = [f"camera{k}" for k in range(6)]
    found: Counter[str] = Counter()
    errors: list[BaseException] = []
    with Cameras(engine, names, hop_s=0.1) as cameras:
        done = threading.Event()

        def capture(number: int) -> None:
            try:
                for i in range(60):
                    cameras.look(
                        names[number], scene((60 + i, 40 * number + 20)), 9 * number + i / 20
                    )
                    time.sleep(0.002)
            except BaseException as error:
                errors.append(error)

        def run() -> None:
            try:
                while not done.is_set():
                    for perception in cameras.step().values():
                        found.update(p.stream for p in perception.predictions)
            except BaseException as error:
                errors.append(error)

        readers = [threading.Thread(target=capture, args=(k,)) for k in range(6)]
        runner = threading.Thread(target=run)
        for thread in (runner, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        done.set()
        runner.join()
    assert errors == []
    assert set(found) == {f"{name}-1" for name in names}
    assert engine.streams == ()


def test_bad_frames_change_nothing_and_a_failing_engine_is_survived(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cameras(engine, "ab", hop_s=0.1) as cameras:
        picture = scene((100, 200))
        for i in range(20):
            cameras.process(dict.fromkeys("ab", (picture, i / 20)))
        with pytest.raises(TimestampError):
            cameras.process({"a": (picture, 1.0), "b": (picture, 0.5)})
        with pytest.raises(ValueError, match="No camera 'x'"):
            cameras.look("x", picture, 1.0)
        with monkeypatch.context() as patch:

            def fail(_: np.ndarray) -> Outputs:
                raise RuntimeError("out of memory")

            patch.setattr(engine.backend, "run", fail)
            failures = 0
            for i in range(20, 30):
                try:
                    cameras.process(dict.fromkeys("ab", (picture, i / 20)))
                except InferenceError as error:
                    failures += "out of memory" in str(error)
            assert failures >= 2
        later = [cameras.process({"a": (picture, 2 + i / 20)}) for i in range(9)]
        assert any(r["a"].predictions for r in later)


def test_one_camera_is_silent_or_ends_and_the_others_go_on(engine: Engine) -> None:
    picture = scene((100, 200))
    with Cameras(engine, "ab", hop_s=0.2, min_coverage=0.3) as cameras:
        for i in range(30):
            cameras.process(dict.fromkeys("ab", (picture, i / 20)))
        assert [(c.stream, c.state) for c in cameras.missing("a", 1.6)] == [("a-1", "stale")]
        cameras.reset("a")
        later = [cameras.process(dict.fromkeys("ab", (picture, 2 + i / 20))) for i in range(4)]
        assert [c.state for c in later[0]["a"].changes] == ["warming"]
        assert not any(r["a"].predictions for r in later)  # no clip spans the gap
        assert any(r["b"].predictions for r in later)
        cameras.look("a", scene(), 5.0)  # she left meanwhile
        assert [(c.stream, c.state) for c in cameras.end("a")] == [("a-1", "ended")]
        assert cameras.step() == {}
        assert [stream.name for stream in engine.streams] == ["b-1"]
        assert cameras.process({"a": (picture, 6.0)})["a"].people == ()  # it may begin anew
        for use in (cameras.end, cameras.reset):
            with pytest.raises(ValueError, match="No camera 'x'"):
                use("x")


@pytest.mark.parametrize("bad", [{"names": ["a", "a"]}, {"names": []}, {"most": 0}, {"workers": 0}])
def test_bad_options(engine: Engine, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name of its own|1 or more"):
        Cameras(engine, **{"names": ["a"], **bad})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Name the detector"):
        Cameras(engine, "ab", detector=Painted())


def test_capacity_counts_all_predictions_and_all_time(engine: Engine) -> None:
    frames = [scene((100 + i, 200)) for i in range(20)]
    trial = play(engine, frames, 2, 2.0)
    assert trial.predictions == trial.expected == 2 * 5
    assert sum(trial.share.values()) == pytest.approx(1)
    assert trial.limit in trial.share


def test_capacity_is_the_most_that_is_held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def of(engine: Engine, frames: object, count: int, *_: object, **__: object) -> object:
        from svfap_edge.benchmark.capacity import Trial

        tried.append(count)
        return Trial(count, count / 5.5, {"model": 1.0}, 1, 1, (1, 1))

    monkeypatch.setattr("svfap_edge.benchmark.capacity.play", of)
    found = find_capacity(engine, [scene()])
    assert tried == [1, 2, 4, 8, 6, 5]
    assert found.cameras == found.at_limit.cameras == 5


def test_frames_of_a_video_at_30_fps(videos: Path) -> None:
    frames, decode_ms = read_frames(str(videos / "WolfgangLanger_Pexels.mp4"), 1.0)
    assert 30 <= len(frames) <= 32
    assert decode_ms > 0


def test_closed_cameras_take_no_frames(engine: Engine) -> None:
    cameras = Cameras(engine, "a")
    cameras.close()
    for use in (cameras.step, lambda: cameras.process({"a": (scene((100, 200)), 0.0)})):
        with pytest.raises(ConfigError, match="closed"):
            use()
    assert engine.streams == ()
    cameras.close()


@pytest.mark.parametrize("time_s", [None, "1", np.nan, [1.0]])
def test_a_time_that_is_no_number(engine: Engine, time_s: object) -> None:
    cameras = Cameras(engine, "a")
    stream = engine.open_stream("b")
    for take in (partial(cameras.look, "a"), stream.add):
        with pytest.raises(TimestampError, match="must be a finite number"):
            take(scene((100, 200)), time_s)  # type: ignore[arg-type]
    cameras.close()
    stream.close()
