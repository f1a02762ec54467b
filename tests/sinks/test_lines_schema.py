"""The schema of the JSON lines holds for everything that a run writes, and for little else."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import svfap_edge.sinks.jsonl
from svfap_edge.bundle import Bundle
from svfap_edge.clip import ClipSpec
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.perception.results import Perception
from svfap_edge.runner.run import run
from svfap_edge.runtimes import Engine
from svfap_edge.runtimes.stream import State
from svfap_edge.sinks.jsonl import JsonLines
from svfap_edge.sinks.sink import Sink
from svfap_edge.sources.frames import Source, SourceCounts
from svfap_edge.tasks import Task
from tests.cameras import MjpegServer, noise, until
from tests.cli.test_commands import call
from tests.models import BRIGHTNESS_TASK, brightness_model, bundle_of_onnx
from tests.runner.test_several_sources import fake, lines_of

FILE = Path(svfap_edge.sinks.jsonl.__file__).with_name("lines.schema.json")
SCHEMA: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
CLIP = ClipSpec(4, 0.4, 8)
VALUES = Task("levels", "values", ("bright", "dark"))
QUICK = ("--detector", "none", "--hop", 0.2, "--threads", 1, "--engine", "onnxruntime")


def problems(content: Any, part: str | None = None) -> list[str]:
    """What does not fit the schema of a line, or that of a part of it in `$defs`."""
    schema = SCHEMA if part is None else {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{part}"}
    return [
        f"{e.json_path}: {e.message}" for e in Draft202012Validator(schema).iter_errors(content)
    ]


def checked(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, each of which fits."""
    lines = lines_of(path)
    for line in lines:
        assert problems(line) == [], line
    return lines


def types_of(lines: list[dict[str, Any]]) -> set[str]:
    return {line["type"] for line in lines}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A model of classes, and one of values."""
    folder = tmp_path_factory.mktemp("s")
    return {
        task.kind: bundle_of_onnx(folder / task.name, brightness_model(CLIP), task, CLIP)
        for task in (BRIGHTNESS_TASK, VALUES)
    }


@pytest.fixture
def engine(bundles: dict[str, Bundle]) -> Iterator[Engine]:
    with Engine.load(bundles["classes"], engine="onnxruntime", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def run_of_a_file(
    bundles: dict[str, Bundle], video: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("r") / "x"
    done = call("run", video, "--bundle", bundles["classes"].path, "--jsonl", path, *QUICK)
    assert done.exit_code == 0, done.output
    return checked(path)


def test_the_schema_is_one_and_says_its_version() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"].endswith("version 1")
    assert "$id" not in FILE.read_text(encoding="utf-8")


def test_every_property_is_described_and_times_have_their_unit() -> None:
    def described(schema: dict[str, Any]) -> bool:
        if "description" in schema or "const" in schema:
            return True
        return "$ref" in schema and described(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])

    for name, part in SCHEMA["$defs"].items():
        for key, schema in part.get("properties", {}).items():
            assert described(schema), f"{name}.{key}"
            if key.endswith(("_s", "_ms")):
                target = SCHEMA["$defs"].get(schema.get("$ref", "").rpartition("/")[2], {})
                words = schema.get("description") or target["description"]
                assert "econds" in words, f"{name}.{key}"


def test_the_schema_has_the_words_of_the_code() -> None:
    parts = SCHEMA["$defs"]
    assert parts["streamState"]["enum"] == list(get_args(State))
    names = [field.name for field in fields(SourceCounts)]
    counts = parts["account"]["properties"]["counts"]
    assert list(counts["properties"]) == names == counts["oneOf"][1]["required"]


def test_a_run_of_a_file(run_of_a_file: list[dict[str, Any]]) -> None:
    assert types_of(run_of_a_file) == {"state", "prediction", "summary"}
    assert all("camera" not in line and "smoothed" not in line for line in run_of_a_file)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_a_run_with_smoothing(
    bundles: dict[str, Bundle], video: Path, tmp_path: Path, kind: str
) -> None:
    options = ("--bundle", bundles[kind].path, "--smooth", 0.5, "--jsonl", tmp_path / "x")
    done = call("run", video, *options, *QUICK)
    assert done.exit_code == 0, done.output
    found = [line for line in checked(tmp_path / "x") if line["type"] == "prediction"]
    assert found and all(set(line["smoothed"]) == {"bright", "dark"} for line in found)
    assert {line["label"] is None for line in found} == {kind == "values"}


def test_a_run_of_the_sample_with_a_detector(tmp_path: Path) -> None:
    """The model that ships, and faces that are really looked for."""
    done = call("run", "sample", "--seconds", 4, "--jsonl", tmp_path / "x")
    assert done.exit_code == 0, done.output
    lines = checked(tmp_path / "x")
    assert any(line["type"] == "prediction" and line["box"] for line in lines)


def test_a_run_of_named_files_of_which_one_fails(
    bundles: dict[str, Bundle], video: Path, tmp_path: Path
) -> None:
    sources = (f"door={video}", f"desk={video}", f"gone={tmp_path / 'none.mp4'}")
    options = ("--bundle", bundles["classes"].path, "--jsonl", tmp_path / "x")
    done = call("run", *sources, *options, *QUICK)
    assert done.exit_code == 2, done.output
    lines = checked(tmp_path / "x")
    assert types_of(lines) == {"state", "prediction", "summary"}
    *summaries, total = [line for line in lines if line["type"] == "summary"]
    assert {line["camera"] for line in summaries} == {"door", "desk"} == set(total["cameras"])
    assert set(total["failed"]) == {"gone"}


def test_a_run_of_a_camera_with_a_gap(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """One without a name, by the command, whose server stops sending for a while."""
    server, path = MjpegServer(), tmp_path / "x"

    def stall() -> None:
        until(lambda: path.exists() and '"prediction"' in path.read_text(), 20)
        server.stalled.set()
        until(lambda: '"gap"' in path.read_text(), 20)
        server.stalled.clear()

    stalling = threading.Thread(target=stall)
    stalling.start()
    try:
        options = ("--bundle", bundles["classes"].path, "--seconds", 5, "--jsonl", path)
        done = call("run", server.url, *options, *QUICK)
    finally:
        stalling.join()
        server.kill()
    assert done.exit_code == 0, done.output
    lines = checked(path)
    assert types_of(lines) == {"source", "state", "prediction", "gap", "summary"}
    assert lines[0]["type"] == "source" and lines[-1]["counts"]["gaps"] >= 1
    assert "origin_s" in lines[-1]


def test_a_run_of_named_cameras_of_which_one_breaks(engine: Engine, tmp_path: Path) -> None:
    """The other one shows the same picture for half a second or more."""
    good, bad = fake(), fake()
    good[0].draw = lambda index: noise(30 if 30 < index < 90 else index)
    sources: dict[str, Source] = {"door": good[1], "desk": bad[1]}

    class Break(Sink):
        def write(self, camera: str | None, perception: Perception) -> None:
            if camera == "desk" and perception.predictions:
                bad[0].broken = OSError("unplugged")

    sinks = [JsonLines(str(tmp_path / "x")), Break()]
    run(sources, engine, sinks, detector="none", hop_s=0.2, seconds=2.0, smoothing_s=0.3)
    lines = checked(tmp_path / "x")
    ends = {line.get("camera"): line for line in lines if line["type"] == "summary"}
    assert isinstance(ends["desk"]["failed"], str) and "failed" not in ends["door"]
    assert set(ends[None]["failed"]) == {"desk"}
    assert types_of(lines) >= {"source", "state", "prediction", "gap", "summary"}


def test_lines_are_what_to_json_gives(engine: Engine, video: Path, tmp_path: Path) -> None:
    """Prediction, Perception and the file say the same of every prediction and change."""
    found: list[Perception] = []

    class Keep(Sink):
        def write(self, camera: str | None, perception: Perception) -> None:
            found.append(perception)

    run(video, engine, [JsonLines(str(tmp_path / "x")), Keep()], detector="none", smoothing_s=0.2)
    written: dict[str, list[Any]] = defaultdict(list)
    for line in checked(tmp_path / "x"):
        written[line["type"]].append(line)
    contents = [perception.to_json() for perception in found]
    assert written["prediction"] == [p for content in contents for p in content["predictions"]]
    assert written["state"][:-1] == [c for content in contents for c in content["changes"]]
    alone = [p.to_json() for perception in found for p in perception.predictions]
    assert len(alone) > 2
    for line, prediction in zip(written["prediction"], alone, strict=True):
        assert {key: value for key, value in line.items() if key != "box"} == prediction


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_objects_of_the_library_fit_too(bundles: dict[str, Bundle], kind: str) -> None:
    with (
        Engine.load(bundles[kind], engine="onnxruntime", threads=1) as engine,
        Perceiver(engine, detector="none", hop_s=0.2, smoothing_s=0.5) as perceiver,
    ):
        image = np.full((24, 32, 3), 120, np.uint8)
        found = [perceiver.process(image, index * 0.1) for index in range(10)]
    predictions = [p for perception in found for p in perception.predictions]
    assert predictions and any(person.prediction for person in found[-1].people)
    for perception in found:
        content = json.loads(json.dumps(perception.to_json(), allow_nan=False))
        assert problems(content, "perception") == []
        assert problems(content) != []  # it is no line
    for prediction in predictions:
        assert problems(prediction.to_json(), "prediction") == []


WRONG: dict[str, list[dict[str, Any]]] = {
    "prediction": [
        {"extra": 1}, {"label": None}, {"score": None}, {"score": 1.5}, {"scores": {}},
        {"scores": {"bright": 2.0}}, {"scores": {"bright": "0.5"}}, {"coverage": 1.2},
        {"latency_ms": -1}, {"end_s": "1"}, {"box": {"x": 1}}, {"camera": ""}, {"smoothed": None},
    ],
    "state": [{"state": "gone"}, {"time_s": None}, {"reason": "lost"}],
    "summary": [
        {"frames": 1.5}, {"frames": -1}, {"failed": {}}, {"cameras": {}}, {"origin_s": 1.0},
        {"warnings": "none"}, {"counts": {"captured": 1}}, {"seconds": {"detect": 1.0}},
        {"extra": 1}, {"camera": "door", "failed": {}}, {"camera": "door", "cameras": {}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change"), [(kind, change) for kind, changes in WRONG.items() for change in changes],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value),
)  # fmt: skip
def test_what_is_no_line_does_not_fit(
    run_of_a_file: list[dict[str, Any]], kind: str, change: dict[str, Any]
) -> None:
    line = next(line for line in run_of_a_file if line["type"] == kind)
    assert problems({**deepcopy(line), **change}) != []


@pytest.mark.parametrize("kind", ["prediction", "state", "summary"])
def test_no_key_may_be_missing(run_of_a_file: list[dict[str, Any]], kind: str) -> None:
    line = next(line for line in run_of_a_file if line["type"] == kind)
    for key in line:
        assert problems({name: value for name, value in line.items() if name != key}) != [], key


@pytest.mark.parametrize(
    "line",
    [
        {}, [], "prediction", {"type": "frame"},
        {"type": "gap", "reason": "bored", "time_s": 1.0}, {"type": "gap", "reason": "lost"},
        {"type": "source", "source": "0", "origin_s": 1.0},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_no_run_writes_does_not_fit(line: Any) -> None:
    assert problems(line) != []
