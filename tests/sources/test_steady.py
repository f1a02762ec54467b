"""Times of recorded frames: which are wrong, and which have jumped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svfap_edge.sources.steady import MOST_WRONG, NO_TIMES, WRONG_TIMES, steady

STEP = 0.04
PLAIN = [round(STEP * i, 6) for i in range(100)]


def made_steady(times: list[float | None]) -> tuple[list[float], list[int], list[str]]:
    """Times, numbers of the frames after a gap, and warnings."""
    warnings: list[str] = []
    rows = list(steady([(t, i) for i, t in enumerate(times)], STEP, warnings.append))
    assert [item for _, _, item in rows] == list(range(len(times)))
    return [t for t, _, _ in rows], [i for _, gap, i in rows if gap], warnings


def test_good_times_stay() -> None:
    uneven = [7.0, 7.02, 7.04, 7.5, 7.54, 8.9, 9.0]
    times, gaps, warnings = made_steady(uneven)
    assert times == pytest.approx([t - 7 for t in uneven])
    assert not gaps and not warnings


@pytest.mark.parametrize("shift_s", [3600.0, 1.0, -3600.0, -1.0])
@pytest.mark.parametrize("count", [1, 2, MOST_WRONG - 1])
def test_wrong_times_are_taken_from_their_neighbours(shift_s: float, count: int) -> None:
    wrong = [t + shift_s if 50 <= i < 50 + count else t for i, t in enumerate(PLAIN)]
    times, gaps, warnings = made_steady(wrong)
    assert times == pytest.approx(PLAIN)
    assert not gaps
    assert set(warnings) == {WRONG_TIMES}


@pytest.mark.parametrize("pause_s", [3600.0, 5.0])
def test_a_pause_is_a_gap(pause_s: float) -> None:
    paused = [t + pause_s if i >= 50 else t for i, t in enumerate(PLAIN)]
    times, gaps, warnings = made_steady(paused)
    assert times == pytest.approx(paused)
    assert gaps == [50]
    assert warnings == [f"The recording pauses, first after 1.96 s for {pause_s:.0f} s."]


def test_time_that_jumps_back_goes_on() -> None:
    joined = [t - 1.8 if i >= 50 else t for i, t in enumerate(PLAIN)]
    times, gaps, _ = made_steady(joined)
    assert times == pytest.approx(PLAIN)
    assert gaps == []
    times, gaps, warnings = made_steady([*PLAIN, *PLAIN])
    assert times == pytest.approx([STEP * i for i in range(200)])
    assert gaps == [100]
    assert warnings == ["Time jumps back after 3.96 s; it goes on from there."]


def test_missing_and_repeated_times() -> None:
    assert made_steady([None] * 100)[0] == pytest.approx(PLAIN)
    assert made_steady([None, None, *PLAIN[2:]])[0] == pytest.approx(PLAIN)
    holes = [None if i in (7, 8, 30) else t for i, t in enumerate(PLAIN)]
    repeated = [PLAIN[i - 1] if i in (7, 30) else t for i, t in enumerate(PLAIN)]
    for times in (holes, repeated):
        found, gaps, warnings = made_steady(times)
        assert found == pytest.approx(PLAIN)
        assert not gaps
        assert set(warnings) == {NO_TIMES}


def test_a_slow_recording_has_no_gaps() -> None:
    rows = list(steady([(3.0 * i, i) for i in range(20)], 3.0, pytest.fail))
    assert [t for t, _, _ in rows] == [3.0 * i for i in range(20)]
    assert not any(gap for _, gap, _ in rows)


@given(st.lists(st.none() | st.floats(-1e7, 1e7), max_size=60))
def test_any_times_become_increasing_ones(times: list[float | None]) -> None:
    found, _, _ = made_steady(times)
    assert not found or found[0] == 0
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
