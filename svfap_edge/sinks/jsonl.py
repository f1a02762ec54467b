"""Results as JSON lines, in a file or on standard output."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from svfap_edge.atomic import json_line
from svfap_edge.ending import give_up_stdout
from svfap_edge.errors import SourceError
from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.sources.frames import Gap, StartTime

from .sink import Sink


class JsonLines(Sink):
    """One JSON object a line: `source` at the first frame of a live source, `prediction`, `state`,
    `gap` where a live source gives no frames, and at the end `summary`. Where sources have names,
    each line has its `camera`; the `summary` of a camera comes when it ends, and the last line is
    that of all, without `camera`.

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
        if path == "-" and sys.stdout is None:
            raise SourceError("Cannot write results to standard output: it is closed.")
        try:
            self._file = None if path == "-" else open(path, "wb", buffering=0)
        except OSError as error:
            raise SourceError(f"Cannot write '{path}': {error}") from error

    def begin(self, camera: str | None, start: StartTime) -> None:
        self._add(camera, [start.to_json()])

    def write(self, camera: str | None, perception: Perception) -> None:
        self._add(camera, perception.lines())

    def missing(self, camera: str | None, gap: Gap, changes: list[StateChange]) -> None:
        if gap.first:
            time_s = round(gap.timestamp_s, 6)
            self._add(camera, [{"type": "gap", "reason": gap.reason, "time_s": time_s}])
        self._add(camera, [change.to_json() for change in changes])

    def end(self, camera: str | None, changes: list[StateChange], summary: dict[str, Any]) -> None:
        self._add(camera, [change.to_json() for change in changes])
        if camera is not None:  # where there is one source, its summary is that of the run
            self._add(camera, [{"type": "summary", **summary}])

    def finish(self, summary: dict[str, Any]) -> None:
        self._add(None, [{"type": "summary", **summary}])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _add(self, camera: str | None, contents: Iterable[dict[str, Any]]) -> None:
        """Write a line for each; raises SourceError if there is no room for it."""
        for content in contents:
            named = {} if camera is None else {"camera": camera}
            self._line({"type": content["type"], **named, **content})

    def _line(self, content: dict[str, Any]) -> None:
        out = self._stdout
        text = json_line(content, "utf-8" if out is None else out.encoding) + "\n"
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
                give_up_stdout()
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
