"""The overlay video: every face with its box, its label, and bars of all scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from svfap_edge.errors import SourceError
from svfap_edge.media import in_utf8
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.results import Perception, Person, StateChange
from svfap_edge.sources.frames import DEFAULT_FPS, Gap
from svfap_edge.tasks import Task

from .fonts import measure, require_fonts, write
from .layout import Area, place_line, place_panel, place_tag
from .palette import color_of
from .paths import check_writable
from .sink import Sink

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
        None where there is only one. DependencyMissing if no font has the labels; SourceError if
        the file cannot be written."""
        require_fonts(task.labels)
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
            with in_utf8(self._path) as name:
                self._writer = cv2.VideoWriter(name, code, self._fps, self._size)
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
                origin = (round(8 * unit), round(20 * unit))
                write(self._last, text, origin, 0.48 * unit, _WHITE, max(1, round(unit)))
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
        with in_utf8(self._path) as name:
            check = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        frames = check.get(cv2.CAP_PROP_FRAME_COUNT) if check.isOpened() else 0
        check.release()
        if frames < self._written:
            raise SourceError(
                f"The video '{self._path}' is not whole: {frames:.0f} of {self._written} frames "
                "can be read. Is the disk full? Make room, or write elsewhere."
            )


@dataclass
class _Page:
    """What has its place on a frame so far."""

    boxes: dict[str, Area]
    tags: dict[str, Area] = field(default_factory=dict)
    rest: list[Area] = field(default_factory=list)

    def others(self, name: str) -> list[Area]:
        """All but the box and the tag of one person."""
        people = (*self.boxes.items(), *self.tags.items())
        return [*(area for owner, area in people if owner != name), *self.rest]


def draw_overlay(perception: Perception, task: Task) -> np.ndarray:
    """A copy of the frame, (H, W, 3) uint8 RGB, with everyone's box, label and bars. Frames of
    less than `MIN_HEIGHT` lines are enlarged."""
    image = perception.image
    zoom = max(1.0, MIN_HEIGHT / image.shape[0])
    if zoom > 1:
        canvas = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    else:
        canvas = image.copy()
    unit = min(canvas.shape[0] / 360, canvas.shape[1] / 480)  # laid out for 480x360
    shown = [p for p in perception.people if p.visible or p.state == "stale"]
    clock = f"{perception.timestamp_s:.1f} s"
    spans = [p.prediction.end_s - p.prediction.start_s for p in shown if p.prediction is not None]
    if spans:
        clock += f", scores of the last {max(spans):.1f} s"
    thick, edge = max(1, round(unit)), round(8 * unit)
    width, height = measure(clock, 0.48 * unit, thick)
    boxes = {p.name: _area(p.box, zoom) for p in shown}
    line = place_line(
        (width + 2 * edge, height + 2 * edge), list(boxes.values()), canvas.shape[1::-1]
    )
    _panel(canvas, line, _DARK, 0.72)
    write(canvas, clock, (line.x + edge, line.y + edge + height), 0.48 * unit, _WHITE, thick)
    page = _Page(boxes, rest=[line])
    # The largest face first, which is most likely the one that matters.
    shown.sort(key=lambda p: -p.box.width * p.box.height)
    for person in shown:
        _draw_tag(canvas, person, task, page, unit)
    for person in shown:
        if person.prediction is not None:
            _draw_bars(canvas, person, task, page, unit)
    return canvas


def _area(box: Box, zoom: float) -> Area:
    left, top = round(box.x * zoom), round(box.y * zoom)
    right, bottom = round((box.x + box.width) * zoom), round((box.y + box.height) * zoom)
    return Area(left, top, right - left, bottom - top)


def _draw_tag(canvas: np.ndarray, person: Person, task: Task, page: _Page, unit: float) -> None:
    """The box of a face, and a line with its name and its label, where there is room."""
    prediction = person.prediction
    color = _FADED
    headline = {"warming": "looking ...", "stale": "face lost"}.get(person.state, person.state)
    if prediction is not None:
        color = _color(prediction.scores, task)
        headline = (
            f"{prediction.label} {prediction.score:.0%}" if prediction.score is not None else ""
        )
    box, thick = page.boxes[person.name], max(1, round(unit))
    corner = (box.x + box.width, box.y + box.height)
    cv2.rectangle(canvas, (box.x, box.y), corner, color, max(1, round(2 * unit)), cv2.LINE_AA)
    tag, pad = f"{person.name}  {headline}".strip(), round(5 * unit)
    width, height = measure(tag, 0.48 * unit, thick)
    size, frame = (width + 2 * pad, height + 2 * pad), canvas.shape[1::-1]
    found = place_tag(box, size, page.others(person.name), frame)
    if found is None:
        return
    area, shrink = found
    page.tags[person.name] = area
    _panel(canvas, area, color, 0.85)
    origin = (area.x + round(pad * shrink), area.y + round((height + pad) * shrink))
    write(canvas, tag, origin, 0.48 * unit * shrink, _WHITE, max(1, int(unit * shrink)))


def _draw_bars(canvas: np.ndarray, person: Person, task: Task, page: _Page, unit: float) -> None:
    """A bar for each score, where there is room; see `place_panel`."""
    assert person.prediction is not None
    scores = person.prediction.scores
    name_width = max(measure(name, 0.4 * unit)[0] for name in task.labels)
    row, pad, bar = 15 * unit, 6 * unit, 62 * unit
    size = (round(name_width + bar + 3 * pad), round(row * len(task.labels) + 2 * pad))
    found = place_panel(
        page.boxes[person.name], page.tags.get(person.name), size, page.others(person.name),
        canvas.shape[1::-1], space=round(6 * unit), alone=len(page.boxes) == 1,
    )  # fmt: skip
    if found is None:
        return
    area, shrink = found
    page.rest.append(area)
    _panel(canvas, area, _DARK, 0.72)
    corner = (area.x + area.width - 1, area.y + area.height - 1)
    cv2.rectangle(canvas, (area.x, area.y), corner, _color(scores, task), max(1, round(unit / 2)))
    row, pad, bar = row * shrink, pad * shrink, bar * shrink
    x, low, high = area.x + round(name_width * shrink + 2 * pad), 3 * shrink, 11 * shrink
    scale, thick = 0.4 * unit * shrink, max(1, int(unit * shrink))
    for index, name in enumerate(task.labels):
        base = area.y + pad + row * index
        y0, y1 = round(base + low * unit), round(base + high * unit)
        write(canvas, name, (round(area.x + pad), y1), scale, _WHITE, thick)
        end = x + round(bar * _share(scores, task, index))
        cv2.rectangle(canvas, (x, y0), (x + round(bar), y1), (70, 74, 84), -1)
        if end > x:
            cv2.rectangle(canvas, (x, y0), (end, y1), color_of(index), -1)


def _color(scores: dict[str, float], task: Task) -> tuple[int, int, int]:
    """That of the highest score."""
    return color_of(max(range(len(task.labels)), key=lambda i: _share(scores, task, i)))


def _share(scores: dict[str, float], task: Task, index: int) -> float:
    """A score as a share of its range, 0..1."""
    value = scores[task.labels[index]]
    low, high = (0.0, 1.0) if task.kind == "classes" else (task.low, task.high)
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _panel(canvas: np.ndarray, place: Area, color: tuple[int, int, int], opacity: float) -> None:
    x, y, width, height = place
    area = canvas[max(0, y) : y + height, max(0, x) : x + width]
    area[:] = (area * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)
