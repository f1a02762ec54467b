"""What takes the results of a run: the protocol of all sinks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from svfap_edge.perception.results import Perception, StateChange
from svfap_edge.sources.frames import Gap, StartTime


class Sink:
    """Takes the results of a run, as they come.

        class Printer(Sink):
            def write(self, camera, perception):
                for prediction in perception.predictions:
                    print(camera, prediction.end_s, prediction.label)

    A subclass writes the methods that it needs; the others do nothing. `camera` is the name of the
    source that a call is about, and None where the run has one source without a name. All calls
    come from one thread.

    Attributes:
        camera: Name of the camera whose results it takes, as a video or a picture does; None for
            those of all.
    """

    camera: str | None = None

    def begin(self, camera: str | None, start: StartTime) -> None:
        """The first frame of a live source came; it is written next."""

    def write(self, camera: str | None, perception: Perception) -> None:
        """A frame, `perception.image`, and what it brought."""

    def missing(self, camera: str | None, gap: Gap, changes: list[StateChange]) -> None:
        """A live source gives no frames, and what follows from it."""

    def end(self, camera: str | None, changes: list[StateChange], summary: dict[str, Any]) -> None:
        """A source ended: its last changes of state, and its summary."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run ended well; the summary is that of all sources."""

    def close(self) -> None:
        """Called at the end in any case. What was written so far must be readable."""


@contextmanager
def closing(sinks: Sequence[Sink]) -> Iterator[None]:
    """Close every sink at the end, whatever happened; the first error is the one that is raised."""
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    for sink in sinks:
        try:
            sink.close()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure
