"""When clips are due, and times that are no seconds."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.clip import ClipSpec, FrameBuffer, SlotGrid
from svfap_edge.schedule import ClipSchedule, TimeUnitCheck

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


def due_times(grid: SlotGrid, times: list[float], hop_s: float) -> list[float]:
    """The times of the frames at which clips of a stream are due."""
    buffer, schedule = FrameBuffer(CLIP, grid), ClipSchedule(CLIP, hop_s)
    face = np.zeros((8, 8, 3), np.uint8)
    return [
        round(time_s, 3)
        for time_s in times
        if buffer.add(face, time_s) and schedule.due(buffer) is not None
    ]


def test_schedules_on_one_grid_share_their_hops() -> None:
    """Whenever they begin; each by the frames of its own."""
    grid = SlotGrid(CLIP.spacing_s)
    ends = [
        due_times(grid, [start + n / 100 for n in range(300)], 0.6) for start in (0.0, 0.37)
    ]  # fmt: skip
    assert ends[0] == [0.3, 1.1, 1.7, 2.3, 2.9]
    assert ends[1] == [0.6, 1.1, 1.7, 2.3, 2.9]


@pytest.mark.parametrize(
    ("asked_s", "is_s"), [(0.001, 0.2), (0.29, 0.2), (0.31, 0.4), (0.5, 0.4), (0.6, 0.6), (9, 9)]
)
def test_a_hop_is_the_nearest_whole_number_of_tubelets(asked_s: float, is_s: float) -> None:
    assert ClipSchedule(CLIP, asked_s).hop_s == pytest.approx(is_s)


def test_clips_end_with_a_tubelet_also_where_only_the_other_slots_are_filled() -> None:
    grid = SlotGrid(CLIP.spacing_s)
    grid.number(0.0)
    times = [0.2 * n for n in range(10)]
    buffer, schedule = FrameBuffer(CLIP, grid), ClipSchedule(CLIP, 0.2)
    ends = []
    for time_s in times:
        assert buffer.add(np.zeros((8, 8, 3), np.uint8), time_s)
        ends.append(schedule.due(buffer))
    assert [end for end in ends if end is not None] == [6, 9, 11, 13, 15, 17]


def test_a_frame_fills_the_slot_before_it_and_the_first_one_counts() -> None:
    grid = SlotGrid(0.1)
    buffer = FrameBuffer(CLIP, grid)
    times = [10.0, 10.04, 10.0996, 10.13, 10.19, 10.45, 10.4999]
    kept = [buffer.add(np.zeros((8, 8, 3), np.uint8), time_s) for time_s in times]
    assert kept == [True, False, True, False, False, True, True]
    assert [grid.number(time_s) for time_s in times] == [0, 0, 1, 1, 1, 4, 5]
    assert grid.number(9.99) == -1


@pytest.mark.parametrize("fps", [12, 25, 29.97, 30, 59.94, 240])
def test_every_slot_of_a_camera_fast_enough_is_filled(fps: float) -> None:
    buffer = FrameBuffer(CLIP, SlotGrid(CLIP.spacing_s))
    for n in range(int(20 * fps)):
        buffer.add(np.zeros((8, 8, 3), np.uint8), n / fps)
        if buffer.slot is not None and buffer.slot >= 7:
            assert buffer.coverage(buffer.slot) == 1
