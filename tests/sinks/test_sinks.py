"""JSON lines, the overlay video and the timeline picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.errors import DependencyMissing, SourceError
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.results import Perception, Person, StateChange
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine, Prediction
from svfap_edge.sinks import history as history_of
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.overlay import MAX_REPEAT_S, OverlayVideo, draw_overlay
from svfap_edge.sinks.palette import PALETTE, color_of
from svfap_edge.sinks.timeline import Timeline
from svfap_edge.sources.frames import Gap
from svfap_edge.sources.sample import Generated
from svfap_edge.tasks import TASKS, Task

TASK = Task("moods", "classes", ("calm", "glad"))


def prediction(end_s: float, glad: float, task: Task = TASK) -> Prediction:
    scores = dict.fromkeys(task.labels, 0.0) | {"glad": glad, "calm": 1 - glad}
    if task is not TASK:
        scores = dict.fromkeys(task.labels, glad)
    label = None if task.kind != "classes" else max(scores, key=lambda n: scores[n])
    score = None if label is None else scores[label]
    return Prediction(
        "person-1", end_s - 1, end_s, 1.0, 5.0, label, score, scores, np.zeros(2, np.float32)
    )


def perception(
    time_s: float,
    p: Prediction | None,
    box: Box | None = None,
    image: np.ndarray | None = None,
) -> Perception:
    state = "valid" if p else "warming"
    shown = blank() if image is None else image
    person = Person("person-1", box or Box(200, 100, 120, 120), True, state, p)  # type: ignore[arg-type]
    return Perception(time_s, (person,), (p,) if p else (), (), shown)


def blank(size: tuple[int, int] = (360, 640), level: int = 100) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def test_json_lines_are_valid_after_every_line(tmp_path: Path) -> None:
    sink = JsonLines(str(tmp_path / "x.jsonl"))
    for i in range(3):
        sink.write(None, perception(i, prediction(i, 0.5)))
        lines = (tmp_path / "x.jsonl").read_text().splitlines()
        assert [json.loads(line)["type"] for line in lines] == ["prediction"] * (i + 1)
    sink.end(None, [StateChange("person-1", "ended", 2.0)], {"frames": 3})
    sink.finish({"frames": 3})
    sink.close()
    last = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()[-2:]]
    assert last[0] == {"type": "state", "stream": "person-1", "state": "ended", "time_s": 2.0}
    assert last[1] == {"type": "summary", "frames": 3}


def test_json_lines_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Cannot write"):
        JsonLines(str(tmp_path / "none" / "x.jsonl"))


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, image = capture.read()
        if not good:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(image)


def test_overlay_video_keeps_time(tmp_path: Path) -> None:
    """Frames at irregular times become a constant rate of the same length."""
    sink = OverlayVideo(tmp_path / "o.mp4", TASK, fps=20)
    for time_s in (0.0, 0.05, 0.3, 0.31, 0.32, 1.0):
        sink.write(None, perception(time_s, prediction(time_s, 0.5)))
    sink.close()
    frames, fps = read_video(tmp_path / "o.mp4")
    assert fps == pytest.approx(20)
    assert len(frames) == 21
    assert frames[0].shape == (360, 640, 3)


def test_a_lost_camera_is_cut_out_of_the_overlay_video(tmp_path: Path) -> None:
    """A gap that is told every second for a minute, and a short one, which is shown whole."""
    sink = OverlayVideo(tmp_path / "o.mp4", TASK, fps=10)
    sink.write(None, perception(0.0, None))
    for second in range(1, 61):
        sink.missing(None, Gap(float(second), "lost", second == 1), [])
    sink.write(None, perception(60.1, None))
    for second in range(1, 5):
        sink.missing(None, Gap(60.1 + second, "silent", second == 1), [])
    sink.write(None, perception(64.2, None))
    sink.close()
    frames, _ = read_video(tmp_path / "o.mp4")
    assert len(frames) == 1 + 10 * MAX_REPEAT_S + 1 + 40 + 1
    assert frames[50].mean() < 50 < frames[-1].mean()


def test_overlay_video_survives_a_change_of_size_and_odd_sizes(tmp_path: Path) -> None:
    sink = OverlayVideo(tmp_path / "o.mp4", TASK, fps=10)
    sink.write(None, perception(0.0, None, image=blank((361, 643))))
    sink.write(None, perception(0.1, None, image=blank((480, 640))))
    sink.close()
    frames, _ = read_video(tmp_path / "o.mp4")
    assert [f.shape for f in frames] == [(360, 642, 3)] * 2


def test_small_frames_are_enlarged_to_be_readable() -> None:
    image = draw_overlay(perception(0, None, image=blank((120, 160), 0)), TASK)
    assert image.shape == (360, 480, 3)


def test_overlay_draws_box_label_and_bars() -> None:
    plain = blank()
    image = draw_overlay(perception(1.0, prediction(1.0, 0.9), image=plain), TASK)
    assert (plain == 100).all()  # a copy
    glad = np.array(color_of(1))
    box_edge = image[160, 198:203]
    assert (np.abs(box_edge.astype(int) - glad).max(1) < 40).any()
    bars = image[100:145, 330:460].reshape(-1, 3)
    assert (np.abs(bars.astype(int) - glad).max(1) < 20).sum() > 200


@pytest.mark.parametrize(
    "box", [Box(-50, -50, 100, 100), Box(600, 330, 100, 100), Box(0, 0, 640, 360), Box(5, 5, 2, 2)]
)
def test_overlay_at_the_border(box: Box) -> None:
    draw_overlay(perception(0, prediction(0, 0.4), box), TASK)


@pytest.mark.parametrize("name", ["mafw", "werewolf-xl", "first-impressions"])
def test_overlay_of_every_kind_of_task(name: str) -> None:
    task = TASKS[name]
    p = prediction(1.0, 0.5, task)
    draw_overlay(perception(1.0, p), task)


@pytest.mark.parametrize("task", [TASK, TASKS["avcaffe"]], ids=["classes", "values"])
def test_timeline_is_drawn(tmp_path: Path, task: Task) -> None:
    pytest.importorskip("matplotlib")
    sink = Timeline(tmp_path / "t.png", task, "a test")
    for i in range(100):
        p = prediction(i / 10, 0.5 + 0.4 * np.sin(i / 9), task) if 20 < i < 90 else None
        sink.write(None, perception(i / 10, p))
    sink.end(None, [], {})
    sink.finish({})
    sink.close()
    image = cv2.imread(str(tmp_path / "t.png"))
    assert image is not None
    assert image.shape[1] == 1200
    colors = {tuple(c) for c in image.reshape(-1, 3)[::7, ::-1].tolist()}
    assert {color_of(0), color_of(1)} <= colors


def test_a_timeline_of_any_length_stays_bounded() -> None:
    """One who stays, seen less and less often, and many who come and go."""
    history = history_of.History()
    largest = 0
    for i in range(60_000):
        history.predict(replace(prediction(i / 2, 0.5), stream="resident"))
        if i % 10 == 0:
            guest = f"guest-{i}"
            history.change(StateChange(guest, "warming", i / 2))
            history.change(StateChange(guest, "valid", i / 2 + 0.1 * (i % 100)))
            history.predict(replace(prediction(i / 2, 0.5), stream=guest))
            history.change(StateChange(guest, "ended", i / 2 + 20))
        if i % 1000 == 0:
            largest = max(largest, sum(len(p.predictions) for p in history.people.values()))
    assert 5_000 < largest <= history_of.MAX_POINTS
    assert len(history.people) <= history_of.MAX_KEPT
    assert sum(len(p.unsure) for p in history.people.values()) <= history_of.MAX_INTERVALS
    resident = history.people["resident"]
    assert resident.count == 60_000
    times = [p.end_s for p in resident.predictions]
    assert times[0] == 0 and times[-1] > 29_990  # all of the run, evenly
    assert set(np.diff(times)) == {history.every / 2}
    guests = sum(name != "resident" for name in history.people)
    assert guests + history.forgotten == 6_000


def test_a_short_timeline_keeps_everything() -> None:
    history = history_of.History()
    for second, state in enumerate(("warming", "valid", "stale", "warming", "valid", "ended")):
        history.change(StateChange("person-1", state, float(second)))  # type: ignore[arg-type]
        history.predict(prediction(second, 0.5))
    assert history.every == 1 and len(history.people["person-1"].predictions) == 6
    assert history.unsure("person-1", 9) == [(0, 1), (2, 4), (5, 9)]


def test_timeline_of_nobody(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sink = Timeline(tmp_path / "t.png", TASK, "nobody")
    sink.write(None, Perception(0, (), (), (), blank()))
    sink.close()
    assert (tmp_path / "t.png").is_file()


def test_timeline_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(DependencyMissing, match=r"svfap-edge\[report\]"):
        Timeline(tmp_path / "t.png", TASK, "x")


def test_unwritable_pictures_are_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        OverlayVideo(tmp_path / "none" / "o.mp4", TASK)
    with pytest.raises(SourceError, match="it is a folder"):
        OverlayVideo(tmp_path, TASK)


def test_palette_is_distinct() -> None:
    assert len(set(PALETTE)) == len(PALETTE) >= 11


def test_a_run_that_fails_leaves_valid_files(tmp_path: Path) -> None:
    """The source breaks after 30 frames; what was written until then can be read."""

    def draw(time_s: float) -> np.ndarray:
        if time_s > 1.2:
            raise SourceError("the camera was unplugged")
        return np.full((90, 120, 3), 100, np.uint8)

    source = Generated("broken", draw, 10.0, 25.0)
    with Engine.load() as engine:
        task = engine.manifest.task
        sinks = [JsonLines(str(tmp_path / "x.jsonl")), OverlayVideo(tmp_path / "o.mp4", task, 25)]
        with pytest.raises(SourceError, match="unplugged"):
            run(source, engine, sinks, detector="none", hop_s=0.2)
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert lines[-1]["type"] == "prediction"
    frames, _ = read_video(tmp_path / "o.mp4")
    assert len(frames) == 31
