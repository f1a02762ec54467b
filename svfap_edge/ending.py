"""The end of the process: daemon threads inside C++ code, and an output that takes no more.

Python before 3.14 ends such a thread as it comes back from C++ after the interpreter has begun to
go away. That unwinds through destructors which must not be left, and the whole process aborts. So
the end waits for the calls that are under way, and lets none begin.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import ContextDecorator, suppress

LONGEST_S = 30.0
"""Seconds for which the end waits at most. A call that takes longer hangs, and does not return."""

_POLL_S = 0.002


class _Native(ContextDecorator):
    """The context of a call into C++, or a decorator; those of one thread may be nested."""

    def __init__(self) -> None:
        self._depth: dict[int, int] = {}  # by thread; each one changes its own entry only
        self._ending = 0  # the thread that ends the process

    def __enter__(self) -> None:
        thread = threading.get_ident()
        depth = self._depth.get(thread, 0)
        self._depth[thread] = depth + 1
        # Only now: either the end sees this call, or this call sees the end.
        if self._ending not in (0, thread) and not depth:
            del self._depth[thread]
            while True:  # a daemon thread; it goes with the process
                time.sleep(LONGEST_S)

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        depth = self._depth.pop(thread) - 1
        if depth:
            self._depth[thread] = depth

    def end(self) -> None:
        """Let no call of another thread begin, and wait for those that have."""
        self._ending = threading.get_ident()
        until_s = time.monotonic() + LONGEST_S
        while set(self._depth) - {self._ending} and time.monotonic() < until_s:
            time.sleep(_POLL_S)

    def forget(self) -> None:
        """In a new process, which has one thread."""
        self._depth, self._ending = {}, 0


native = _Native()
"""Wraps every call of an engine, a detector or a decoder that some daemon thread may make."""

atexit.register(native.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=native.forget)


def give_up_stdout() -> None:
    """Send what waits in the buffer of standard output nowhere: it would fail again, with a second
    message, when Python exits."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
