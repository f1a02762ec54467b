"""What one camera sees: its people and their streams, between its frames and the model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from svfap_edge.clip import check_advance, check_frame
from svfap_edge.ending import native
from svfap_edge.errors import require_number
from svfap_edge.runtimes import Engine, Prediction, Stream
from svfap_edge.runtimes.stream import check_options
from svfap_edge.schedule import HOP_S, MIN_COVERAGE, TimeUnitCheck

from .budget import Budget
from .detectors import Box, Detector, crop_face
from .people import People
from .results import PerceiverStatistics, Perception, StateChange
from .search import Search
from .tracking import MAX_PEOPLE, Track, Tracker

HOLD_S = 0.5
"""A face that is not detected for this long makes its stream stale. Nothing is cropped in between:
a clip holds only frames in which the face was detected, or was since the last search at most
`PREDICT_S` ago."""

PREDICT_S = 0.2
"""Where only every n-th frame is searched, boxes move on between the searches at the speed they
had. A box that is only predicted for longer than this gives no crops. In this time a head that
turns back (20 sides/s^2, see `tracking.AGILITY`) leaves its predicted box by less than half a
side."""

FORGET_S = 2.0
"""A face that is not detected for this long has left; its name is never given again."""


@dataclass(frozen=True)
class ViewSettings:
    """How a camera's people are followed and predicted; `Perceiver` documents each value.

    Raises:
        ConfigError: a value is out of its range; the message names it.
    """

    hop_s: float = HOP_S
    min_coverage: float = MIN_COVERAGE
    hold_s: float = HOLD_S
    forget_s: float = FORGET_S
    detect_every: int = 1
    predict_s: float = PREDICT_S
    smoothing_s: float = 0.0
    budget_s: float | None = None
    max_people: int = MAX_PEOPLE

    def __post_init__(self) -> None:
        check_options(
            hop_s=self.hop_s, min_coverage=self.min_coverage, smoothing_s=self.smoothing_s
        )
        if self.budget_s is not None:
            seconds = "a positive number of seconds"
            require_number(lambda x: 0 < x < math.inf, "budget_s", seconds, self.budget_s)
        for name in ("hold_s", "forget_s", "predict_s"):
            require_number(lambda x: x >= 0, name, "0 or more seconds", getattr(self, name))
        for name in ("detect_every", "max_people"):
            require_number(
                lambda x: 1 <= x < math.inf and x % 1 == 0,
                name, "a whole number, 1 or more", getattr(self, name),
            )  # fmt: skip


SAME_SHAPE = 0.03
"""Frames whose ratio of width to height differs by no more than this share are the same view at
another size (sides of small frames are rounded to even numbers)."""


class View:
    """The people that one camera sees, and a stream for each.

    A frame is taken in two halves with the model between them, so that the clips of several views
    can share a batch: `search` and `follow` before it, `conclude` after it. A clip that nobody ran
    is replaced by the next one. A view has no lock: `Perceiver` and `Cameras` keep threads apart.

    Attributes:
        people: The people and their streams.
        settings: How they are followed and predicted.
        seconds: Wall time spent so far by stage, in seconds: "detect", "crop", "model".
        warnings: What a user should know; each is said once.
    """

    def __init__(
        self, engine: Engine, detector: Detector, settings: ViewSettings, prefix: str
    ) -> None:
        self.detector = detector
        self.seconds = {"detect": 0.0, "crop": 0.0, "model": 0.0}
        self.warnings: list[str] = []
        self.settings = settings
        self._hop_s = engine.spec.clip.whole_hop_s(settings.hop_s)
        self._budget = self._new_budget()
        self._slowed = False  # whether a warning of the budget was given
        self.people = People(
            engine,
            prefix,
            hop_s=self._hop_s,
            min_coverage=settings.min_coverage,
            smoothing_s=settings.smoothing_s,
        )
        self._margin = engine.manifest.margin
        hits = 1 if detector.name == "none" else 3
        self._tracker = Tracker(
            forget_s=settings.forget_s, min_hits=hits, max_people=settings.max_people
        )
        self._search = Search(detector)
        self._tracks: list[Track] = []
        self._gone: list[Track] = []
        self._unsearched = 0
        self._image = np.empty((0, 0, 3), np.uint8)
        self._searched_s = 0.0
        self._found: tuple[np.ndarray | None, list[Box]] = (None, [])
        # Seconds that the newest frame took to search (None if it was not), and to crop.
        self._spent: tuple[float | None, float] = (None, 0.0)
        self._frames = self._searched = self._predicted = 0
        self._slowed_s = 0.0
        self._last_s: float | None = None
        self._slots = engine.slots
        self._slot: int | None = None  # the newest one that a frame filled
        self._filled = False  # whether the newest frame did
        self._units = TimeUnitCheck(engine.spec.clip)

    def wants(self, timestamp_s: float) -> bool:
        """Whether the picture of a frame of this time is looked at: it fills a slot, or a face is
        not confirmed yet."""
        return self._tracker.unsure or self._empty_slot(timestamp_s) is not None

    def _empty_slot(self, timestamp_s: float) -> int | None:
        """Number of the slot that a frame of this time would fill; None where it fills none."""
        number = self._slots.number(timestamp_s)
        return number if self._slot is None or number > self._slot else None

    def check(self, image: np.ndarray, timestamp_s: float) -> None:
        """Raises FrameError or TimestampError if the frame cannot be taken; changes nothing."""
        check_frame(image)
        check_advance(timestamp_s, self._last_s, "call restart_clock()")

    @native
    def search(self, image: np.ndarray, timestamp_s: float) -> list[Box] | None:
        """Find the faces of the frame that `follow` takes next, after `check`; None if it is not
        searched, as no frame is that is not wanted. Changes nothing that other methods look at, so
        that these need not wait for it."""
        self.check(image, timestamp_s)
        if not self.wants(timestamp_s):
            return None
        gap = self._last_s is None or timestamp_s - self._last_s > self.settings.predict_s
        due = self._unsearched + 1 >= self._budget.detect_every
        if not (due or gap or self._tracker.unsure or image.shape != self._image.shape):
            return None
        started = time.perf_counter()
        # An image that nobody can write to is a photograph, shown on. A read-only view is none:
        # who owns the memory may fill it anew.
        kept = image.flags.owndata and not image.flags.writeable
        if image is not self._found[0] or not kept:
            found = self._search.find(image, timestamp_s, self._tracker.tracks)
            self._found = (image, found)
        self._searched_s = time.perf_counter() - started
        return self._found[1]

    @native
    def follow(self, image: np.ndarray, timestamp_s: float, boxes: list[Box] | None) -> None:
        """Take a frame and the faces that `search` found in it."""
        searched = boxes is not None
        elapsed = 0.0 if self._last_s is None else timestamp_s - self._last_s
        self._frames += 1
        self._searched += searched
        self._slowed_s += elapsed if self._budget.level else 0.0
        doubt = self._units.add(timestamp_s)
        self.warnings += [] if doubt is None else [doubt]
        (height, width), (high, wide) = self._image.shape[:2], image.shape[:2]
        # A picture of another shape is cut from the view in a way that nobody knows.
        if width not in (0, wide) and abs(wide * height / (width * high) - 1) < SAME_SHAPE:
            self._tracker.rescale(wide / width)
        self._last_s, self._image = timestamp_s, image
        slot = self._empty_slot(timestamp_s)
        fills = slot is not None
        self._slot = slot if fills else self._slot
        self._unsearched = 0 if searched else self._unsearched + fills
        started = time.perf_counter()
        if boxes is not None:
            self._tracks, gone = self._tracker.update(boxes, timestamp_s)
        else:
            self._tracks, gone = self._tracker.predict(timestamp_s, self.settings.predict_s)
        self._gone += gone
        followed = time.perf_counter()
        for track in self._tracks:
            if track.visible and fills:
                face = crop_face(image, track.box, self._margin)
                self.people.stream_of(track.number).add(face, timestamp_s)
            elif not track.visible and timestamp_s - track.seen_s > self.settings.hold_s:
                self.people.stream_of(track.number).mark_stale()
        detect_s = followed - started + (self._searched_s if searched else 0.0)
        crop_s = time.perf_counter() - followed
        self.seconds["detect"] += detect_s
        self.seconds["crop"] += crop_s
        self._spent = (detect_s if searched else None, crop_s)
        self._filled = fills

    def waiting(self) -> list[Stream]:
        """Streams with a clip that is ready; the one whose last prediction is oldest comes first.
        With a budget, only as many as it leaves time for in one frame."""
        return self.people.waiting()[: self._budget.clips_at_once()]

    def conclude(self, predictions: list[Prediction], model_s: float = 0.0) -> Perception:
        """What the newest frame brought. Predictions of people who left or were lost while the
        model ran, for `model_s` seconds, are dropped."""
        timestamp_s = self._last_s or 0.0
        self.seconds["model"] += model_s
        gone, self._gone = self._gone, []
        ended = self.people.end((track.number for track in gone), timestamp_s)
        kept = self.people.take(predictions)
        self._predicted += len(kept)
        people = self.people.shown(self._tracks)
        changes = (*self.people.changes(timestamp_s), *ended)
        self._keep_budget(len(predictions), model_s, timestamp_s)
        return Perception(timestamp_s, people, tuple(kept), changes, self._image)

    def missing(self, timestamp_s: float) -> list[StateChange]:
        """See `Perceiver.missing`."""
        check_advance(timestamp_s, None, "")
        _, gone = self._tracker.update([], timestamp_s)
        self.people.mark_stale()
        changes = self.people.changes(timestamp_s)
        return changes + self.people.end((track.number for track in gone), timestamp_s)

    def finish(self) -> list[StateChange]:
        """See `Perceiver.finish`."""
        self._tracker.drop()
        self._tracks, self._gone = [], []
        return self.people.end(self.people.numbers, self._last_s or 0.0)

    def restart_clock(self) -> list[StateChange]:
        """See `Perceiver.restart_clock`."""
        changes = self.finish()
        self._search.restart()
        self._last_s = self._slot = None
        self._budget = self._new_budget()
        self._slowed = False
        self.people.set_hop(self._hop_s)
        return changes

    @property
    def statistics(self) -> PerceiverStatistics:
        """What was done so far."""
        return PerceiverStatistics(
            frames=self._frames,
            searched=self._searched,
            searched_whole=self._search.whole,
            people=self.people.given,
            predictions=self._predicted,
            missed=self.people.missed,
            ignored=self._tracker.ignored,
            level=self._budget.level,
            detect_every=self._budget.detect_every,
            hop_s=self._hop_s * self._budget.hop_factor,
            slowed_s=self._slowed_s,
            holds=self._budget.holds,
        )

    def _new_budget(self) -> Budget:
        settings = self.settings
        return Budget(settings.budget_s, settings.detect_every, settings.predict_s)

    def _keep_budget(self, clips: int, model_s: float, timestamp_s: float) -> None:
        detect_s, crop_s = self._spent
        changed = self._budget.take(
            timestamp_s,
            detect_s=detect_s,
            crop_s=crop_s,
            model_s=model_s,
            clips=clips,
            rate=self.people.valid / self._hop_s,
            fills=self._filled,
        )
        if not changed:
            return
        now = self.statistics
        self.people.set_hop(now.hop_s)
        budget_ms = self._budget.budget_s * 1e3
        if now.level and not self._slowed:
            self._slowed = True
            self.warnings.append(
                f"Frames take longer than the budget of {budget_ms:g} ms: faces are looked for "
                "and people predicted less often while that lasts (first at "
                f"{timestamp_s:.1f} s: every {now.detect_every} frames, every {now.hop_s:g} s)."
            )
