"""Results as JSON lines, in a file or on standard output."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from svfap_edge.atomic import json_line
from svfap_edge.ending import give_up_stdout
from svfap_edge.errors import SourceError

from .lines import LineSink


class JsonLines(LineSink):
    """One JSON object a line, as `LineSink` makes them and `lines.schema.json` describes them.

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

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def line(self, content: dict[str, Any]) -> None:
        """Write it; raises SourceError if there is no room for it."""
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
