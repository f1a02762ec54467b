"""Sources that do not wait: cameras, URLs, and frames that an application has already.

Capture is never held up: a thread reads the camera, only its newest frame waits, and the frames
that it replaces are counted. Times are those of the capture: `time.monotonic` at the moment a
camera's frame was grabbed, or the application's own. `Frame.timestamp_s` counts from the first
frame, whose time on that clock is `origin_s`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from svfap_edge.clip import check_advance, check_frame
from svfap_edge.errors import FrameError, SourceError, SvfapError, TimestampError

from .addresses import Target, find_target
from .capture import Capture, OpenCvCapture, check_available
from .frames import Frame, Gap, Source, SourceCounts
from .passwords import without_passwords
from .reader import LiveSettings, Reader
from .slot import Slot

__all__ = ["Camera", "Capture", "LiveSettings", "LiveSource", "PulledFrames", "PushSource"]

_POLL_S = 0.1


class LiveSource(Source):
    """What all live sources share. One thread iterates; any thread may stop or close.

    Attributes:
        monotonic: True where `origin_s` is a time of `time.monotonic`, False where it is one of the
            application's clock.
        settings: Timeouts and patience.
    """

    monotonic = False

    def __init__(
        self, name: str, settings: LiveSettings, *, counting: bool = True, withholding: bool = True
    ) -> None:
        super().__init__(name, None, None)
        self.live = True
        self.settings = settings
        self._slot = Slot(
            self._warn, settings.missing_s, counting=counting, withholding=withholding
        )
        self._stopped = False
        self._held_up = False  # True where the source waits for whoever takes: silence is no gap

    @property
    def counts(self) -> SourceCounts:
        """What became of the frames so far."""
        return self._slot.counts

    @property
    def origin_s(self) -> float | None:
        """Time of the first frame in seconds of the capture clock; None before that frame."""
        return self._slot.origin_s

    def __iter__(self) -> Iterator[Frame]:
        return (item for item in self.items() if isinstance(item, Frame))

    def items(self) -> Iterator[Frame | Gap]:
        """The frames; and while none come, a `Gap` every `LiveSettings.missing_s`.

        Raises:
            SourceError: the source was lost for good.
        """
        self._slot.start()
        while not self._stopped:
            frame = self._slot.take(_POLL_S)
            if frame is not None:
                yield frame
            elif self._slot.drained:
                if self._slot.error is not None:
                    raise self._slot.error
                return
            elif not self._held_up:
                gap = self._slot.gap()
                if gap is not None:
                    yield gap

    def stop(self) -> None:
        """Ask the iteration to end. Any thread or signal handler may."""
        self._stopped = True

    def close(self) -> None:
        """Take no more frames. It may be called again."""
        self._stopped = True
        self._slot.close()


class Camera(LiveSource):
    """A camera, URL or GStreamer pipeline, opened again when it is lost.

    Frames that come before the iteration starts are read and forgotten, so that the first is new.
    """

    monotonic = True

    def __init__(
        self,
        target: Target | str,
        settings: LiveSettings | None = None,
        *,
        opening: Callable[[], Capture] | None = None,
    ) -> None:
        """
        Args:
            target: What to open; see `open_source`. With `opening`, only a name.
            settings: Timeouts and patience; None for the defaults.
            opening: Opens a camera that OpenCV does not know, and opens it again after a loss. It
                is called in a thread of its own.

        Raises:
            SourceError: the camera cannot be opened, or gives no frame.
            DependencyMissing: this OpenCV lacks what the camera needs.
        """
        settings = settings or LiveSettings()
        name = without_passwords(target) if isinstance(target, str) else target.name
        if opening is None:
            opening = _opening(target, settings)
        super().__init__(name, settings, counting=False)
        self._reader = Reader(name, opening, self._slot, settings, self._warn)
        self._reader.start()
        self.fps = self._reader.fps

    def close(self) -> None:
        """Close the camera; a read that hangs is waited for a second at most."""
        super().close()
        self._reader.close()


def _opening(target: Target | str, settings: LiveSettings) -> Callable[[], Capture]:
    found = find_target(target) if isinstance(target, str) else target
    if found is None:
        raise SourceError(f"'{target}' is no camera, URL or GStreamer pipeline.")
    check_available(found)
    return partial(OpenCvCapture, found, settings.connect_timeout_s, settings.read_timeout_s)


class PushSource(LiveSource):
    """Frames that the application pushes: from ROS, GenICam, Picamera, or anything else.

        with PushSource("front") as camera:     # the application calls camera.push(image, time_s)
            for frame in camera:
                perceiver.process(frame.image, frame.timestamp_s)

    `push` may be called from any thread and returns at once. The application gives each frame its
    time of capture, in seconds of a clock of its own, increasing.
    """

    def __init__(
        self, name: str = "push", settings: LiveSettings | None = None, *, withholding: bool = True
    ) -> None:
        """
        Args:
            name: For messages and results.
            settings: Only `missing_s` matters here; None for the defaults.
            withholding: Whether frames that are black or repeat the one before are left out.
        """
        super().__init__(name, settings or LiveSettings(), withholding=withholding)
        self._push_lock = threading.Lock()
        self._last_s: float | None = None
        self._shift_s = 0.0
        self._restarting = False

    def push(self, image: np.ndarray, timestamp_s: float) -> bool:
        """Leave the newest frame.

        Args:
            image: (H, W, 3) uint8 RGB; copied, so the buffer may be used again.
            timestamp_s: Capture time in seconds; must exceed the previous one.

        Returns:
            Whether the frame was taken. It is not after `close` or `end`, nor if its time did not
            advance: `warnings` says so once, and `counts.refused` how often. The source goes on
            with the first frame later than the last good one or, if the clock was set back for
            good, after `restart_clock`.

        Raises:
            FrameError: wrong dtype or shape. Only `counts.refused` changed.
            TimestampError: the time is no finite number. Only `counts.refused` changed.
        """
        with self._push_lock:
            if self._slot.finished:
                return False
            try:
                check_frame(image)
                check_advance(timestamp_s, None, "")
            except SvfapError:
                self._slot.note(refused=1)
                raise
            last_s = self._last_s
            if last_s is not None and self._restarting:
                self._shift_s += last_s - timestamp_s + _RESTART_STEP_S
                self._slot.note(gap=True)
            elif last_s is not None and timestamp_s <= last_s:
                self._slot.note(refused=1)
                self._warn(_BEHIND)
                return False
            elif last_s is not None and timestamp_s - last_s > self.settings.missing_s:
                self._slot.note(gap=True)
            self._restarting, self._last_s = False, timestamp_s
            self._slot.put(np.array(image), timestamp_s + self._shift_s)
            return True

    def restart_clock(self) -> None:
        """Take the next frame whatever its time, because the application's clock was set.

        That frame counts as 1 ms later than the last one, and as the first after a gap. Before the
        first frame this does nothing.
        """
        with self._push_lock:
            self._restarting = True

    def end(self) -> None:
        """Say that no more frames come: the iteration ends after the one that waits."""
        self._slot.end()


_RESTART_STEP_S = 0.001
"""Seconds by which the next frame follows the last one after `restart_clock`."""

_BEHIND = (
    "Some frames are not later than the one before; they are left out. Pass the capture time; "
    "after a jump of the clock, call restart_clock()."
)
_UNUSABLE = (
    "Some frames are not (H, W, 3) uint8 RGB images with a finite time; they are left out. Convert "
    "grey or RGBA images with cv2.cvtColor first."
)


class PulledFrames(PushSource):
    """Frames from an iterable of (image, timestamp_s), read in a thread of its own.

    Only the newest frame waits, as from a camera. With `keep_all` the iterable is held up instead:
    no frame is lost, none is withheld, and gaps are those of the frames' own times. That is right
    for recorded frames, which then give the same results however long they take.

    A frame that `push` refuses is left out, with one warning for each kind of mistake. If no frame
    at all was good, the iteration ends with the error of the first.
    """

    def __init__(
        self,
        frames: Iterable[tuple[np.ndarray, float]],
        name: str = "frames",
        settings: LiveSettings | None = None,
        *,
        keep_all: bool = False,
    ) -> None:
        """
        Args:
            frames: Pairs of an image, (H, W, 3) uint8 RGB, and its capture time in seconds.
            name: For messages and results.
            settings: Only `missing_s` matters here; None for the defaults.
            keep_all: Hold the iterable up rather than drop frames.
        """
        super().__init__(name, settings, withholding=not keep_all)
        self.live = not keep_all  # a run then takes the frames one by one, as those of a file
        self._frames = frames
        self._held_up = keep_all
        self._thread = threading.Thread(target=self._pull, name="svfap-frames", daemon=True)
        self._started = False

    def items(self) -> Iterator[Frame | Gap]:
        """See `LiveSource.items`. The first call starts reading the iterable."""
        if not self._started:
            self._started = True
            self._thread.start()
        return super().items()

    def close(self) -> None:
        """Take no more frames. An iterable that waits for its next frame is left waiting."""
        super().close()
        if self._thread.is_alive():
            self._thread.join(_POLL_S)

    def _pull(self) -> None:
        refused: SvfapError | None = None
        try:
            for image, timestamp_s in self._frames:
                if self._slot.finished:
                    break
                try:
                    self.push(image, timestamp_s)
                except (FrameError, TimestampError) as error:
                    refused = refused or error
                    self._warn(_UNUSABLE)
                while self._held_up and not self._slot.wait_taken(_POLL_S):
                    pass
            self._slot.end(refused if self._last_s is None else None)
        except SvfapError as error:
            self._slot.end(error)
        except Exception as error:
            text = f"The frames of '{self.name}' ended: {type(error).__name__}: {error}"
            self._slot.end(SourceError(text))
        finally:
            close = getattr(self._frames, "close", None)
            if close is not None:
                close()
