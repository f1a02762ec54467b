"""The overlay video: every face with its box, its label, and bars of all scores."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.errors import SourceError
from svfap_edge.perception.results import Perception, Person, StateChange
from svfap_edge.sources.frames import DEFAULT_FPS, Gap
from svfap_edge.tasks import Task

from .palette import color_of
from .paths import check_writable
from .sink import Sink

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (245, 245, 245)
_DARK = (28, 30, 36)
_FADED = (150, 150, 150)
MIN_HEIGHT = 360
"""Smaller frames are enlarged to this height, so that the text can be read."""

MAX_REPEAT_S = 10.0
"""A time without frames is shown for so long at most; the rest of it is cut out of the video,
whether the source reported a gap or the clock jumped."""


class OverlayVideo(Sink):
    """Writes an MP4 of one camera at a constant frame rate; frames are repeated or left out to keep
    time."""

    def __init__(
        self, path: Path, task: Task, fps: float | None = None, *, camera: str | None = None
    ) -> None:
        """The task gives the order and the range of the bars. `fps` None stands for 25; `camera` is
        None where there is only one. SourceError if the file cannot be written."""
        check_writable(path)
        self.camera = camera
        self._path = path
        self._task = task
        self._fps = min(fps or DEFAULT_FPS, 120.0)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0
        self._cut = 0
        self._repeated = 0  # since the last frame
        self._last: np.ndarray | None = None

    def write(self, camera: str | None, perception: Perception) -> None:
        image = draw_overlay(perception, self._task)
        if self._writer is None:
            height, width = (n - n % 2 for n in image.shape[:2])
            self._size = (width, height)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(os.path.abspath(self._path), code, self._fps, self._size)
            if not self._writer.isOpened():
                raise SourceError(f"Cannot write the video '{self._path}'; use a path in .mp4.")
        if image.shape[1::-1] != self._size:
            image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._last = image
        self._fill(image, perception.timestamp_s, at_least=1)
        self._repeated = 0

    def missing(self, camera: str | None, gap: Gap, changes: list[StateChange]) -> None:
        """The last frame, darkened, for the time without any."""
        if self._last is not None:
            if gap.first:
                self._last = self._last // 3
                unit = self._last.shape[0] / 360
                text = f"no frames ({gap.reason})"
                _text(self._last, text, (round(8 * unit), round(20 * unit)), unit, _WHITE)
            self._fill(self._last, gap.timestamp_s)

    def _fill(self, image: np.ndarray, timestamp_s: float, at_least: int = 0) -> None:
        """Write the image up to a time, as far as there is room for more without a new frame."""
        assert self._writer is not None
        due = round(timestamp_s * self._fps) + 1 - self._cut
        room = max(at_least, round(MAX_REPEAT_S * self._fps) - self._repeated)
        excess = max(0, due - self._written - room)
        self._cut += excess
        picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        for _ in range(due - excess - self._written):
            self._writer.write(picture)
            self._written += 1
            self._repeated += 1

    def close(self) -> None:
        """
        Raises:
            SourceError: the video is not whole. OpenCV does not tell when a frame was not written.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        check = cv2.VideoCapture(os.path.abspath(self._path), cv2.CAP_FFMPEG)
        frames = check.get(cv2.CAP_PROP_FRAME_COUNT) if check.isOpened() else 0
        check.release()
        if frames < self._written:
            raise SourceError(
                f"The video '{self._path}' is not whole: {frames:.0f} of {self._written} frames "
                "can be read. Is the disk full? Make room, or write elsewhere."
            )


def draw_overlay(perception: Perception, task: Task) -> np.ndarray:
    """A copy of the frame, (H, W, 3) uint8 RGB, with everyone's box, label and bars. Frames of
    less than `MIN_HEIGHT` lines are enlarged."""
    image = perception.image
    zoom = max(1.0, MIN_HEIGHT / image.shape[0])
    if zoom > 1:
        canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    else:
        canvas = image.copy()
    unit = canvas.shape[0] / 360  # everything is laid out for 360 lines
    for person in perception.people:
        if person.visible or person.state == "stale":
            _draw_person(canvas, person, task, zoom, unit)
    clock = f"{perception.timestamp_s:.1f} s"
    _text(canvas, clock, (round(8 * unit), canvas.shape[0] - round(9 * unit)), unit, _WHITE)
    return canvas


def _draw_person(canvas: np.ndarray, person: Person, task: Task, zoom: float, unit: float) -> None:
    prediction = person.prediction
    color = _FADED
    headline = {"warming": "looking ...", "stale": "face lost"}.get(person.state, person.state)
    if prediction is not None:
        best = max(range(len(task.labels)), key=lambda i: _share(prediction.scores, task, i))
        color = color_of(best)
        headline = (
            f"{prediction.label} {prediction.score:.0%}" if prediction.score is not None else ""
        )
    box = person.box
    left, top = round(box.x * zoom), round(box.y * zoom)
    right, bottom = round((box.x + box.width) * zoom), round((box.y + box.height) * zoom)
    cv2.rectangle(canvas, (left, top), (right, bottom), color, max(1, round(2 * unit)), cv2.LINE_AA)
    tag = f"{person.name}  {headline}".strip()
    (width, height), _ = cv2.getTextSize(tag, _FONT, 0.48 * unit, max(1, round(unit)))
    pad = round(5 * unit)
    tag_x = min(max(0, left - 1), max(0, canvas.shape[1] - width - 2 * pad))
    tag_top = top - height - 2 * pad
    if tag_top < 0:  # no room above the box
        tag_top = min(bottom, canvas.shape[0] - height - 2 * pad)
    _panel(canvas, tag_x, tag_top, width + 2 * pad, height + 2 * pad, color, 0.85)
    _text(canvas, tag, (tag_x + pad, tag_top + height + pad), unit, _WHITE)
    if prediction is not None:
        _draw_bars(canvas, prediction.scores, task, (left, top, right, bottom), unit)


def _draw_bars(
    canvas: np.ndarray, scores: dict[str, float], task: Task, box: tuple[int, ...], unit: float
) -> None:
    """Beside the box where there is room, else in the corner farther from the face."""
    left, top, right, _ = box
    size = 0.4 * unit
    name_width = max(cv2.getTextSize(name, _FONT, size, 1)[0][0] for name in task.labels)
    row, pad, bar = round(15 * unit), round(6 * unit), round(62 * unit)
    width, height = name_width + bar + 3 * pad, row * len(task.labels) + 2 * pad
    space = round(6 * unit)
    if right + space + width <= canvas.shape[1]:
        x = right + space
    elif left - space - width >= 0:
        x = left - space - width
    else:
        x = 0 if (left + right) / 2 > canvas.shape[1] / 2 else canvas.shape[1] - width
    y = min(max(0, top), max(0, canvas.shape[0] - height))
    _panel(canvas, x, y, width, height, _DARK, 0.72)
    for index, name in enumerate(task.labels):
        base = y + pad + row * index
        _text(canvas, name, (x + pad, base + round(11 * unit)), unit, _WHITE, size)
        bar_x = x + name_width + 2 * pad
        end = bar_x + round(bar * _share(scores, task, index))
        y0, y1 = base + round(3 * unit), base + round(11 * unit)
        cv2.rectangle(canvas, (bar_x, y0), (bar_x + bar, y1), (70, 74, 84), -1)
        if end > bar_x:
            cv2.rectangle(canvas, (bar_x, y0), (end, y1), color_of(index), -1)


def _share(scores: dict[str, float], task: Task, index: int) -> float:
    """A score as a share of its range, 0..1."""
    value = scores[task.labels[index]]
    low, high = (0.0, 1.0) if task.kind == "classes" else (task.low, task.high)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _panel(
    canvas: np.ndarray, x: int, y: int, width: int, height: int, color: tuple[int, int, int],
    opacity: float,
) -> None:  # fmt: skip
    area = canvas[max(0, y) : y + height, max(0, x) : x + width]
    area[:] = (area * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)


def _text(
    canvas: np.ndarray, text: str, origin: tuple[int, int], unit: float,
    color: tuple[int, int, int], size: float | None = None,
) -> None:  # fmt: skip
    scale = size if size is not None else 0.48 * unit
    thick = max(1, round(unit))
    cv2.putText(canvas, text, origin, _FONT, scale, (0, 0, 0), thick + 1, cv2.LINE_AA)
    cv2.putText(canvas, text, origin, _FONT, scale, color, thick, cv2.LINE_AA)
