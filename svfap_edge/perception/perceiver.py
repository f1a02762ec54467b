"""One camera: frames in, people and what their faces express out."""

from __future__ import annotations

import os
import threading
import time

import numpy as np

from svfap_edge.errors import ConfigError, InferenceError
from svfap_edge.runtimes import Engine
from svfap_edge.schedule import HOP_S, MIN_COVERAGE

from .detectors import DETECT_SIZE, Detector, open_detector
from .results import PerceiverStatistics, Perception, StateChange
from .tracking import MAX_PEOPLE
from .view import FORGET_S, HOLD_S, PREDICT_S, View, ViewSettings


class Perceiver:
    """Follows the faces in the frames of one camera and keeps a stream for each.

        with Engine.load() as engine, Perceiver(engine) as perceiver:
            for timestamp_s, image in camera:          # image: (H, W, 3) uint8 RGB
                for person in perceiver.process(image, timestamp_s).people:
                    print(person.name, person.state, person.prediction)

    Any thread may call any method: calls are served one after the other. Frames must still come in
    the order of their times, so one thread should give them all.

    Several perceivers may share an engine. People are named `<prefix>-<number>`, and a number that
    another perceiver of the same prefix has in use is left out; give each its own prefix to see by
    the name who saw whom.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        detector: str | Detector = "auto",
        face_model: str | os.PathLike[str] | None = None,
        detect_size: int | str = DETECT_SIZE,
        hop_s: float = HOP_S,
        min_coverage: float = MIN_COVERAGE,
        hold_s: float = HOLD_S,
        forget_s: float = FORGET_S,
        detect_every: int = 1,
        predict_s: float = PREDICT_S,
        smoothing_s: float = 0.0,
        budget_s: float | None = None,
        max_people: int = MAX_PEOPLE,
        prefix: str = "person",
    ) -> None:
        """
        Args:
            engine: The loaded model. Closed by the caller.
            detector: "auto" (YuNet where its file is found, else Haar), "yunet", "haar", "none"
                (every frame is a face), or a detector of your own.
            face_model: YuNet's ONNX file; by default it is looked for, see `open_detector`.
            detect_size: Pixels of the longer side that frames are shrunk to before faces are looked
                for (320), or "auto"; see `open_detector`. A detector of your own does as it does.
            hop_s: Seconds between the predictions of a person (0.5): the whole number of tubelets
                nearest to it, see `Stream`.
            min_coverage: Share of a clip's slots, above 0 and up to 1, that must hold a captured
                frame (0.5). Below it the person is "warming" or "stale" and is not predicted.
            hold_s: Seconds without its face (0.5) after which a person's stream is "stale".
            forget_s: Seconds without its face (2.0) after which a person has left. Whoever comes
                later has a new name.
            detect_every: Look for faces in every n-th frame of those that fill a slot, and in every
                frame while a new face is not confirmed. In between, boxes move on at their speed:
                that costs nothing, needs no picture, and cannot drift onto the background as
                template or flow can.
            predict_s: Seconds (0.2) for which a box may move on without a search and still be
                cropped.
            smoothing_s: Time constant of `Prediction.smoothed` in seconds; 0 for none.
            budget_s: Seconds that `process` may take for a frame on average. To keep it, faces are
                looked for and people predicted less often; `statistics` and `warnings` say so.
            max_people: People followed at a time (32); the largest faces come first.
            prefix: First part of the people's names.

        Raises:
            ConfigError: a value is out of its range, or the engine is closed.
            SourceError: the face model is missing or wrong.
        """
        engine.check_open()
        settings = ViewSettings(
            hop_s, min_coverage, hold_s, forget_s, detect_every, predict_s, smoothing_s, budget_s,
            max_people,
        )  # fmt: skip
        finder = open_detector(detector, face_model, detect_size)
        self._engine = engine
        self._prefix = prefix
        self._view = View(engine, finder, settings, prefix)
        self._lock = threading.RLock()
        self._closed = False

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
            ConfigError: the perceiver is closed.
        """
        with self._lock:
            if self._closed:
                raise ConfigError("This perceiver is closed. Make a new one for more frames.")
            self._view.follow(image, timestamp_s, self._view.search(image, timestamp_s))
            started = time.perf_counter()
            try:
                predictions = self._engine.step(self._view.waiting())
            except InferenceError:
                self._view.people.forget_predictions()
                raise
            return self._view.conclude(predictions, time.perf_counter() - started)

    def wants(self, timestamp_s: float) -> bool:
        """Whether the picture of a frame of this time, in seconds, is looked at: it fills a slot of
        the model, or a face is not confirmed yet. Other frames need not be decoded, nor given to
        `process`, where only predictions are asked for: it moves people's boxes on with them."""
        with self._lock:
            return not self._closed and self._view.wants(timestamp_s)

    def missing(self, timestamp_s: float) -> list[StateChange]:
        """Say that the camera gives no frames: every stream becomes stale, and people not seen for
        `forget_s` have left. May be called again and again while that lasts.

        Args:
            timestamp_s: Time in seconds until which no frame came; later than the last frame.
        """
        with self._lock:
            return self._view.missing(timestamp_s)

    def reset(self) -> None:
        """Forget what was seen before a gap, so that no clip spans it. People found again where
        they were within `forget_s` keep their names. Time still has to advance."""
        with self._lock:
            self._view.people.reset()

    def restart_clock(self) -> list[StateChange]:
        """After a jump of the clock: end all streams; any time may come next. Whoever is seen then
        is a new person."""
        with self._lock:
            return self._view.restart_clock()

    def finish(self) -> list[StateChange]:
        """End all streams, as at the end of a video. The perceiver can go on with new people."""
        with self._lock:
            return self._view.finish()

    def close(self) -> None:
        """End all streams and take no more frames. Idempotent. A perceiver that is dropped without
        it frees its streams as well."""
        with self._lock:
            self._closed = True
            self._view.finish()

    @property
    def detector(self) -> Detector:
        """The face detector in use; `detector.name` says which."""
        return self._view.detector

    @property
    def statistics(self) -> PerceiverStatistics:
        """What was done so far."""
        with self._lock:
            return self._view.statistics

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time spent so far by stage, in seconds: "detect", "crop", "model"."""
        return self._view.seconds

    @property
    def warnings(self) -> list[str]:
        """What a user should know; each is said once."""
        return self._view.warnings

    def __enter__(self) -> Perceiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        now = self.statistics
        state = "closed" if self._closed else f"{now.people} people so far"
        return (
            f"<Perceiver '{self._prefix}': faces by {self.detector.name}, "
            f"every {now.hop_s:g} s, {state}>"
        )
