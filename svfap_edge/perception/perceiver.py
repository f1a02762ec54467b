"""From frames to what each person's face expresses: detect, follow, crop, stream, predict."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np

from svfap_edge.clip import MIN_COVERAGE, check_advance, check_frame
from svfap_edge.errors import InferenceError
from svfap_edge.runtimes import Engine, Prediction, Stream

from .budget import Budget, Load
from .detectors import Box, Detector, crop_face, open_detector
from .people import People
from .results import PerceiverStatistics, Perception, Person, StateChange
from .tracking import MAX_PEOPLE, Track, Tracker

__all__ = ["Perceiver", "PerceiverStatistics", "Perception", "Person", "StateChange"]

HOLD_S = 0.5
"""A face not detected for this long makes its stream stale. Nothing is cropped in between: a clip
holds only frames in which the face was detected, or was since the last search at most `PREDICT_S`
ago."""

PREDICT_S = 0.2
"""Where only every n-th frame is searched, boxes move on between the searches at the speed they
had. A box only predicted for longer than this gives no crops. In this time a head that turns back
(20 sides/s^2, see `motion.AGILITY`) leaves its predicted box by less than half a side."""

FORGET_S = 2.0
"""A face not detected for this long has left; its identity is never given again."""


class Perceiver:
    """One camera: follows the faces in its frames and keeps a stream for each.

        with Engine.load() as engine:
            perceiver = Perceiver(engine)
            for timestamp_s, image in camera:          # image: (H, W, 3) uint8 RGB
                for person in perceiver.process(image, timestamp_s).people:
                    print(person.name, person.state, person.prediction)

    Attributes:
        seconds: Time spent so far, by stage: "detect", "crop", "model".
        warnings: What a user should know; each said once.
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
        detect_every: int = 1,
        predict_s: float = PREDICT_S,
        smoothing_s: float = 0.0,
        budget_s: float | None = None,
        max_people: int = MAX_PEOPLE,
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
            detect_every: Look for faces in every n-th frame, and in every one while a new face is
                not confirmed. In between, boxes move on at their speed: that costs nothing, needs
                no picture, and cannot drift onto the background as template or flow can.
            predict_s: See `PREDICT_S`.
            smoothing_s: Time constant of `Prediction.smoothed`; 0 for none.
            budget_s: Seconds that `process` may take for a frame on average. To keep it, faces are
                looked for and people predicted less often; `statistics` and `warnings` say so.
            max_people: Followed at a time; the largest faces come first.
            prefix: People are named `<prefix>-<number>`.

        Raises:
            SourceError: the face model is missing or wrong.
            ValueError: a bad value.
        """
        if detect_every < 1 or max_people < 1:
            raise ValueError("detect_every and max_people must be 1 or more.")
        if budget_s is not None and not budget_s > 0:
            raise ValueError(f"budget_s must be a positive number of seconds; got {budget_s}.")
        self.detector = (
            open_detector(detector, face_model) if isinstance(detector, str) else detector
        )
        self.seconds = {"detect": 0.0, "crop": 0.0, "model": 0.0}
        self.warnings: list[str] = []
        self._engine = engine
        self._hop_s, self._hold_s = hop_s, hold_s
        self._detect_every, self._predict_s = detect_every, predict_s
        self._budget = None if budget_s is None else Budget(budget_s, detect_every, predict_s)
        self._people = People(
            engine,
            prefix=prefix,
            hop_s=hop_s,
            min_coverage=min_coverage,
            smoothing_s=smoothing_s,
        )
        self._margin = engine.manifest.margin
        hits = 1 if self.detector.name == "none" else 3
        self._tracker = Tracker(forget_s=forget_s, min_hits=hits, max_people=max_people)
        self._tracks: list[Track] = []
        self._gone: list[Track] = []
        self._unsearched = 0
        self._shape: tuple[int, ...] = ()
        self._searched_s = 0.0
        self._spent = (0.0, 0.0)  # what the newest frame took to search, and to crop
        self._counts = PerceiverStatistics()
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
        self.look(image, timestamp_s)
        started = time.perf_counter()
        try:
            predictions = self._engine.step(self.waiting(), most=self.clips_at_once)
        except InferenceError:
            self.forget_predictions()
            raise
        return self.tell(predictions, time.perf_counter() - started)

    def look(self, image: np.ndarray, timestamp_s: float) -> None:
        """The first half of `process`: everything before the model; `search`, then `follow`.

        For those who run clips of several perceivers together, as `Cameras` does: `look`, then
        `Engine.step` of what is `waiting`, then `tell`. A frame may also be followed by another
        one; a clip that nobody took is replaced by the next one.

        Raises:
            FrameError, TimestampError: as `process`.
        """
        self.follow(image, timestamp_s, self.search(image, timestamp_s))

    def search(self, image: np.ndarray, timestamp_s: float) -> list[Box] | None:
        """Find the faces of a frame that `follow` takes next; None if this one is not searched.
        Changes nothing that other methods look at, so that these need not wait for it.

        Raises:
            FrameError, TimestampError: as `process`.
        """
        self.check(image, timestamp_s)
        gap = self._last_s is None or timestamp_s - self._last_s > self._predict_s
        due = self._unsearched + 1 >= self._interval
        if not (due or gap or self._tracker.unsure or image.shape != self._shape):
            return None
        started = time.perf_counter()
        boxes = self.detector.detect(image)
        self._searched_s = time.perf_counter() - started
        return boxes

    def follow(self, image: np.ndarray, timestamp_s: float, boxes: list[Box] | None) -> None:
        """Take a frame and the faces that `search` found in it."""
        searched = boxes is not None
        self._count_frame(timestamp_s, searched)
        self._last_s, self._shape = timestamp_s, image.shape
        self._unsearched = 0 if searched else self._unsearched + 1
        started = time.perf_counter()
        if boxes is not None:
            self._tracks, gone = self._tracker.update(boxes, timestamp_s)
        else:
            self._tracks, gone = self._tracker.predict(timestamp_s, self._predict_s)
        self._gone += gone
        followed = time.perf_counter()
        for track in self._tracks:
            self._crop(track, image, timestamp_s)
        detect_s = followed - started + (self._searched_s if searched else 0.0)
        crop_s = time.perf_counter() - followed
        self.seconds["detect"] += detect_s
        self.seconds["crop"] += crop_s
        self._spent = (detect_s if searched else 0.0, crop_s)

    def check(self, image: np.ndarray, timestamp_s: float) -> None:
        """Raises FrameError or TimestampError if `look` would; changes nothing."""
        check_frame(image)
        check_advance(timestamp_s, self._last_s, "call restart_clock()")

    def waiting(self) -> list[Stream]:
        """Streams with a clip that is ready; whose last prediction is the oldest first."""
        return self._people.waiting()

    @property
    def clips_at_once(self) -> int | None:
        """Clips that the budget leaves time for in one frame; None for any number."""
        return None if self._budget is None else self._budget.clips_at_once()

    def tell(self, predictions: list[Prediction], model_s: float = 0.0) -> Perception:
        """The second half of `process`: what the newest frame brought.

        Args:
            predictions: Of streams of this perceiver only. Of people who left or were lost while
                the model ran, they are dropped.
            model_s: What they took.
        """
        timestamp_s = 0.0 if self._last_s is None else self._last_s
        self.seconds["model"] += model_s
        gone, self._gone = self._gone, []
        ended = self._people.end((track.number for track in gone), timestamp_s)
        told = self._people.take(predictions)
        self._counts = replace(self._counts, predictions=self._counts.predictions + len(told))
        people = self._people.shown(self._tracks)
        changes = (*self._people.changes(timestamp_s), *ended)
        self._keep_budget(len(predictions), model_s, timestamp_s)
        return Perception(timestamp_s, people, tuple(told), changes)

    def forget_predictions(self) -> None:
        """After a failure of the engine: older predictions must not pass for the newest frame's."""
        self._people.forget_predictions()

    def missing(self, timestamp_s: float) -> list[StateChange]:
        """Say that the camera gives no frames: every stream becomes stale, and people not seen for
        `forget_s` have left. May be called again and again while that lasts.

        Args:
            timestamp_s: Until when none came; later than the last frame.
        """
        _, gone = self._tracker.update([], timestamp_s)
        self._people.mark_stale()
        changes = self._people.changes(timestamp_s)
        return changes + self._people.end((track.number for track in gone), timestamp_s)

    def reset(self) -> None:
        """Forget what was seen before a gap, so that no clip spans it. People found again where
        they were within `forget_s` keep their names. Time still has to advance."""
        self._people.reset()

    @property
    def statistics(self) -> PerceiverStatistics:
        """So far."""
        factor, level, holds = 1, 0, True
        if self._budget is not None:
            factor = self._budget.hop_factor
            level, holds = self._budget.level, self._budget.holds
        return replace(
            self._counts,
            people=self._people.given,
            missed=self._people.missed,
            ignored=self._tracker.ignored,
            level=level,
            detect_every=self._interval,
            hop_s=self._hop_s * factor,
            holds=holds,
        )

    @property
    def _interval(self) -> int:
        """Frames from search to search, now."""
        return self._detect_every if self._budget is None else self._budget.detect_every

    def finish(self) -> list[StateChange]:
        """End all streams, as at the end of a video. The perceiver can go on with new people."""
        time_s = 0.0 if self._last_s is None else self._last_s
        self._tracker.drop()
        self._tracks, self._gone = [], []
        return self._people.end(self._people.numbers, time_s)

    def restart_clock(self) -> list[StateChange]:
        """After a jump of the clock: end all streams; any time may come next. Whoever is seen then
        is a new person."""
        changes = self.finish()
        self._last_s = None
        if self._budget is not None:
            self._budget = Budget(self._budget.budget_s, self._detect_every, self._predict_s)
            self._people.set_hop(self._hop_s)
        return changes

    def _crop(self, track: Track, image: np.ndarray, timestamp_s: float) -> None:
        stream = self._people.stream_of(track.number)
        if track.visible:
            stream.add(crop_face(image, track.box, self._margin), timestamp_s)
        elif timestamp_s - track.seen_s > self._hold_s:
            stream.mark_stale()

    def _count_frame(self, timestamp_s: float, searched: bool) -> None:
        elapsed = 0.0 if self._last_s is None else timestamp_s - self._last_s
        slowed = self._budget is not None and self._budget.level > 0
        self._counts = replace(
            self._counts,
            frames=self._counts.frames + 1,
            searched=self._counts.searched + searched,
            slowed_s=self._counts.slowed_s + (elapsed if slowed else 0.0),
        )

    def _keep_budget(self, clips: int, model_s: float, timestamp_s: float) -> None:
        if self._budget is None:
            return
        wanted = self._people.valid / self._hop_s
        detect_s, crop_s = self._spent
        searched = detect_s if self._unsearched == 0 else None
        changed = self._budget.take(Load(searched, crop_s, model_s, clips, wanted), timestamp_s)
        if not changed:
            return
        now = self.statistics
        self._people.set_hop(now.hop_s)
        budget_ms = self._budget.budget_s * 1e3
        if now.level and not self.warnings:
            self.warnings.append(
                f"Frames take longer than the budget of {budget_ms:g} ms: faces are looked for "
                "and people predicted less often while that lasts (first at "
                f"{timestamp_s:.1f} s: every {now.detect_every} frames, every {now.hop_s:g} s)."
            )
