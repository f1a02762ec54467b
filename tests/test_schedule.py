"""When clips are due, and times that are no seconds."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec, FrameBuffer
from svfap_edge.schedule import ClipSchedule, HopGrid, TimeUnitCheck

CLIP = ClipSpec(8, 0.8, 8)  # a slot every 0.1 s


def messages(times: list[float]) -> list[str]:
    check = TimeUnitCheck(CLIP)
    return [message for time_s in times if (message := check.add(time_s)) is not None]


@pytest.mark.parametrize("fps", [5, 30, 240])
def test_times_in_milliseconds_are_noticed_once(fps: float) -> None:
    (message,) = messages([1000 * n / fps for n in range(50)])
    assert "milliseconds" in message
    assert f"{1000 / fps:g} s apart" in message
    assert "spans 0.8 s" in message


def test_the_warning_comes_with_the_fourth_frame() -> None:
    assert messages([0.0, 33.0, 66.0]) == []
    assert len(messages([0.0, 33.0, 66.0, 99.0])) == 1


@pytest.mark.parametrize(
    "times",
    [
        [n / 30 for n in range(300)],
        [float(n) for n in range(50)],  # one frame a second: longer than a clip, but seconds
        [t for n in range(20) for t in (10.0 * n, 10.0 * n + 0.1)],  # gaps, but not in a row
        [1e9 + n / 30 for n in range(100)],
        [0.0, 10.0, 20.0, 5.0, 15.0, 25.0],  # the clock was set back
    ],
    ids=["camera", "one a second", "gaps", "clock of the day", "set back"],
)
def test_seconds_bring_no_warning(times: list[float]) -> None:
    assert messages(times) == []


def test_schedules_on_one_grid_share_their_hops() -> None:
    """Whenever they begin; each by the frames of its own."""
    grid, ends = HopGrid(), []
    for start in (0.0, 0.37):
        buffer, schedule = FrameBuffer(CLIP), ClipSchedule(grid, hop_s=0.5)
        times = [start + n / 100 for n in range(300)]
        due = []
        for time_s in times:
            buffer.add(np.zeros((8, 8, 3), np.uint8), time_s)
            if schedule.is_due(time_s, buffer):
                due.append(round(time_s, 3))
        ends.append(due)
    assert ends[0] == [0.25, 1.0, 1.5, 2.0, 2.5]
    assert ends[1] == [0.62, 1.0, 1.5, 2.0, 2.5, 3.0]
