"""The slot in which a live source's newest frame waits, and the counts of all its frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from svfap_edge.errors import SvfapError

from .frames import Frame, Gap, SourceCounts

BLACK_LEVEL = 16
"""A picture is black if none of its 32x32 parts has a mean above this, on the scale of 0 to 255.
Sensors behind a lens cap give noise below it; the limited range of video has black at 16."""

SAMPLE_STEP = 16
"""Every 16th row and column is compared first, and the whole picture only if these agree."""


class Slot:
    """Holds the newest frame until it is taken; a newer one replaces it.

    One thread may put while another takes; `put` never waits for `take`. A frame is withheld if it
    is black, or if it repeats the one before it exactly: a working camera never does, because its
    noise differs.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        missing_s: float,
        *,
        counting: bool = True,
        withholding: bool = True,
    ) -> None:
        """
        Args:
            warn: Called with a text, perhaps again with the same, when something went wrong.
            missing_s: Seconds without a frame after which there is a gap.
            counting: Whether frames are kept and counted from now on, or only after `start`.
            withholding: Whether repeated and black frames are withheld.
        """
        self._warn = warn
        self._missing_s = missing_s
        self._counting = counting
        self._withholding = withholding
        self._changed = threading.Condition()
        self._counts = SourceCounts()
        self._entry: Frame | None = None
        self._previous: np.ndarray | None = None
        self._black = False
        self._reason = "silent"
        self._after_gap = False
        self._last_s: float | None = None
        self._news_at = time.monotonic()
        self._gaps_reported = 0  # in this time without frames
        self.origin_s: float | None = None
        self.error: SvfapError | None = None
        self.finished = False

    @property
    def drained(self) -> bool:
        """Whether no more frames come and none waits."""
        with self._changed:
            return self.finished and self._entry is None

    @property
    def counts(self) -> SourceCounts:
        """What became of the frames so far."""
        with self._changed:
            return self._counts

    def start(self) -> None:
        """Keep and count frames from now on."""
        with self._changed:
            self._counting = True
            self._news_at = time.monotonic()

    def put(self, image: np.ndarray, time_s: float) -> None:
        """Leave a frame, (H, W, 3) uint8 RGB that is never written to again, for whoever takes it.
        One that is not later than the last is dropped."""
        duplicate = self._withholding and _same(image, self._previous)
        black = self._withholding and (self._black if duplicate else _is_black(image))
        with self._changed:
            if self.finished:
                return
            before, self._previous, self._black = self._previous, image, black
            if before is not None and before.shape != image.shape:
                self._resize(before, image)
            if not self._counting:
                return
            index = self._counts.captured
            self._add(captured=1)
            if duplicate or black:
                self._withhold(black)
                return
            if self._last_s is not None and time_s <= self._last_s:
                self._add(dropped=1)
                return
            if self._entry is not None:
                self._add(dropped=1)
                self._after_gap |= self._entry.gap
            self.origin_s = time_s if self.origin_s is None else self.origin_s
            self._entry = Frame(image, time_s - self.origin_s, index, self._after_gap)
            self._after_gap = False
            self._reason, self._gaps_reported = "silent", 0
            self._last_s, self._news_at = time_s, time.monotonic()
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Frame | None:
        """Take the newest frame out; None if none came within `timeout_s` or no more will."""
        with self._changed:
            if self._entry is None and not self.finished:
                self._changed.wait(timeout_s)
            entry, self._entry = self._entry, None
            if entry is not None:
                self._add(processed=1)
                self._changed.notify_all()
            return entry

    def wait_taken(self, timeout_s: float) -> bool:
        """Wait until no frame waits here, `timeout_s` at most; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._entry is None, timeout_s)

    def gap(self) -> Gap | None:
        """A gap once frames have been missing for `missing_s`, and again after each such time."""
        with self._changed:
            silent_s = time.monotonic() - self._news_at
            number = int(silent_s / self._missing_s)
            if self._entry is not None or number <= self._gaps_reported:
                return None
            first, self._gaps_reported = self._gaps_reported == 0, number
            self._after_gap = True
            if first:
                self._add(gaps=1)
                self._warn(_GAP_TEXTS[self._reason].format(self._missing_s))
            last_s = (self._last_s or 0.0) - (self.origin_s or 0.0)
            return Gap(last_s + silent_s, self._reason, first)

    def note(self, *, lost: bool = False, gap: bool = False, **counts: int) -> None:
        """Add to the counts that `SourceCounts` names. `lost` is the reason of the gap that may
        follow; `gap` says that the next frame is the first after one."""
        with self._changed:
            self._add(**counts)
            self._after_gap |= gap
            self._reason = "lost" if lost else self._reason

    def end(self, error: SvfapError | None = None) -> None:
        """Say that no more frames come. One that waits can still be taken; then `error` is due."""
        with self._changed:
            if not self.finished:
                self.finished, self.error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop the frame that waits and take no more. It may be called again."""
        with self._changed:
            self.finished = True
            if self._entry is not None:
                self._entry = None
                self._add(dropped=1)
            self._previous = None
            self._changed.notify_all()

    def _add(self, **counts: int) -> None:
        if counts:
            new = {name: getattr(self._counts, name) + by for name, by in counts.items()}
            self._counts = replace(self._counts, **new)

    def _withhold(self, black: bool) -> None:
        self._add(dropped=1, **{"black" if black else "duplicate": 1})
        self._reason = "black" if black else "frozen"
        if not black:
            self._warn("Some frames repeat the one before them exactly; they are left out.")

    def _resize(self, before: np.ndarray, now: np.ndarray) -> None:
        self._after_gap = True
        self._add(resized=1)
        if self._counts.resized == 1:
            sizes = (f"{image.shape[1]}x{image.shape[0]}" for image in (before, now))
            self._warn("The frame size changed from {} to {}.".format(*sizes))


_GAP_TEXTS = {
    "lost": "The connection was lost for more than {:g} s.",
    "silent": "No frame came for more than {:g} s.",
    "frozen": "The picture froze: it repeated itself exactly for more than {:g} s. "
    "Nothing is predicted until it changes.",
    "black": "The picture was black for more than {:g} s. Nothing is predicted from it.",
}


def _same(image: np.ndarray, other: np.ndarray | None) -> bool:
    if other is None or image.shape != other.shape:
        return False
    step = SAMPLE_STEP
    few = np.array_equal(image[::step, ::step], other[::step, ::step])
    return few and np.array_equal(image, other)


def _is_black(image: np.ndarray) -> bool:
    step = max(1, min(image.shape[:2]) // 128)
    small = cv2.resize(image[::step, ::step], (32, 32), interpolation=cv2.INTER_AREA)
    return int(small.max()) <= BLACK_LEVEL
