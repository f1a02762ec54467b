"""From frames to what each person's face expresses: detect, follow, crop, stream, predict."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .clip import check_advance, check_frame
from .errors import InferenceError
from .faces import Box, Detector, Track, Tracker, crop_face, open_detector
from .runtimes import Engine, Prediction, Stream
from .runtimes.engine import MIN_COVERAGE
from .runtimes.stream import State

HOLD_S = 0.5
"""A face not detected for this long makes its stream stale. Nothing is cropped in between: a clip
holds only frames in which the face was detected."""

FORGET_S = 2.0
"""A face not detected for this long has left; its identity is never given again."""


@dataclass(frozen=True)
class StateChange:
    """A person's stream entered a state: warming, valid, stale or ended."""

    stream: str
    state: State
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """One line of a JSON-lines file."""
        return {
            "type": "state",
            "stream": self.stream,
            "state": self.state,
            "time_s": round(self.time_s, 6),
        }


@dataclass(frozen=True)
class Person:
    """A person as the newest frame shows them.

    Attributes:
        name: "person-1", "person-2", ...; the stream's name, never used again.
        box: Where the face is; where it was last seen if not `visible`.
        visible: Whether the newest frame shows the face.
        state: Of the person's stream.
        prediction: The newest one while the state is valid, else None.
    """

    name: str
    box: Box
    visible: bool
    state: State
    prediction: Prediction | None


@dataclass(frozen=True)
class Perception:
    """What one frame brought.

    Attributes:
        timestamp_s: Time of the frame.
        people: Everyone present.
        predictions: Those that became ready with this frame.
        changes: States entered with this frame.
    """

    timestamp_s: float
    people: tuple[Person, ...]
    predictions: tuple[Prediction, ...]
    changes: tuple[StateChange, ...]


class Perceiver:
    """One camera: follows the faces in its frames and keeps a stream for each.

        with Engine.load() as engine:
            perceiver = Perceiver(engine)
            for timestamp_s, image in camera:          # image: (H, W, 3) uint8 RGB
                for person in perceiver.process(image, timestamp_s).people:
                    print(person.name, person.state, person.prediction)

    Attributes:
        seconds: Time spent so far, by stage: "detect", "crop", "model".
    """

    def __init__(
        self,
        engine: Engine,
        *,
        detector: str | Detector = "auto",
        face_model: str | os.PathLike[str] | None = None,
        hop_s: float = 0.5,
        min_coverage: float = MIN_COVERAGE,
        hold_s: float = HOLD_S,
        forget_s: float = FORGET_S,
        prefix: str = "person",
    ) -> None:
        """
        Args:
            engine: May be shared with other perceivers, if their prefixes differ.
            detector: "auto", "yunet", "haar", "none", or your own.
            face_model: YuNet's file.
            hop_s: Seconds between the predictions of a person.
            min_coverage: See `Engine.open_stream`.
            hold_s: See `HOLD_S`.
            forget_s: See `FORGET_S`.
            prefix: People are named `<prefix>-<number>`.

        Raises:
            SourceError: the face model is missing or wrong.
        """
        self.detector = (
            open_detector(detector, face_model) if isinstance(detector, str) else detector
        )
        self.seconds = {"detect": 0.0, "crop": 0.0, "model": 0.0}
        self._engine = engine
        self._hop_s, self._min_coverage, self._hold_s = hop_s, min_coverage, hold_s
        self._prefix = prefix
        self._margin = engine.manifest.margin
        hits = 1 if self.detector.name == "none" else 3
        self._tracker = Tracker(forget_s=forget_s, min_hits=hits)
        self._gone: list[Track] = []
        self._streams: dict[int, Stream] = {}
        self._latest: dict[int, Prediction] = {}
        self._told: dict[str, State] = {}
        self._last_s: float | None = None

    def process(self, image: np.ndarray, timestamp_s: float) -> Perception:
        """Take one frame.

        Args:
            image: (H, W, 3) uint8 RGB; its size may change.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Raises:
            FrameError: wrong dtype or shape. Nothing was changed.
            TimestampError: time did not advance. Nothing was changed.
            InferenceError: the engine failed. The clips that were ready are dropped, and nobody
                has a prediction until the next one; go on with the next frame, or stop.
        """
        check_frame(image)
        check_advance(timestamp_s, self._last_s, "make a new Perceiver")
        self._last_s = timestamp_s
        with self._timed("detect"):
            tracks, gone = self._tracker.update(self.detector.detect(image), timestamp_s)
            self._gone += gone
        with self._timed("crop"):
            for track in tracks:
                stream = self._streams.get(track.number)
                if stream is None:
                    stream = self._streams[track.number] = self._engine.open_stream(
                        f"{self._prefix}-{track.number}",
                        hop_s=self._hop_s,
                        min_coverage=self._min_coverage,
                    )
                if track.visible:
                    face = crop_face(image, track.box, self._margin, self._engine.spec.clip.size)
                    stream.add(face, timestamp_s)
                elif timestamp_s - track.seen_s > self._hold_s:
                    stream.mark_stale()
        with self._timed("model"):
            try:
                predictions = self._engine.step(self._streams.values())
            except InferenceError:
                self._latest.clear()  # older ones would pass for this frame's
                raise
        numbers = {stream.name: number for number, stream in self._streams.items()}
        for prediction in predictions:
            self._latest[numbers[prediction.stream]] = prediction
        people = tuple(
            Person(
                name=stream.name,
                box=track.box,
                visible=track.visible,
                state=stream.state,
                prediction=self._latest.get(track.number) if stream.state == "valid" else None,
            )
            for track in tracks
            for stream in (self._streams[track.number],)
        )
        changes = self._changes(timestamp_s)
        gone, self._gone = self._gone, []
        for track in gone:
            changes += self._end(track.number, timestamp_s)
        return Perception(timestamp_s, people, tuple(predictions), tuple(changes))

    def missing(self, timestamp_s: float) -> list[StateChange]:
        """Say that the camera gives no frames: every stream becomes stale, and people not seen for
        `forget_s` have left. May be called again and again while that lasts.

        Args:
            timestamp_s: Until when none came; later than the last frame.
        """
        _, gone = self._tracker.update([], timestamp_s)
        for stream in self._streams.values():
            stream.mark_stale()
        changes = self._changes(timestamp_s)
        for track in gone:
            changes += self._end(track.number, timestamp_s)
        return changes

    def reset(self) -> None:
        """Forget what was seen before a gap, so that no clip spans it. People found again where
        they were within `forget_s` keep their names. Time still has to advance."""
        for stream in self._streams.values():
            stream.reset()

    def finish(self) -> list[StateChange]:
        """End all streams, as at the end of a video. The perceiver can go on with new people."""
        time_s = 0.0 if self._last_s is None else self._last_s
        return [change for number in list(self._streams) for change in self._end(number, time_s)]

    def _changes(self, timestamp_s: float) -> list[StateChange]:
        changes = []
        for stream in self._streams.values():
            if self._told.get(stream.name) != stream.state:
                self._told[stream.name] = stream.state
                changes.append(StateChange(stream.name, stream.state, timestamp_s))
        return changes

    def _end(self, number: int, timestamp_s: float) -> list[StateChange]:
        stream = self._streams.pop(number)
        self._latest.pop(number, None)
        self._told.pop(stream.name, None)
        stream.close()
        return [StateChange(stream.name, "ended", timestamp_s)]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start
