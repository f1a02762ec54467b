"""Searching around faces finds whom searching everywhere finds, with less work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.perception import search
from svfap_edge.perception.detectors import Box, Detector, HaarDetector, Window, YuNetDetector
from svfap_edge.perception.perceiver import Perceiver
from svfap_edge.runtimes import Engine
from svfap_edge.sources.opening import open_source
from svfap_edge.sources.sample import read_portrait

FPS = 25


class Everywhere:
    """A detector without its windows."""

    def __init__(self, inner: Detector) -> None:
        self._inner, self.name = inner, inner.name

    def detect(self, frame: np.ndarray) -> list[Box]:
        return self._inner.detect(frame)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(threads=1) as loaded:
        yield loaded


Seen = list[tuple[float, dict[str, Box]]]


def seen(engine: Engine, detector: Detector, frames: list[np.ndarray], fps: float) -> Seen:
    """The people who are visible in each frame that fills a slot, with their boxes."""
    found = []
    with Perceiver(engine, detector=detector) as perceiver:
        for index, image in enumerate(frames):
            fills = perceiver.wants(index / fps)
            perception = perceiver.process(image, index / fps)
            if fills:
                boxes = {p.name: p.box for p in perception.people if p.visible}
                found.append((index / fps, boxes))
        detector.statistics = perceiver.statistics  # type: ignore[attr-defined]
    return found


def compare(everywhere: Seen, near: Seen) -> tuple[int, int, set[tuple[str, str]]]:
    """Faces seen everywhere, those of them missed, and which names stand for which."""
    faces = missed = 0
    names = set()
    for (_, first), (_, second) in zip(everywhere, near, strict=True):
        for name, box in first.items():
            faces += 1
            same = [other for other, its in second.items() if its.iou(box) > 0.4]
            missed += not same
            names.update((name, other) for other in same)
    return faces, missed, names


def crowd(seconds: float) -> list[np.ndarray]:
    """A dim room into which three people come, sway, and leave again; one more is there always."""
    face = cv2.resize(read_portrait()[25:225, 125:325], (120, 120), interpolation=cv2.INTER_AREA)
    room = cv2.GaussianBlur(
        np.random.default_rng(0).integers(60, 110, (360, 640, 3), np.uint8), (0, 0), 9
    )
    plans = [(20, 0, 99), (180, 2.0, 9.0), (345, 4.3, 12.0), (505, 6.1, 99)]
    frames = []
    for number in range(round(seconds * FPS)):
        time_s, image = number / FPS, room.copy()
        for order, (x, begin_s, end_s) in enumerate(plans):
            if begin_s <= time_s < end_s:
                left = round(x + 12 * np.sin(2.1 * time_s + order))
                top = round(120 + 30 * order + 8 * np.cos(1.7 * time_s))
                image[top : top + 120, left : left + 120] = face
        frames.append(image)
    return frames


def test_people_who_come_and_leave_are_found_as_if_all_was_searched(
    engine: Engine, yunet: Path
) -> None:
    frames, detector = crowd(14), YuNetDetector(yunet)
    everywhere = seen(engine, Everywhere(detector), frames, FPS)
    near = seen(engine, detector, frames, FPS)
    faces, missed, names = compare(everywhere, near)
    assert faces > 400
    assert missed <= 0.01 * faces
    assert len(names) == len({first for first, _ in names})  # nobody is taken for another
    statistics = detector.statistics  # type: ignore[attr-defined]
    assert statistics.searched_whole < 0.8 * statistics.searched


def test_the_sample_with_haar(engine: Engine) -> None:
    with open_source("sample") as source:
        frames = [frame.image for frame in source]
    detector = HaarDetector()
    everywhere = seen(engine, Everywhere(detector), frames, FPS)
    faces, missed, names = compare(everywhere, seen(engine, detector, frames, FPS))
    assert faces > 30 and missed == 0
    assert names == {("person-1", "person-1")}


@pytest.mark.parametrize("name", ["WolfgangLanger_Pexels.mp4", "face_noface.mov"])
def test_recordings_of_people(engine: Engine, videos: Path, yunet: Path, name: str) -> None:
    with open_source(videos / name) as source:
        frames = [frame.image for frame in source]
        fps = source.fps or 25.0
    detector = YuNetDetector(yunet)
    everywhere = seen(engine, Everywhere(detector), frames, fps)
    faces, missed, names = compare(everywhere, seen(engine, detector, frames, fps))
    assert faces > 25 and missed <= 0.01 * faces
    assert len(names) == len({first for first, _ in names})


class Scripted:
    """A detector that says what it is told, and counts what it was asked."""

    name, size = "scripted", 320

    def __init__(self) -> None:
        self.boxes: list[Box] = []
        self.asked: list[str] = []
        self.blind = False

    def detect(self, frame: np.ndarray) -> list[Box]:
        self.asked.append("whole")
        return self.boxes

    def near(self, frame: np.ndarray, expected: Box) -> Box | None:
        self.asked.append("near")
        fits = [box for box in self.boxes if box.iou(expected) > 0]
        return None if self.blind or not fits else max(fits, key=expected.iou)


def test_when_the_whole_picture_is_searched(engine: Engine) -> None:
    detector = Scripted()
    detector.boxes = [Box(100, 100, 50, 50)]
    image = np.full((360, 640, 3), 90, np.uint8)
    spacing_s = engine.spec.clip.spacing_s
    asked = []
    with Perceiver(engine, detector=detector) as perceiver:
        for number in range(24):
            if number == 8:
                detector.blind = True  # it is not where it should be: look everywhere
            if number == 9:
                detector.blind = False
            if number == 11:
                image = image.copy()
                image[200:300, 500:600] = 200  # something has come
            if number == 20:
                image = np.full((180, 320, 3), 90, np.uint8)
            perceiver.process(image, number * spacing_s)
            asked.append("+".join(detector.asked))
            detector.asked.clear()
    assert asked[:3] == ["whole"] * 3  # until it is confirmed
    assert asked[3:8] == ["near"] * 5
    assert asked[8:12] == ["near+whole", "near", "near", "whole"]
    assert asked[12:18] == ["near"] * 6
    assert "whole" in asked[18]  # after half a second
    assert asked[20] == "whole"


def test_a_window_lies_in_the_frame() -> None:
    frame = np.zeros((100, 200, 3), np.uint8)
    assert Window.around(Box(90, 40, 20, 20), frame) == Window(75, 25, 50)
    assert Window.around(Box(-5, 90, 20, 20), frame) == Window(0, 50, 50)
    assert Window.around(Box(0, 0, 300, 300), frame) == Window(100, 0, 100)
    assert search._looks_of(frame).shape == (12, 25)
