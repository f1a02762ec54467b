"""Where results go: a protocol, JSON lines, and the colours that pictures share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from svfap_edge.errors import SourceError
from svfap_edge.perception.perceiver import Perception, StateChange
from svfap_edge.sources.frames import Frame, Gap, StartTime


class JsonLines:
    """One JSON object a line: `source` at the first frame of a live source, `prediction`, `state`,
    `gap` where a live source gives no frames, and at the end `summary`.

    Every line is written whole, so a file of a crashed run is valid too; where the disk is full,
    the file ends with the last line that had room.
    """

    def __init__(self, path: str) -> None:
        """
        Args:
            path: File to write, or "-" for standard output.

        Raises:
            SourceError: the file cannot be written.
        """
        self._name = "standard output" if path == "-" else f"'{path}'"
        self._stdout = sys.stdout if path == "-" else None
        self._size = 0
        try:
            self._file = None if path == "-" else open(path, "wb", buffering=0)
        except OSError as error:
            raise SourceError(f"Cannot write '{path}': {error}") from error

    def begin(self, origin: StartTime) -> None:
        self.add([origin.to_json()])

    def write(self, frame: Frame, perception: Perception) -> None:
        self.add(_of_perception(perception))

    def missing(self, gap: Gap, changes: list[StateChange]) -> None:
        self.add(_of_gap(gap, changes))

    def finish(self, changes: list[StateChange], summary: dict[str, Any]) -> None:
        self.add(_of_end(changes, summary))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, contents: Iterable[dict[str, Any]]) -> None:
        """Write a line for each.

        Raises:
            SourceError: there is no room for it.
        """
        for content in contents:
            self._line(content)

    def _line(self, content: dict[str, Any]) -> None:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            if self._stdout is not None:
                self._stdout.write(text)
                self._stdout.flush()
            else:
                self._append(text.encode())
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._stdout is not None:
                _give_up_stdout()
            raise SourceError(
                f"Cannot write results to {self._name}: {error.strerror or error}. What was "
                "written so far is kept. Make room, or write elsewhere."
            ) from error

    def _append(self, data: bytes) -> None:
        """All of it or, where files can be cut, nothing."""
        assert self._file is not None
        done = 0
        try:
            while done < len(data):
                done += self._file.write(data[done:])
        except BaseException:
            with suppress(OSError):  # a pipe or a device
                self._file.truncate(self._size)
                self._file.seek(self._size)
            raise
        self._size += len(data)


class CameraLines:
    """JSON lines of several cameras in one file: those of `JsonLines`, each with its `camera`. The
    `summary` of a camera comes when it ends; the last line is that of all, without `camera`.
    """

    def __init__(self, path: str) -> None:
        """As `JsonLines`."""
        self._lines = JsonLines(path)

    def begin(self, camera: str, origin: StartTime) -> None:
        """The first frame of a live source came; before it is written."""
        self._add(camera, [origin.to_json()])

    def write(self, camera: str, perception: Perception) -> None:
        self._add(camera, _of_perception(perception))

    def missing(self, camera: str, gap: Gap, changes: list[StateChange]) -> None:
        """A camera gives no frames, and what follows from it."""
        self._add(camera, _of_gap(gap, changes))

    def end(self, camera: str, changes: list[StateChange], summary: dict[str, Any]) -> None:
        """A camera ended: the last state changes, and its summary."""
        self._add(camera, _of_end(changes, summary))

    def finish(self, summary: dict[str, Any]) -> None:
        """The run ended well: the summary of all."""
        self._lines.finish([], summary)

    def close(self) -> None:
        self._lines.close()

    def _add(self, camera: str, contents: Iterable[dict[str, Any]]) -> None:
        named = ({"type": line["type"], "camera": camera, **line} for line in contents)
        self._lines.add(named)


def _of_perception(perception: Perception) -> Iterator[dict[str, Any]]:
    for change in perception.changes:
        yield change.to_json()
    for prediction in perception.predictions:
        yield prediction.to_json()


def _of_gap(gap: Gap, changes: list[StateChange]) -> Iterator[dict[str, Any]]:
    if gap.first:
        time_s = round(gap.timestamp_s, 6)
        yield {"type": "gap", "reason": gap.reason, "time_s": time_s}
    for change in changes:
        yield change.to_json()


def _of_end(changes: list[StateChange], summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for change in changes:
        yield change.to_json()
    yield {"type": "summary", **summary}


def _give_up_stdout() -> None:
    """What waits in its buffer would fail again, and be told again, when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
