"""Times of recorded frames: from 0, increasing, without single ones that are wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")

GAP_S = 2.0
"""A longer step from one frame to the next is a gap, if it is ten usual ones too."""

SHORTEST_S = 1e-4
"""A shorter step is none: a time is repeated."""

MOST_WRONG = 8
"""Number of frames in a row whose times can be wrong. Where more of them agree, time has jumped."""

NO_TIMES = "Some frames have no time of their own; the frame rate spaces them."
_BACK = "Time jumps back after {:.2f} s; it goes on from there."
WRONG_TIMES = "Some frames have a wrong time; it was taken from the frames beside them."


def steady(
    entries: Iterable[tuple[float | None, _Item]], interval_s: float, warn: Callable[[str], None]
) -> Iterator[tuple[float, bool, _Item]]:
    """Give frames the times they must have had.

    A time that is missing, not after the one before, or far after it, is wrong if one of the next
    frames goes on from the frame before it; then it is taken from its neighbours. Otherwise time
    has jumped: ahead, where the recording has a pause; or back, where two recordings are joined,
    and time goes on by one interval.

    Args:
        entries: Times in seconds as the container has them, or None, with what they belong to, in
            order of display.
        interval_s: Usual step from one frame to the next.
        warn: Takes a sentence about each kind of repair.

    Yields:
        Time in seconds from the first frame, whether it comes after a gap, and the item. At most
        `MOST_WRONG` entries are read ahead, and only where time does not go on as usual.
    """
    source, ahead = iter(entries), deque[tuple[float | None, _Item]]()
    pause_s = max(GAP_S, 10 * interval_s)
    for time_s, item in islice(source, 1):
        yield 0.0, False, item
        origin_s = time_s  # time of the container at which ours is 0
    last_s, paused = 0.0, False
    while ahead or (ahead := deque(islice(source, 1))):
        time_s, item = ahead.popleft()
        if origin_s is None and time_s is not None:
            origin_s = time_s - last_s - interval_s
        step_s = 0.0 if time_s is None or origin_s is None else time_s - origin_s - last_s
        gap = False
        if not SHORTEST_S <= step_s <= 4 * interval_s:
            ahead.extend(islice(source, MOST_WRONG - len(ahead)))
            wrong, rest_s = 0, 0.0
            if origin_s is not None:
                wrong, rest_s = _wrong(ahead, origin_s + last_s, step_s, pause_s)
            gap = not wrong and abs(step_s) > pause_s
            if wrong:
                warn(NO_TIMES if abs(step_s) < SHORTEST_S else WRONG_TIMES)
                step_s = rest_s / (wrong + 1)
            elif step_s < SHORTEST_S:
                warn(_BACK.format(last_s) if gap else NO_TIMES)
                step_s = interval_s
                if time_s is not None:
                    origin_s = time_s - last_s - step_s
            elif gap and not paused:
                warn(f"The recording pauses, first after {last_s:.2f} s for {step_s:.0f} s.")
                paused = True
        last_s += step_s
        yield last_s, gap, item


def _wrong(
    ahead: Iterable[tuple[float | None, object]], last_s: float, step_s: float, pause_s: float
) -> tuple[int, float]:
    """How many frames from this one on have wrong times, and the step in seconds from the frame
    before them to the one after; (0, 0) if time goes on from here."""
    limit_s = step_s if step_s >= SHORTEST_S else pause_s
    for number, (time_s, _) in enumerate(ahead, 1):
        if time_s is not None and SHORTEST_S <= time_s - last_s < limit_s:
            return number, time_s - last_s
    return 0, 0.0
