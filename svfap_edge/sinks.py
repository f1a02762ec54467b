"""Where results go: a protocol, JSON lines, and the colours that pictures share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, Any, Protocol

from .errors import SourceError
from .perceiver import Perception, StateChange
from .sources import Frame, Gap

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

    Every line is written whole and flushed, so a file of a crashed run is valid too.
    """

    def __init__(self, path: str) -> None:
        """
        Args:
            path: File to write, or "-" for standard output.

        Raises:
            SourceError: the file cannot be written.
        """
        self._owned = path != "-"
        try:
            self._file: IO[str] = open(path, "w", encoding="utf-8") if self._owned else sys.stdout
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
        if self._owned:
            self._file.close()

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()


def check_writable(path: Path) -> None:
    """Raises SourceError unless a file can be made at `path`; makes none."""
    folder = path.parent
    if not folder.is_dir():
        raise SourceError(f"Cannot write '{path}': there is no folder '{folder}'.")
    if path.is_dir():
        raise SourceError(f"Cannot write '{path}': it is a folder.")
