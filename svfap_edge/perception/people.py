"""The people before one camera: a stream for each, and the newest prediction of each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from svfap_edge.errors import ConfigError
from svfap_edge.runtimes import Engine, Prediction, Stream
from svfap_edge.runtimes.stream import State

from .results import Person, StateChange
from .tracking import Track


class People:
    """Streams by the number of the person's track.

    Attributes:
        given: Number of names given so far.
    """

    def __init__(self, engine: Engine, prefix: str, **options: float) -> None:
        """`options` are those of `Engine.open_stream`."""
        self.given = 0
        self._engine, self._prefix, self._options = engine, prefix, options
        self._streams: dict[int, Stream] = {}
        self._latest: dict[int, Prediction] = {}
        self._reported: dict[str, State] = {}
        self._missed = 0  # by those who left
        self._shift = 0  # from a track's number to the one in the name, see `_open`

    def stream_of(self, number: int) -> Stream:
        """The stream of a person, opened when they are new."""
        if number not in self._streams:
            self._streams[number] = self._open(number)
            self.given += 1
        return self._streams[number]

    def _open(self, number: int) -> Stream:
        """A stream of the next name that nobody else on the engine has in use."""
        while True:
            name = f"{self._prefix}-{number + self._shift}"
            try:
                return self._engine.open_stream(name, **self._options)
            except ConfigError:
                if all(stream.name != name for stream in self._engine.streams):
                    raise
                self._shift += 1

    @property
    def numbers(self) -> list[int]:
        """Track numbers of the people who are present."""
        return list(self._streams)

    @property
    def valid(self) -> int:
        """Number of people who are being predicted."""
        return sum(stream.state == "valid" for stream in self._streams.values())

    @property
    def missed(self) -> int:
        """Number of clips that were due and replaced by newer ones."""
        return self._missed + sum(stream.missed for stream in self._streams.values())

    def waiting(self) -> list[Stream]:
        """Streams with a clip that is ready, the one with the oldest last prediction first."""
        ready = [(number, stream) for number, stream in self._streams.items() if stream.ready]

        def newest(item: tuple[int, Stream]) -> float:
            prediction = self._latest.get(item[0])
            return -np.inf if prediction is None else prediction.end_s

        return [stream for _, stream in sorted(ready, key=newest)]

    def take(self, predictions: Iterable[Prediction]) -> list[Prediction]:
        """Keep the newest prediction of each, and return those kept: not those of people who left
        meanwhile, or whose stream is valid no more."""
        numbers = {s.name: number for number, s in self._streams.items() if s.state == "valid"}
        kept = [prediction for prediction in predictions if prediction.stream in numbers]
        self._latest |= {numbers[prediction.stream]: prediction for prediction in kept}
        return kept

    def shown(self, tracks: Iterable[Track]) -> tuple[Person, ...]:
        """The people who have a stream, as the tracks show them."""
        return tuple(
            Person(
                name=stream.name,
                box=track.box,
                visible=track.visible,
                state=stream.state,
                prediction=self._latest.get(track.number) if stream.state == "valid" else None,
            )
            for track in tracks
            if (stream := self._streams.get(track.number)) is not None
        )

    def changes(self, timestamp_s: float) -> list[StateChange]:
        """Changes of state since the last call."""
        changes = []
        for stream in self._streams.values():
            if self._reported.get(stream.name) != stream.state:
                self._reported[stream.name] = stream.state
                changes.append(StateChange(stream.name, stream.state, timestamp_s))
        return changes

    def end(self, numbers: Iterable[int], timestamp_s: float) -> list[StateChange]:
        """Close the streams of people who have left, and return that change of their states."""
        changes = []
        for number in numbers:
            stream = self._streams.pop(number)
            self._missed += stream.missed
            self._latest.pop(number, None)
            self._reported.pop(stream.name, None)
            stream.close()
            changes.append(StateChange(stream.name, "ended", timestamp_s))
        return changes

    def set_hop(self, hop_s: float) -> None:
        """Set the seconds between predictions, for everyone and for people who come later."""
        self._options["hop_s"] = hop_s
        for stream in self._streams.values():
            stream.set_hop(hop_s)

    def forget_predictions(self) -> None:
        """Forget everyone's newest prediction, so that after a failure of the engine it does not
        pass for one of the newest frame."""
        self._latest.clear()

    def mark_stale(self) -> None:
        for stream in self._streams.values():
            stream.mark_stale()

    def reset(self) -> None:
        for stream in self._streams.values():
            stream.reset()
