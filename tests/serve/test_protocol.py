"""What the socket carries, with a real client."""

from __future__ import annotations

import json
import struct
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from websockets.sync.client import ClientConnection, connect

from svfap_edge import Engine, JsonLines, Perceiver, open_source, run
from svfap_edge.clip import ClipSpec
from svfap_edge.errors import ConfigError
from svfap_edge.serve.hub import MAX_LINES
from svfap_edge.serve.jpeg import decode_jpeg
from svfap_edge.serve.models import Models
from svfap_edge.serve.outlet import WebOutlet
from svfap_edge.serve.pacing import Paced
from svfap_edge.serve.server import PageServer
from svfap_edge.tasks import Task
from tests.models import brightness_model, bundle_of_onnx
from tests.sinks.test_lines_schema import problems

from .conftest import QUICK, address, asked, choose, heard, joined

Frames = list[tuple[float, bytes]]


def send_all(connection: ClientConnection, frames: Frames, shift_s: float = 0.0) -> list[Any]:
    """Send frames, each after the answer to the one before; the answers."""
    return [asked(connection, struct.pack(">d", t + shift_s) + data) for t, data in frames]


def predictions_of(answers: list[Any], view: int = 0) -> list[dict[str, Any]]:
    found = [answer["views"][view]["perception"]["predictions"] for answer in answers]
    return [prediction for each in found for prediction in each]


def without_latency(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "latency_ms"} for line in lines]


def test_the_page_comes_with_a_policy_and_fetches_nothing(server: PageServer) -> None:
    with urllib.request.urlopen(server.url) as answer:
        text, headers = answer.read().decode(), answer.headers
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; script-src 'sha256-" in headers["Content-Security-Policy"]
    assert "http://" not in text and "https://" not in text and "Not for decisions" in text
    with pytest.raises(HTTPError, match="404"):
        urllib.request.urlopen(f"{server.url}other")


def test_the_welcome_says_what_there_is(server: PageServer) -> None:
    with connect(address(server)) as connection:
        welcome = heard(connection)
    assert welcome["schema"] == 1 and welcome["cameras"] == ["door"]
    assert welcome["task"]["labels"][:2] == ["neutral", "happiness"]
    assert {"artifact": "fp16.onnx", "engine": "onnxruntime"} in welcome["choices"]
    assert len(welcome["colors"]) == len(welcome["task"]["labels"])


def test_a_visitor_gets_what_a_perceiver_gives(
    server: PageServer, models: Models, frames: Frames
) -> None:
    with joined(server) as connection:
        chosen = choose(connection)
        assert chosen["detector"] == "haar" and chosen["engines"][0]["artifact"] == "int8.onnx"
        answers = send_all(connection, frames)
    with Perceiver(models.first, detector="haar", prefix="own") as perceiver:
        found = [perceiver.process(decode_jpeg(data), t).to_json() for t, data in frames]
    for answer, perception in zip(answers, found, strict=True):
        assert (answer["width"], answer["height"]) == (640, 360)
        given = answer["views"][0]["perception"]
        assert problems(given, "perception") == []
        assert [p["box"] for p in given["people"]] == [p["box"] for p in perception["people"]]
        ours = [p["scores"] for p in given["predictions"]]
        assert ours == [p["scores"] for p in perception["predictions"]]
    assert {p["label"] for p in predictions_of(answers)} == {"happiness"}


def test_visitors_share_an_engine_and_never_a_name(server: PageServer, frames: Frames) -> None:
    with joined(server) as one, joined(server) as two:
        for connection in (one, two):
            choose(connection)
        answers: dict[int, list[Any]] = {}
        threads = [
            threading.Thread(target=lambda i=i, c=c: answers.update({i: send_all(c, frames)}))
            for i, c in enumerate((one, two))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    names = [{p["stream"] for p in predictions_of(answers[i])} for i in (0, 1)]
    assert len(names[0]) == len(names[1]) == 1 and names[0].isdisjoint(names[1])
    scores = [[p["scores"] for p in predictions_of(answers[i])] for i in (0, 1)]
    assert scores[0] == scores[1]


def test_two_engines_see_the_same_clips(server: PageServer, frames: Frames) -> None:
    with joined(server) as connection:
        assert len(choose(connection, "int8.onnx", "fp16.onnx")["engines"]) == 2
        answers = send_all(connection, frames, shift_s=1234.567)
    first, second = (predictions_of(answers, view) for view in (0, 1))
    clips = [[(p["stream"], p["end_s"], p["box"]) for p in each] for each in (first, second)]
    assert clips[0] == clips[1] and len(first) >= 4
    agreement = answers[-1]["agreement"]
    assert agreement["pairs"] == len(first)
    labels = [[p["label"] for p in each] for each in (first, second)]
    assert agreement["same"] == sum(a == b for a, b in zip(*labels, strict=True))
    assert 0 < agreement["mean_difference"] < 0.1
    assert all(view["model_ms"] > 0 for view in answers[-1]["views"])


def test_a_new_choice_begins_anew(server: PageServer, frames: Frames) -> None:
    with joined(server) as connection:
        choose(connection)
        send_all(connection, frames[:3])
        back = send_all(connection, frames[:1])[0]
        assert back["type"] == "refused" and back["error"] == "TimestampError"
        choose(connection)
        assert send_all(connection, frames[:1])[0]["type"] == "answer"


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ([], "one engine, or two"),
        (["int8.onnx"], "one or two engines"),
        (None, "one or two engines"),
        ([{"artifact": "int8.onnx", "engine": "onnxruntime"}] * 2, "two different"),
        ([{"artifact": "int4.onnx", "engine": "onnxruntime"}], "Choose one of: int8.onnx"),
        ([{"artifact": "int8.onnx", "engine": "tensorrt"}], "Choose one of: int8.onnx"),
    ],
)
def test_a_wrong_choice_is_refused(server: PageServer, engines: Any, words: str) -> None:
    with joined(server) as connection:
        answer = asked(connection, {"type": "choose", "engines": engines})
        assert answer["type"] == "refused" and words in answer["message"]
        assert choose(connection)["type"] == "chosen"


def watched(server: PageServer, connection: ClientConnection, thread: threading.Thread) -> Any:
    """Lines and pictures until the summary of the run."""
    lines, pictures = [], []
    thread.start()
    while not lines or lines[-1]["type"] != "summary" or "camera" in lines[-1]:
        message = connection.recv(timeout=60)
        if isinstance(message, bytes):
            pictures.append(message)
        else:
            lines.append(json.loads(message))
    thread.join()
    return lines, pictures


@pytest.mark.parametrize("named", [False, True])
def test_the_socket_carries_what_the_file_holds(
    server: PageServer, models: Models, tmp_path: Path, named: bool
) -> None:
    sources: Any = {"a": "sample", "b": "sample"} if named else "sample"
    sinks = [WebOutlet(server.hub), JsonLines(str(tmp_path / "x"))]
    with joined(server) as connection:
        assert asked(connection, {"type": "watch"})["type"] == "watching"
        options = {"detector": "haar", "seconds": 3}
        thread = threading.Thread(target=lambda: run(sources, models.first, sinks, **options))
        lines, pictures = watched(server, connection, thread)
    assert lines == [json.loads(text) for text in (tmp_path / "x").read_text().splitlines()]
    assert {line["type"] for line in lines} == {"state", "prediction", "summary"}
    assert all(problems(line) == [] for line in lines) and not pictures


def test_pictures_come_with_the_people_in_them(server: PageServer, models: Models) -> None:
    with joined(server) as connection:
        asked(connection, {"type": "watch", "pictures": True})
        begin = server.hub.watched
        sink = WebOutlet(server.hub, lambda camera: {"dropped": 7})
        source = Paced(open_source("sample"), begin)
        thread = threading.Thread(
            target=lambda: run(source, models.first, [sink], detector="haar", seconds=2)
        )
        _, pictures = watched(server, connection, thread)
    assert len(pictures) > 5
    size = struct.unpack(">I", pictures[-1][:4])[0]
    head = json.loads(pictures[-1][4 : 4 + size])
    assert decode_jpeg(pictures[-1][4 + size :]).shape == (360, 640, 3)
    assert (head["width"], head["height"], head["counts"]) == (640, 360, {"dropped": 7})
    assert head["camera"] == "" and head["people"][0]["name"] == "person-1"


def test_a_paced_recording_waits_and_can_be_stopped(frames: Frames) -> None:
    begin = threading.Event()
    paced = Paced(open_source("sample"), begin)
    paced.stop()
    assert list(paced) == []
    begin.set()
    again = Paced(open_source("sample"), begin)
    first = next(iter(again))
    assert first.index == 0 and again.frames == 150


def test_values_travel_as_labels_do(tmp_path: Path, frames: Frames) -> None:
    clip, task = ClipSpec(4, 0.4, 8), Task("levels", "values", ("valence", "arousal"), low=-1.0)
    bundle = bundle_of_onnx(tmp_path / "b", brightness_model(clip), task, clip)
    with (
        Models(bundle, engine="onnxruntime", threads=1) as models,
        PageServer(models, port=0, settings=replace(QUICK, detector="none")) as server,
        connect(address(server)) as connection,
    ):
        welcome = heard(connection)
        assert welcome["task"]["kind"] == "values" and welcome["task"]["low"] == -1
        asked(connection, {"type": "choose", "engines": welcome["choices"][:1]})
        predictions = predictions_of(send_all(connection, frames[:30]))
    assert predictions and all(problems(p, "predictionLine") == [] for p in predictions)
    for prediction in predictions:
        assert prediction["label"] is None and set(prediction["scores"]) == {"valence", "arousal"}


def test_a_taken_port_is_an_error_that_says_so(server: PageServer, models: Models) -> None:
    port = int(address(server).rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConfigError, match=f"port {port}.*--port"):
        PageServer(models, port=port)
    with pytest.raises(ConfigError, match="certificate"):
        PageServer(models, port=0, certificate=(__file__, None))


def test_lines_that_wait_are_bounded(server: PageServer) -> None:
    with joined(server) as connection:
        asked(connection, {"type": "watch"})
        for number in range(5 * MAX_LINES):
            server.hub.line(json.dumps({"type": "gap", "number": number}))
        while heard(connection).get("number") != 5 * MAX_LINES - 1:
            pass  # the last one always comes


def test_the_engine_of_the_sources_is_the_first(models: Models) -> None:
    assert isinstance(models.first, Engine)
    assert models.get("int8.onnx", "onnxruntime") is models.first
    assert models.choices[0] == ("int8.onnx", "onnxruntime")
