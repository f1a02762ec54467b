"""Reading a camera in threads: it is opened again when lost, and left behind when it hangs."""

from __future__ import annotations

import atexit
import math
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from svfap_edge.clip import check_frame
from svfap_edge.errors import SourceError, SvfapError, require_number

from .capture import Capture
from .slot import Slot

HUNG = 1.5
"""How many times its timeout a call may take until its thread is left behind. It is more than once,
so that FFmpeg's own timeout comes first."""

BAD_READS = 10
"""Damaged frames in a row after which the connection counts as lost."""

MAX_ABANDONED = 4
"""Threads that may hang at a time; no further connection is tried until one of them returns."""

_POLL_S = 0.1
_JOIN_S = 1.0


@dataclass(frozen=True)
class LiveSettings:
    """Timeouts and patience of a live source.

    Attributes:
        connect_timeout_s: Seconds that opening may take (10), until the first frame is asked for.
            A thread that hangs is left behind after 1.5 times this timeout.
        read_timeout_s: Seconds that reading one frame may take (5). A thread that hangs is left
            behind after 1.5 times this timeout.
        missing_s: Seconds without a new picture after which streams become stale (1).
        backoff_s: Seconds to wait before the first reconnection (0.5); the wait doubles with each
            failed attempt.
        backoff_max_s: The longest wait between two attempts in seconds (30).
        jitter: Share of a wait, 0 or more and below 1, by which it is made longer or shorter at
            random (0.3), so that many devices do not return at the same moment.
        max_attempts: Failed connections in a row after which the source ends with an error; None
            (the default) for no limit.
        wait_for_first: Whether the first connection is tried as patiently as the others. If not
            (the default), its failure is an error at once.
        first_s: With `wait_for_first`, seconds without a first frame after which the source ends
            with an error; None (the default) for no limit.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    missing_s: float = 1.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    jitter: float = 0.3
    max_attempts: int | None = None
    wait_for_first: bool = False
    first_s: float | None = None

    def __post_init__(self) -> None:
        """ConfigError if a value is out of its range."""
        seconds = "a positive number of seconds"
        for name in ("connect_timeout_s", "read_timeout_s", "missing_s", "backoff_s"):
            require_number(lambda x: 0 < x < math.inf, name, seconds, getattr(self, name))
        least = f"at least backoff_s ({self.backoff_s})"
        require_number(
            lambda x: self.backoff_s <= x < math.inf, "backoff_max_s", least, self.backoff_max_s
        )
        require_number(lambda x: 0 <= x < 1, "jitter", "at least 0 and below 1", self.jitter)
        if self.max_attempts is not None:
            require_number(
                lambda x: x >= 1, "max_attempts", "1 or more, or None", self.max_attempts
            )
        if self.first_s is not None:
            require_number(
                lambda x: 0 < x < math.inf, "first_s", f"{seconds}, or None", self.first_s
            )

    def wait_s(self, attempt: int, draw: float) -> float:
        """Seconds to wait before the next connection, after `attempt` failed ones in a row. The
        jitter comes from `draw`, a random number in 0..1."""
        doubled = self.backoff_s * 2.0 ** min(attempt, 30)
        return min(doubled, self.backoff_max_s) * (1 + self.jitter * (2 * draw - 1))


class _Connection:
    """A camera that is opened once, and the thread that reads it into the slot. `error` is why it
    ended, if it was one; `ended` is set when its thread has ended."""

    def __init__(
        self, opening: Callable[[], Capture], slot: Slot, settings: LiveSettings, first: bool
    ) -> None:
        self.fps: float | None = None
        self.frames = 0
        self.error: SvfapError | None = None
        self._first = first
        self._opening, self._slot, self._settings = opening, slot, settings
        self._progress_at = time.monotonic()
        self._connected = False
        self._left = False
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="svfap-camera", daemon=True)
        _open_connections.add(self)
        self._thread.start()

    def patience_s(self) -> float:
        """Seconds that opening, or the next frame, may still take; negative if it hangs."""
        settings = self._settings
        limit_s = settings.read_timeout_s if self._connected else settings.connect_timeout_s
        return HUNG * limit_s - (time.monotonic() - self._progress_at)

    def leave(self) -> None:
        """Take no more frames from it. Its thread ends when the call that it is in returns."""
        with self._lock:
            self._left = True

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, `timeout_s` at most."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        capture = None
        try:
            capture = self._opening()
            self.fps, self._progress_at, self._connected = capture.fps, time.monotonic(), True
            self._read(capture)
        except SvfapError as error:
            self.error = error
        except Exception as error:
            self.error = SourceError(f"The camera failed: {type(error).__name__}: {error}")
        finally:
            try:
                if capture is not None:
                    capture.close()
            except Exception:  # the camera is gone anyway; an error before this one counts
                self.error = self.error or SourceError("The camera failed while closing.")
            self.ended.set()

    def _read(self, capture: Capture) -> None:
        bad = 0
        while not self._left:
            got = capture.read()
            late_s = time.monotonic() - self._progress_at
            if got is None:
                bad += 1
                self._slot.note(failed=1)
                if bad >= BAD_READS or late_s > self._settings.read_timeout_s:
                    raise SourceError(
                        f"no good frame in {bad} reads and {late_s:.1f} s"
                        if self.frames
                        else f"it opened, but gave no frame in {bad} reads and {late_s:.1f} s"
                    )
                continue
            check_frame(got[0])
            bad = 0
            with self._lock:
                if self._left:
                    return
                if self.frames == 0 and not self._first:
                    self._slot.note(gap=True, reconnected=1)
                self._slot.put(*got)
                self.frames += 1
                self._progress_at = time.monotonic()


class Reader:
    """Keeps a slot filled from a camera, and opens the camera again when it is lost.

    Attributes:
        fps: Nominal frames a second, or None where unknown.
    """

    def __init__(
        self,
        name: str,
        opening: Callable[[], Capture],
        slot: Slot,
        settings: LiveSettings,
        warn: Callable[[str], None],
    ) -> None:
        """`opening` is called in a thread of its own, again after each loss; `warn` with the reason
        when the camera is lost for the first time."""
        self.fps: float | None = None
        self._name, self._opening, self._slot = name, opening, slot
        self._settings, self._warn = settings, warn
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._left_behind: list[_Connection] = []
        self._seen_frames = self._warned = False
        self._started_at = time.monotonic()
        self._thread = threading.Thread(target=self._supervise, name="svfap-reader", daemon=True)
        _open_readers.add(self)

    def start(self) -> None:
        """Connect. Unless `wait_for_first` is set, wait for the first frame; SourceError if that
        connection fails."""
        self._thread.start()
        if self._settings.wait_for_first:
            return
        limit_s = HUNG * (self._settings.connect_timeout_s + self._settings.read_timeout_s) + 1
        try:
            settled = self._settled.wait(limit_s)
        except BaseException:  # Ctrl-C while connecting
            self.close()
            raise
        if not settled or (self._slot.finished and not self._seen_frames):
            error = self._slot.error or SourceError(f"'{self._name}' gave no frame.")
            self.close()
            raise error

    def stop(self) -> None:
        """Open no more connections."""
        self._stopping.set()

    def close(self) -> None:
        """Stop reading, and wait for the camera to be closed, a second at most."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _supervise(self) -> None:
        failed = 0
        draw = random.Random()
        while not self._stopping.is_set():
            ended = self._connect_once()
            if self._stopping.is_set():
                return
            had_frames, reason = ended
            failed = 0 if had_frames else failed + 1
            self._slot.note(lost=True, failed=1)
            limit = self._settings.max_attempts
            if not self._seen_frames and not self._settings.wait_for_first:
                limit = 1
            late = self._left_s() <= 0
            if late or (limit is not None and failed >= limit):
                tried = f" in {failed} attempts in a row" if failed > 1 else ""
                if late:
                    tried += f"{' and' if tried else ' in'} {self._settings.first_s:g} s"
                self._slot.end(SourceError(f"'{self._name}' gave no frame{tried}: {reason}"))
                self._settled.set()
                return
            if not self._warned:
                self._warned = True
                self._warn(f"'{self._name}' is lost and will be opened again: {reason}")
            pause_s = self._settings.wait_s(failed, draw.random())
            self._stopping.wait(min(pause_s, self._left_s()))

    def _left_s(self) -> float:
        """Seconds left to wait for the first frame; endless once it came, and by default."""
        if self._seen_frames or not self._settings.wait_for_first or self._settings.first_s is None:
            return threading.TIMEOUT_MAX
        return self._started_at + self._settings.first_s - time.monotonic()

    def _connect_once(self) -> tuple[bool, str]:
        """Connect and read until that ends; return whether frames came, and why it ended."""
        self._left_behind = [c for c in self._left_behind if not c.ended.is_set()]
        if len(self._left_behind) >= MAX_ABANDONED:
            return False, f"{MAX_ABANDONED} connections hang; none is opened until one returns."
        first = not self._seen_frames
        connection = _Connection(self._opening, self._slot, self._settings, first)
        while not connection.ended.wait(_POLL_S):
            self._look(connection)
            if self._stopping.is_set():
                connection.leave()
                connection.ended.wait(_JOIN_S / 2)
                return connection.frames > 0, "closed"
            if connection.patience_s() < 0 or self._left_s() <= 0:
                connection.leave()
                self._left_behind.append(connection)
                self._slot.note(abandoned=1)
                return connection.frames > 0, "it hangs; its thread was left behind."
        self._look(connection)
        return connection.frames > 0, str(connection.error or "it ended.")

    def _look(self, connection: _Connection) -> None:
        if connection.frames:
            self._seen_frames = True
            self.fps = self.fps or connection.fps
            self._settled.set()


_open_readers: weakref.WeakSet[Reader] = weakref.WeakSet()
_open_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()


@atexit.register
def _leave_cameras() -> None:
    """Let reads come back before the interpreter ends.

    Before Python 3.14, a thread that returns from C++ after that ends the process with "terminate
    called without an active exception". A read that hangs is not waited for beyond its timeout.
    """
    for reader in list(_open_readers):
        reader.stop()
    connections = list(_open_connections)
    for connection in connections:
        connection.leave()
    for connection in connections:
        connection.join(max(0.0, connection.patience_s()))
