"""Predictions through Lab Streaming Layer: received, and equal to the JSON lines."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError, DependencyMissing
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sources.frames import StartTime
from svfap_edge.sources.live import PushSource
from svfap_edge.sources.sample import Generated
from svfap_edge.tasks import Task
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx

pylsl = pytest.importorskip("pylsl", reason="pylsl or liblsl is not installed", exc_type=Exception)

from svfap_edge.sinks.lsl import LslOutlets  # noqa: E402

CLIP = ClipSpec(8, 0.8, 8)
VALUES = Task("circumplex", "values", ("valence", "arousal"), low=-1, high=1)


@pytest.fixture
def name() -> str:
    return f"face-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    model = brightness_model(CLIP)
    with Engine.load(bundle_of_onnx(tmp_path / "b", model, BRIGHTNESS_TASK, CLIP).path) as loaded:
        yield loaded


def inlet_of(name: str) -> Any:
    found = pylsl.resolve_byprop("name", name, timeout=5)
    if not found:
        pytest.skip("LSL finds no outlet on its own machine here: multicast does not work")
    inlet = pylsl.StreamInlet(found[0])
    inlet.open_stream(timeout=5)
    return inlet


def received(inlet: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many samples, and their stamps on LSL's clock of this machine."""
    samples, stamps = [], []
    while len(samples) < count:
        sample, stamp = inlet.pull_sample(timeout=5)
        assert sample is not None, f"{len(samples)} of {count} samples came"
        samples.append(sample)
        stamps.append(stamp)
    assert inlet.pull_sample(timeout=0.2)[0] is None
    return np.array(samples), np.array(stamps)


def labels_of(inlet: Any) -> list[str]:
    channel = inlet.info(timeout=5).desc().child("channels").child("channel")
    found = []
    while not channel.empty():
        found.append(channel.child_value("label"))
        channel = channel.next_sibling()
    return found


def ramp(seconds: float) -> Generated:
    def draw(time_s: float) -> np.ndarray:
        return np.full((24, 32, 3), round(40 * time_s) % 256, np.uint8)

    return Generated("ramp", draw, seconds, 25.0)


def lines_of(path: Path) -> list[dict[str, Any]]:
    found = map(json.loads, path.read_text().splitlines())
    return [line for line in found if line["type"] == "prediction"]


def test_a_recording_by_lsl_and_by_file(engine: Engine, tmp_path: Path, name: str) -> None:
    sink = LslOutlets(name, engine.manifest.task)
    inlet = inlet_of(f"{name}-1")
    assert labels_of(inlet) == ["bright", "dark", "person", "coverage"]
    before_s = pylsl.local_clock()
    run(ramp(6.0), engine, [sink, JsonLines(str(tmp_path / "x"))], detector="none", hop_s=0.4)
    lines = lines_of(tmp_path / "x")
    assert len(lines) > 10
    samples, stamps = received(inlet, len(lines))
    scores = [[line["scores"]["bright"], line["scores"]["dark"]] for line in lines]
    np.testing.assert_allclose(samples[:, :2], scores, atol=1e-6)
    np.testing.assert_allclose(samples[:, 3], [line["coverage"] for line in lines], atol=1e-4)
    assert (samples[:, 2] == 1).all()
    ends = np.array([line["end_s"] for line in lines])
    np.testing.assert_allclose(stamps - stamps[0], ends - ends[0], atol=1e-5)
    assert before_s <= stamps[0] - ends[0] < before_s + 5


def test_pushed_frames_are_on_the_clock_of_lsl(engine: Engine, name: str) -> None:
    """An application whose clock begins elsewhere."""
    sink = LslOutlets(name, engine.manifest.task)
    inlet = inlet_of(f"{name}-1")
    source = PushSource("pushed")

    def push() -> None:
        for number in range(50):
            source.push(np.full((24, 32, 3), 50 + number, np.uint8), 5000 + number / 25)
            time.sleep(0.02)
        source.close()

    pushing = threading.Thread(target=push)
    pushing.start()
    summary = run(source, engine, [sink], detector="none", hop_s=0.4)
    pushing.join()
    (_, stamps), now_s = received(inlet, summary.predictions), pylsl.local_clock()
    assert summary.predictions and all(abs(stamps - now_s) < 10)


class Seen:
    """What a frame brings, for a sink alone."""

    @staticmethod
    def frame(time_s: float, *people: str, changes: tuple[StateChange, ...] = ()) -> Perception:
        from svfap_edge.runtimes import Prediction

        predictions = tuple(
            Prediction(
                stream=person, start_s=time_s - 1, end_s=time_s, coverage=1.0, latency_ms=1.0,
                label=None, score=None, scores={"valence": 0.25, "arousal": -0.5},
                logits=np.zeros(2, np.float32),
            )
            for person in people
        )  # fmt: skip
        return Perception(time_s, (), predictions, changes, np.zeros((1, 1, 3), np.uint8))


def test_people_take_the_first_outlet_that_is_free(name: str) -> None:
    sink = LslOutlets(name, VALUES, ("door",))
    first = inlet_of(f"{name}-door-1")
    start = StartTime("door", pylsl.local_clock(), "2026-01-01T00:00:00.000+00:00")
    sink.begin("door", start)
    sink.write("door", Seen.frame(1.0, "door-1", "door-2"))
    second = inlet_of(f"{name}-door-2")
    gone = (StateChange("door-1", "ended", 2.0),)
    sink.write("door", Seen.frame(2.0, "door-1", "door-2", changes=gone))
    sink.write("door", Seen.frame(3.0, "door-2", "door-3"))
    samples, _ = received(first, 3)
    assert samples[:, 2].tolist() == [1, 1, 3]
    assert samples[0].tolist() == [0.25, -0.5, 1, 1]
    assert labels_of(first)[:2] == ["valence", "arousal"]
    samples, _ = received(second, 2)
    assert samples[:, 2].tolist() == [2, 2]
    sink.close()


def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--lsl needs a name"):
        LslOutlets(" ", VALUES)
    monkeypatch.setitem(__import__("sys").modules, "pylsl", None)
    with pytest.raises(DependencyMissing, match=r"svfap-edge\[lsl\]"):
        LslOutlets("face", VALUES)
