"""When live sources began is said by the line with their first frame and by their summaries."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svfap_edge.perception.results import Perception
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.sink import Sink
from svfap_edge.sources.frames import Frame, Gap, Source
from svfap_edge.sources.live import PushSource
from svfap_edge.sources.sample import Generated
from tests.cameras import noise
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx
from tests.runner.test_several_sources import CLIP, fake, lines_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("o") / "brightness"
    bundle = bundle_of_onnx(folder, brightness_model(CLIP), BRIGHTNESS_TASK, CLIP)
    with Engine.load(bundle, engine="onnxruntime", threads=1) as loaded:
        yield loaded


def wall_s(line: dict[str, Any]) -> float:
    moment = datetime.fromisoformat(line["wall_time"])
    assert moment.utcoffset() is not None
    return moment.timestamp()


def test_lines_of_several_cameras_lie_on_one_axis(engine: Engine, tmp_path: Path) -> None:
    sources: dict[str, Source] = {"door": fake()[1], "desk": fake()[1]}
    before = time.time()
    lines = JsonLines(str(tmp_path / "x"))
    summary = run(sources, engine, [lines], detector="none", hop_s=0.2, seconds=0.8)
    after, shift_s = time.time(), time.time() - time.monotonic()
    for name in sources:
        first, *others, last = lines_of(tmp_path / "x", name)
        assert list(first) == ["type", "camera", "source", "origin_s", "wall_time"]
        assert (first["type"], first["source"]) == ("source", "fake")
        assert before - 0.1 < wall_s(first) < after
        assert first["origin_s"] + shift_s == pytest.approx(wall_s(first), abs=0.1)
        assert first["origin_s"] == round(sources[name].origin_s, 6)  # type: ignore[attr-defined]
        assert all(line["type"] != "source" for line in others)
        assert last["type"] == "summary" and last["wall_time"] == first["wall_time"]
        assert summary.to_json()["cameras"][name]["origin_s"] == first["origin_s"]
    assert "origin_s" not in lines_of(tmp_path / "x")[-1]


def test_one_live_source(engine: Engine, tmp_path: Path) -> None:
    """Pushed frames have a clock of their own; a gap before the first is no frame."""
    source = PushSource("ros")

    class Pushing(Sink):
        def write(self, camera: str | None, perception: Perception) -> None:
            source.end()

    source.push(noise(0), 7000.5)
    before = time.time()
    sinks = [Pushing(), JsonLines(str(tmp_path / "x"))]
    summary = run(source, engine, sinks, detector="none")
    first, *_, last = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()]
    assert first["type"] == "source" and first["origin_s"] == last["origin_s"] == 7000.5
    assert "camera" not in first
    assert before - 0.1 <= wall_s(first) <= time.time()
    assert summary.start is not None and summary.start.wall_time == last["wall_time"]


def still(seconds: float) -> Generated:
    return Generated("still", lambda time_s: np.full((24, 32, 3), 90, np.uint8), seconds, 25.0)


def test_a_file_has_no_start_time(engine: Engine, tmp_path: Path) -> None:
    run(still(1.0), engine, [JsonLines(str(tmp_path / "x"))], detector="none")
    lines = lines_of(tmp_path / "x")
    assert all(line["type"] != "source" and "origin_s" not in line for line in lines)


def test_each_run_counts_its_own_people(engine: Engine) -> None:
    with_gap = PushSource("ros")
    assert run(still(1.0), engine, detector="none", hop_s=0.2).people == 1
    with_gap.end()
    assert run(with_gap, engine, detector="none", hop_s=0.2).people == 0
    assert not any(isinstance(item, (Frame, Gap)) for item in with_gap.items())
