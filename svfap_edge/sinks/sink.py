"""The protocol of everything that takes the results of a run."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from svfap_edge.perception.perceiver import Perception, StateChange
from svfap_edge.sources.frames import Frame, Gap, StartTime


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


@runtime_checkable
class OriginSink(Protocol):
    """A sink that wants to know when a live source began."""

    def begin(self, origin: StartTime) -> None:
        """The first frame came; before it is written."""
        ...
