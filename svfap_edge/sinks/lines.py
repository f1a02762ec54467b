"""The results of a run as JSON objects, one for each line: what every outlet of text carries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.sources.frames import Gap, StartTime

from .sink import Sink

SCHEMA_VERSION = 1
"""The `version` of `lines.schema.json`, which describes every line. It rises when a key is taken
away or changes its meaning; keys may be added without."""


class LineSink(Sink):
    """Makes JSON objects of the results of a run: `source` at the first frame of a live source,
    `prediction`, `state`, `gap` where a live source gives no frames, and at the end `summary`.
    Where sources have names, each object has its `camera`; the `summary` of a camera comes when it
    ends, and the last object is that of all, without `camera`.

        class Printer(LineSink):
            def line(self, content):
                print(content["type"], content)

    A subclass writes `line`. Outlets that derive from this class carry the same values.
    """

    def line(self, content: dict[str, Any]) -> None:
        """Take one object, which fits `lines.schema.json`."""
        raise NotImplementedError

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

    def _add(self, camera: str | None, contents: Iterable[dict[str, Any]]) -> None:
        for content in contents:
            named = {} if camera is None else {"camera": camera}
            self.line({"type": content["type"], **named, **content})
