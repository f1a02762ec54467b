"""Where results go: a protocol, JSON lines, and the colours that pictures share."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from .errors import SourceError
from .frames import Frame, Gap
from .perceiver import Perception, StateChange

PALETTE = (
    "#8d99ae", "#f2a900", "#7a5cc9", "#d1495b", "#2e86c1", "#4a8f3c",
    "#1f5f6b", "#c77dba", "#a0522d", "#e07a3f", "#5c6b73",
)  # fmt: skip
"""Colour of each label by its place in the task; distinct in lightness as well as hue."""


def color_of(index: int) -> tuple[int, int, int]:
    """RGB of the label at `index`."""
    text = PALETTE[index % len(PALETTE)]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


class Sink(Protocol):
    """Takes the results of a run, frame by frame."""

    def write(self, frame: Frame, perception: Perception) -> None: ...

    def missing(self, gap: Gap, changes: list[StateChange]) -> None:
        """A live source gives no frames, and what follows from it."""
        ...

    def finish(self, changes: list[StateChange], summary: dict[str, Any]) -> None:
        """The run ended well: the last state changes, and its summary."""
        ...

    def close(self) -> None:
        """Called at the end in any case. What was written so far must be readable."""
        ...


class JsonLines:
    """One JSON object a line: `prediction`, `state`, `gap` where a live source gives no frames, and
    at the end `summary`.

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

    def write(self, frame: Frame, perception: Perception) -> None:
        for change in perception.changes:
            self._line(change.to_json())
        for prediction in perception.predictions:
            self._line(prediction.to_json())

    def missing(self, gap: Gap, changes: list[StateChange]) -> None:
        if gap.first:
            time_s = round(gap.timestamp_s, 6)
            self._line({"type": "gap", "reason": gap.reason, "time_s": time_s})
        for change in changes:
            self._line(change.to_json())

    def finish(self, changes: list[StateChange], summary: dict[str, Any]) -> None:
        for change in changes:
            self._line(change.to_json())
        self._line({"type": "summary", **summary})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _line(self, content: dict[str, Any]) -> None:
        """Raises SourceError if there is no room for it."""
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


def _give_up_stdout() -> None:
    """What waits in its buffer would fail again, and be told again, when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_writable(path: Path) -> None:
    """Raises SourceError unless a file can be made at `path`; makes none."""
    folder = path.parent
    if not folder.is_dir():
        raise SourceError(f"Cannot write '{path}': there is no folder '{folder}'.")
    if path.is_dir():
        raise SourceError(f"Cannot write '{path}': it is a folder.")
