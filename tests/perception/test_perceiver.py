"""From frames to people: identities, states, and what must not be predicted."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError, FrameError, InferenceError, TimestampError
from svfap_edge.perception.cameras import Cameras
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.perception.results import Perception
from svfap_edge.runtimes import Engine, Outputs
from svfap_edge.sources.opening import open_source
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

CLIP = ClipSpec(8, 0.8, 8)


class Painted:
    """Finds the squares a test painted: grey 200 on black."""

    name = "painted"

    def detect(self, frame: np.ndarray) -> list[Box]:
        columns = np.flatnonzero((frame[..., 0] > 0).any(0))
        if not len(columns):
            return []
        groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        boxes = []
        for group in groups:
            rows = np.flatnonzero((frame[:, group, 0] > 0).any(1))
            boxes.append(Box(group[0], rows[0], len(group), len(rows)))
        return boxes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p") / "brightness"
    return bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP).path


@pytest.fixture
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.load(bundle) as loaded:
        yield loaded


def scene(*faces: tuple[float, int]) -> np.ndarray:
    """A frame with a square of a brightness at each x."""
    frame = np.zeros((120, 400, 3), np.uint8)
    for x, value in faces:
        frame[40:80, round(x) : round(x) + 40] = value
    return frame


def run(perceiver: Perceiver, scenes: list[np.ndarray], start_s: float = 0) -> list[Perception]:
    return [perceiver.process(s, start_s + i / 20) for i, s in enumerate(scenes)]


def test_one_person(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.2)
    results = run(perceiver, [scene((100, 200))] * 40)
    assert [c.state for r in results for c in r.changes] == ["warming", "valid"]
    predictions = [p for r in results for p in r.predictions]
    assert {p.stream for p in predictions} == {"person-1"}
    assert predictions[-1].logits[0] == pytest.approx(200 / 255, abs=1e-5)
    (person,) = results[-1].people
    assert (person.name, person.visible, person.state) == ("person-1", True, "valid")
    assert person.prediction is predictions[-1]
    assert [c.state for c in perceiver.finish()] == ["ended"]


def test_lost_face_goes_stale_then_ends_and_nothing_is_predicted(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1, hold_s=0.3, forget_s=1.0)
    run(perceiver, [scene((100, 200))] * 40)
    after = run(perceiver, [scene()] * 40, start_s=2.0)
    assert [p for r in after for p in r.predictions] == []
    changes = [(c.state, c.time_s) for r in after for c in r.changes]
    assert [state for state, _ in changes] == ["stale", "ended"]
    # Last found in the slot at 1.9.
    assert changes[0][1] == pytest.approx(1.9 + 0.35, abs=0.051)
    assert changes[1][1] == pytest.approx(1.9 + 1.05, abs=0.051)
    assert after[-1].people == ()
    assert engine.streams == ()


def test_a_person_who_comes_back_late_is_someone_new(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), forget_s=0.5)
    run(perceiver, [scene((100, 200))] * 10)
    run(perceiver, [scene()] * 20, 1)
    back = run(perceiver, [scene((100, 200))] * 10, 3)
    assert [p.name for p in back[-1].people] == ["person-2"]


def test_a_short_loss_keeps_the_person_and_the_gap_lowers_coverage(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1, min_coverage=0.3)
    run(perceiver, [scene((100, 200))] * 40)
    run(perceiver, [scene()] * 8, 2)
    back = run(perceiver, [scene((100, 200))] * 4, 2.4)
    predictions = [p for r in back for p in r.predictions]
    assert {p.stream for p in predictions} == {"person-1"}
    assert all(p.coverage < 0.8 for p in predictions)
    # What was not seen was not cropped: the clip holds the face's brightness, no black.
    assert predictions[-1].logits[0] == pytest.approx(200 / 255, abs=1e-5)


def test_two_people_keep_their_own_streams(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.2)
    scenes = [scene((50 + i / 2, 250), (250 - i / 2, 60)) for i in range(60)]
    results = run(perceiver, scenes)
    last = {p.stream: float(p.logits[0]) * 255 for r in results for p in r.predictions}
    assert last == {"person-1": pytest.approx(250, abs=5), "person-2": pytest.approx(60, abs=5)}


def test_batches_of_people(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.2)
    faces = [(60.0 * k, 40 * (k + 1)) for k in range(6)]
    results = run(perceiver, [scene(*faces)] * 40)
    assert max(len(r.predictions) for r in results) == 6


def test_no_face_at_all_is_a_valid_result(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted())
    results = run(perceiver, [scene()] * 30)
    assert all(r.people == r.predictions == r.changes == () for r in results)
    assert perceiver.finish() == []


def test_without_a_detector_the_frame_is_the_face(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector="none", hop_s=0.1)
    results = run(perceiver, [np.full((30, 30, 3), 120, np.uint8)] * 30)
    last = [p for r in results for p in r.predictions][-1]
    assert last.logits[0] == pytest.approx(120 / 255, abs=1e-5)


def test_refusals_change_nothing(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted())
    run(perceiver, [scene((100, 200))] * 10)
    with pytest.raises(TimestampError):
        perceiver.process(scene((100, 200)), 0.3)
    with pytest.raises(FrameError):
        perceiver.process(np.zeros((10, 10), np.uint8), 5.0)
    perceiver.process(scene((100, 200)), 0.5)


def test_a_person_stays_the_same_when_the_frames_change_their_size(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1)
    small = scene((300, 200))
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    run(perceiver, [small] * 20)
    results = run(perceiver, [large, small] * 20, 1.0)
    assert [[p.name for p in r.people] for r in results] == [["person-1"]] * 40
    assert all(r.people[0].visible for r in results)
    other = np.zeros((240, 500, 3), np.uint8)  # another shape: the face has to be where it was
    other[40:80, 300:340] = 200
    assert run(perceiver, [other] * 5, 3.0)[-1].people[0].name == "person-1"


def test_two_cameras_share_an_engine(engine: Engine) -> None:
    left = Perceiver(engine, detector=Painted(), hop_s=0.2, prefix="left")
    right = Perceiver(engine, detector=Painted(), hop_s=0.2, prefix="right")
    seen = set()
    for i in range(30):
        for perceiver, value in ((left, 200), (right, 90)):
            result = perceiver.process(scene((100, value)), i / 20)
            seen |= {(p.stream, round(float(p.logits[0]) * 255)) for p in result.predictions}
    assert seen == {("left-1", 200), ("right-1", 90)}


class Counting(Painted):
    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.seconds = seconds

    def detect(self, frame: np.ndarray) -> list[Box]:
        self.calls += 1
        time.sleep(self.seconds)
        return super().detect(frame)


def test_a_photograph_is_searched_once_and_a_refilled_view_each_time(engine: Engine) -> None:
    detector, photograph = Counting(), scene((100, 200))
    photograph.flags.writeable = False
    with Perceiver(engine, detector=detector) as perceiver:
        assert run(perceiver, [photograph] * 10)[-1].people[0].box.x == 100
    assert detector.calls == 1
    memory = scene((100, 200))
    view = memory[:]  # as of a camera's buffer
    view.flags.writeable = False
    with Perceiver(engine, detector=detector, prefix="viewed") as perceiver:
        run(perceiver, [view] * 10)
        memory[:] = scene((110, 200))
        assert run(perceiver, [view], start_s=1)[-1].people[0].box.x > 105
    assert detector.calls == 1 + 7  # until the face is confirmed each frame, then one for each slot


def test_searching_every_fourth_frame(engine: Engine) -> None:
    detector = Counting()
    perceiver = Perceiver(engine, detector=detector, hop_s=0.2, detect_every=4)
    results = run(perceiver, [scene((50 + 2 * i, 200)) for i in range(80)])
    assert detector.calls <= 3 + 80 / 4 + 1  # three to confirm the face
    assert perceiver.statistics.searched == detector.calls
    predictions = [p for r in results for p in r.predictions]
    assert len(predictions) >= 18
    assert all(p.logits[0] * 255 > 190 for p in predictions[3:])  # the boxes stay on the face
    assert [p.name for p in results[-1].people] == ["person-1"]


def test_boxes_predicted_for_too_long_give_no_crops(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Counting(), hop_s=0.2, detect_every=5, predict_s=0.1)
    results = run(perceiver, [scene((100, 200))] * 60)
    visible = [r.people[0].visible for r in results if r.people]
    # Searched in every fifth slot of 0.1 s, predicted for two frames of 0.05 s, not visible for
    # seven.
    assert visible[-10:].count(True) == 3
    late = [p for r in results[40:] for p in r.predictions]
    assert all(p.coverage < 0.8 for p in late)


def test_the_smoothed_scores_follow_a_step_in_their_time_constant(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1, smoothing_s=1.0)
    run(perceiver, [scene((100, 10))] * 80)
    results = run(perceiver, [scene((100, 250))] * 80, 4.0)
    found = [p for r in results for p in r.predictions]
    raw = [p.scores["bright"] for p in found]
    low, high = raw[0], raw[-1]
    settled = [p for p in found if p.end_s > 4.8]  # the clip holds only the new brightness
    assert settled[0].scores["bright"] == pytest.approx(high, abs=1e-6)
    assert all(p.smoothed is not None for p in found)
    # From then on the distance to the new value falls by e in each second.
    left = [high - p.smoothed["bright"] for p in settled]  # type: ignore[index]
    times = [p.end_s - settled[0].end_s for p in settled]
    for time_s, distance in zip(times, left, strict=True):
        assert distance == pytest.approx(left[0] * np.exp(-time_s), rel=1e-6)
    assert low < high
    assert "smoothed" in found[0].to_json()
    assert found[0].label == "dark" or found[0].smoothed_label is not None


def test_without_smoothing_there_is_only_the_raw(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1)
    found = [p for r in run(perceiver, [scene((100, 200))] * 20) for p in r.predictions]
    assert found[-1].smoothed is None
    assert found[-1].smoothed_label == found[-1].label
    assert "smoothed" not in found[-1].to_json()


def test_a_budget_is_kept_told_and_recovered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, cost = engine.backend.run, [0.02]

    def slow(clips: np.ndarray) -> Outputs:
        time.sleep(cost[0] * len(clips))
        return inner(clips)

    monkeypatch.setattr(engine.backend, "run", slow)
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.2, budget_s=0.003)
    run(perceiver, [scene((100, 200))] * 80)
    loaded = perceiver.statistics
    assert loaded.level > 0
    assert loaded.hop_s > 0.2 or loaded.detect_every > 1
    assert len(perceiver.warnings) == 1
    assert "longer than the budget of 3 ms" in perceiver.warnings[0]
    late = run(perceiver, [scene((100, 200))] * 40, 4.0)
    assert sum(len(r.predictions) for r in late) <= 6  # two seconds: 10 hops were asked for
    cost[0] = 0.0
    run(perceiver, [scene((100, 200))] * 200, 6.0)
    after = perceiver.statistics
    assert (after.level, after.hop_s, after.detect_every) == (0, pytest.approx(0.2), 1)
    assert after.slowed_s >= 2
    assert len(perceiver.warnings) == 1


def test_the_clips_of_a_crowd_are_spread_over_frames(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, inner = [], engine.backend.run

    def slow(clips: np.ndarray) -> Outputs:
        sizes.append(len(clips))
        time.sleep(0.01 * len(clips))
        return inner(clips)

    monkeypatch.setattr(engine.backend, "run", slow)
    perceiver = Perceiver(engine, detector=Painted(), hop_s=1.0, budget_s=0.03)
    faces = [(60.0 * k, 40 * (k + 1)) for k in range(6)]
    results = run(perceiver, [scene(*faces)] * 80)
    assert max(sizes[1:]) <= 3
    late = [p.stream for r in results[40:] for p in r.predictions]
    assert len(set(late)) == 6
    assert perceiver.statistics.missed == 0


def test_more_faces_than_are_followed(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), max_people=3)
    results = run(perceiver, [scene(*((60.0 * k, 200) for k in range(6)))] * 10)
    assert len(results[-1].people) == len(engine.streams) == 3
    assert perceiver.statistics.ignored == 3 * perceiver.statistics.searched


def test_people_who_left_while_the_engine_failed_are_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.05, forget_s=0.3)
    run(perceiver, [scene((100, 200), (300, 100))] * 20)

    def fail(_: np.ndarray) -> Outputs:
        raise RuntimeError("gone")

    results = []
    with monkeypatch.context() as patch:
        patch.setattr(engine.backend, "run", fail)
        for i in range(20):
            with suppress(InferenceError):
                results.append(perceiver.process(scene((100, 200)), 1 + i / 20))
    assert len(results) < 20
    results += run(perceiver, [scene((100, 200))], 2)
    ended = [c.stream for result in results for c in result.changes if c.state == "ended"]
    assert ended == ["person-2"]
    assert [stream.name for stream in engine.streams] == ["person-1"]


def test_after_finish_everyone_is_new(engine: Engine) -> None:
    cameras = Cameras(engine, ["a"], detector=Painted(), hop_s=0.05, forget_s=0.3)
    for i in range(10):
        cameras.process({"a": (scene((100, 200), (300, 100)), i / 20)})
    for i in range(10):  # a-2 leaves, and no step says so
        cameras.look("a", scene((100, 200)), 0.5 + i / 20)
    assert {c.stream for c in cameras.finish()["a"]} == {"a-1", "a-2"}
    assert not engine.streams
    for i in range(10):
        result = cameras.process({"a": (scene((100, 200)), 2 + i / 20)})["a"]
    assert [person.name for person in result.people] == ["a-3"]
    assert cameras.views["a"].statistics.people == 3


@pytest.mark.parametrize("budget_s", [None, 1.0])
def test_a_clock_that_jumps_back(engine: Engine, budget_s: float | None) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.05, budget_s=budget_s)
    run(perceiver, [scene((100, 200))] * 20, 1000)
    with pytest.raises(TimestampError, match=r"call restart_clock\(\)"):
        perceiver.process(scene((100, 200)), 5)
    assert [c.state for c in perceiver.restart_clock()] == ["ended"]
    results = run(perceiver, [scene((100, 200))] * 20, 5)
    assert {p.stream for r in results for p in r.predictions} == {"person-2"}


def test_a_stream_reuses_its_memory(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.2)
    run(perceiver, [scene((100, 200))] * 60)
    (stream,) = engine.streams
    memory = stream._buffer._memory
    address = memory.ctypes.data
    used = {kept.place for kept in stream._buffer._frames}
    run(perceiver, [scene((100, 200))] * 60, 3)
    assert stream._buffer._memory.ctypes.data == address
    assert max(kept.place for kept in stream._buffer._frames) <= max(used) + 1
    stream.close()
    assert stream._buffer._memory.size == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hop_s", -1), ("hop_s", 0), ("hop_s", np.nan), ("hop_s", np.inf), ("smoothing_s", -1),
        ("smoothing_s", np.nan), ("min_coverage", 2), ("min_coverage", 0), ("hold_s", -1),
        ("hold_s", np.nan), ("forget_s", -0.1), ("predict_s", -1), ("detect_every", 0),
        ("detect_every", 1.5), ("max_people", 0), ("max_people", np.inf), ("budget_s", 0.0),
        ("budget_s", np.inf),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_their_names(engine: Engine, name: str, value: float) -> None:
    for make in (Perceiver, partial(Cameras, names=["a"])):
        with pytest.raises(ConfigError, match=rf"^{name} must be .*; got"):
            make(engine, detector=Painted(), **{name: value})  # type: ignore[operator]


def test_a_perceiver_that_is_dropped_frees_its_names(engine: Engine) -> None:
    for _ in range(3):  # as in a loop over videos, or in a notebook; nobody calls finish()
        perceiver = Perceiver(engine, detector=Painted())
        last = run(perceiver, [scene((100, 200))] * 10)[-1]
        assert [person.name for person in last.people] == ["person-1"]
    del perceiver
    assert engine.streams == ()


def test_two_perceivers_of_one_prefix_leave_each_others_names_alone(engine: Engine) -> None:
    one, two = (Perceiver(engine, detector=Painted()) for _ in range(2))
    for i in range(10):
        first = one.process(scene((100, 200)), i / 20)
        second = two.process(scene((100, 60), (300, 90)), i / 20)
    assert [person.name for person in first.people] == ["person-1"]
    assert sorted(person.name for person in second.people) == ["person-2", "person-3"]
    assert two.statistics.people == 2


def test_closing(engine: Engine) -> None:
    with Perceiver(engine, detector=Painted()) as perceiver:
        run(perceiver, [scene((100, 200))] * 10)
        assert repr(perceiver).endswith("faces by painted, every 0.4 s, 1 people so far>")
    assert engine.streams == ()
    assert "closed" in repr(perceiver)
    with pytest.raises(ConfigError, match="closed"):
        perceiver.process(scene(), 5)
    perceiver.close()


def test_a_perceiver_called_from_many_threads(engine: Engine) -> None:
    """Calls are served one after the other; of times that come too late each is refused."""
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1)
    clock = itertools.count()
    refused, errors, taken = [], [], []

    def feed() -> None:
        for _ in range(100):
            time_s = next(clock) / 20
            try:
                taken.append(perceiver.process(scene((100, 200)), time_s))
            except TimestampError:
                refused.append(time_s)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=feed) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(taken) + len(refused) == 800 and perceiver.statistics.frames == len(taken)
    ends = [p.end_s for result in taken for p in result.predictions]
    assert len(ends) == len(set(ends)) > 0


def test_times_in_milliseconds_are_asked_about(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted())
    for i in range(40):
        perceiver.process(scene((100, 200)), 40.0 * i)
    (warning,) = perceiver.warnings
    assert "40 s apart" in warning and "milliseconds" in warning


def test_results_as_json(engine: Engine) -> None:
    perceiver = Perceiver(engine, detector=Painted(), hop_s=0.1)
    results = run(perceiver, [scene((100, 200))] * 20)
    for result in results:
        content = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert content["type"] == "perception" and content["time_s"] == result.timestamp_s
        assert [line["type"] for line in result.lines()] == ["state"] * len(result.changes) + [
            "prediction"
        ] * len(result.predictions)
        for person, given in zip(result.people, content["people"], strict=True):
            assert given["box"] == {"x": 100.0, "y": 40.0, "width": 40.0, "height": 40.0}
            assert (given["name"], given["state"]) == (person.name, person.state)
        for line in content["predictions"]:
            assert line["box"] == content["people"][0]["box"]
    assert any(result.predictions for result in results)


@pytest.mark.parametrize("detector", ["haar", "yunet"])
def test_real_video_neutral_then_happy_then_nothing(
    videos: Path, detector: str, request: pytest.FixtureRequest
) -> None:
    """What a person sees: neutral for 0.7 s, smiling until 2.7 s, then no face."""
    model = request.getfixturevalue("yunet") if detector == "yunet" else None
    with Engine.load() as engine, open_source(videos / "face_noface.mov") as source:
        perceiver = Perceiver(engine, detector=detector, face_model=model, hop_s=0.25)
        results = [perceiver.process(f.image, f.timestamp_s) for f in source]
        ended = perceiver.finish()
    mine = [p for r in results for p in r.predictions if p.stream == "person-1"]
    assert mine[0].label == "neutral"
    assert mine[-1].label == "happiness"
    assert max(p.end_s for p in mine) < 2.9
    assert all(p.start_s > -1.3 for p in mine)
    states = [c.state for r in results for c in r.changes if c.stream == "person-1"]
    assert states == ["warming", "valid", "stale", "ended"]
    assert "person-1" not in {c.stream for c in ended}


def test_real_video_of_a_face_partly_hidden(videos: Path, yunet: Path) -> None:
    with Engine.load() as engine, open_source(videos / "WolfgangLanger_Pexels.mp4") as source:
        perceiver = Perceiver(engine, detector="yunet", face_model=yunet)
        results = [perceiver.process(f.image, f.timestamp_s) for f in source]
    names = {p.stream for r in results for p in r.predictions}
    assert names == {"person-1"}  # one woman, one identity, hands or not
    assert sum(len(r.predictions) for r in results) >= 36
