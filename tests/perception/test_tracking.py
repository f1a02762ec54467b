"""Following faces: constructed box tracks that cross, hide, jitter and come in crowds."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from svfap_edge.perception.assignment import assign
from svfap_edge.perception.detectors import Box
from svfap_edge.perception.tracking import Tracker


def at(x: float, y: float = 100, side: float = 50) -> Box:
    return Box(x - side / 2, y - side / 2, side, side)


def numbers(tracker: Tracker, boxes: list[Box], time_s: float) -> dict[int, float]:
    people, _ = tracker.update(boxes, time_s)
    return {t.number: t.box.center[0] for t in people if t.visible}


def test_identity_needs_three_detections() -> None:
    tracker = Tracker()
    assert numbers(tracker, [at(100)], 0.0) == {}
    assert numbers(tracker, [at(101)], 0.1) == {}
    assert list(numbers(tracker, [at(102)], 0.2)) == [1]


def test_single_false_detections_are_nobody() -> None:
    tracker = Tracker()
    for i in range(30):
        assert numbers(tracker, [at(500)] if i % 3 == 0 else [], i * 0.1) == {}
    assert list(numbers(tracker, [at(100)], 4.0)) == []


def test_identity_survives_a_short_loss_and_is_never_reused() -> None:
    tracker = Tracker(forget_s=1.0)
    for i in range(5):
        numbers(tracker, [at(100)], i * 0.1)
    people, gone = tracker.update([], 0.9)
    assert [(t.number, t.visible) for t in people] == [(1, False)]
    assert list(numbers(tracker, [at(110)], 1.2)) == [1]
    _, gone = tracker.update([], 2.5)
    assert [t.number for t in gone] == [1]
    for i in range(5):
        last = numbers(tracker, [at(100)], 3 + i * 0.1)
    assert list(last) == [2]


def test_fast_motion_keeps_the_identity() -> None:
    tracker = Tracker()
    for i in range(20):
        found = numbers(tracker, [at(50 + 35 * i)], i / 10)  # 0.7 box sides a frame
    assert list(found) == [1]


def test_two_people_side_by_side_do_not_swap() -> None:
    tracker = Tracker()
    random = np.random.default_rng(0)
    for i in range(100):
        boxes = [at(100 + 5 * random.normal()), at(170 + 5 * random.normal())]
        random.shuffle(boxes)  # type: ignore[arg-type]
        found = numbers(tracker, boxes, i / 30)
    assert found[1] < 135 < found[2] or found[2] < 135 < found[1]
    assert set(found) == {1, 2}


def test_one_leaves_the_other_keeps_the_number() -> None:
    tracker = Tracker(forget_s=0.5)
    for i in range(10):
        numbers(tracker, [at(100), at(300)], i / 10)
    before = numbers(tracker, [at(100), at(300)], 1.0)
    right = max(before, key=lambda n: before[n])
    for i in range(20):
        found = numbers(tracker, [at(300)], 1.1 + i / 10)
    assert list(found) == [right]


def test_a_jump_of_half_the_frame_is_someone_else() -> None:
    tracker = Tracker()
    for i in range(10):
        numbers(tracker, [at(100)], i / 10)
    for i in range(10):
        found = numbers(tracker, [at(500)], 1 + i / 10)
    assert list(found) == [2]


def test_assignment_is_the_cheapest(random: np.random.Generator) -> None:
    for _ in range(60):
        rows, columns = random.integers(1, 5, 2)
        costs = random.uniform(0, 10, (rows, columns))
        costs[random.uniform(size=costs.shape) < 0.3] = np.inf
        unmatched = float(random.uniform(1, 12))
        total = sum(costs[pair] for pair in assign(costs, unmatched))
        total += (rows - len(assign(costs, unmatched))) * unmatched
        padded = np.full((rows, columns + rows), unmatched)
        padded[:, :columns] = np.minimum(costs, 1e6)
        best = min(
            padded[range(rows), list(choice)].sum()
            for choice in permutations(range(columns + rows), int(rows))
        )
        assert total == pytest.approx(best)


def test_assignment_of_nothing() -> None:
    assert assign(np.zeros((0, 3)), 1.0) == assign(np.zeros((3, 0)), 1.0) == []
    assert assign(np.full((2, 2), np.inf), 1.0) == []


def crossing(speed: float, side: float = 50) -> list[tuple[float, Box, Box]]:
    """Two faces that pass each other, in sides per second; the one going right is larger by 4 %."""
    times = np.arange(0, 400 / (speed * side), 1 / 30)
    step = speed * side
    return [(float(t), at(50 + step * t, 100, 1.04 * side), at(450 - step * t, 104)) for t in times]


@pytest.mark.parametrize("speed", [0.5, 1, 2, 4, 8])
def test_two_people_who_cross_do_not_swap(speed: float, random: np.random.Generator) -> None:
    tracker = Tracker()
    frames = crossing(speed)
    for time_s, right, left in frames:
        boxes = [jittered(right, 0.03, random), jittered(left, 0.03, random)]
        random.shuffle(boxes)  # type: ignore[arg-type]
        found = numbers(tracker, boxes, time_s)
        if time_s == frames[len(frames) // 4][0]:
            before = dict(found)
    assert len(before) == len(found) == 2
    assert max(before, key=before.__getitem__) == min(found, key=found.__getitem__)


@pytest.mark.parametrize("speed", [1.5, 3, 6])
def test_nor_where_one_hides_the_other(speed: float, random: np.random.Generator) -> None:
    """While the boxes overlap by half a face only one is detected, and never given to the other."""
    tracker = Tracker()
    wrong = 0
    for time_s, right, left in crossing(speed):
        hidden = abs(right.center[0] - left.center[0]) < 25
        boxes = [jittered(right, 0.02, random)]
        boxes += [] if hidden else [jittered(left, 0.02, random)]
        people, _ = tracker.update(boxes, time_s)
        found = {t.number: t.box.center[0] for t in people if t.visible}
        if time_s < 0.2:
            start = dict(found)
        elif hidden:  # the hidden one has no crops; a crop of the wrong face would be near this
            wrong += max(start, key=start.__getitem__) in found
    assert max(start, key=start.__getitem__) == min(found, key=found.__getitem__)
    assert set(found) == set(start)
    assert wrong <= 1


def jittered(box: Box, share: float, random: np.random.Generator) -> Box:
    dx, dy, ds = random.normal(0, share, 3) * box.side
    return Box(box.x + dx, box.y + dy, box.width + ds, box.height + ds, box.score)


def test_thirty_faces_with_jitter_and_missed_detections(random: np.random.Generator) -> None:
    tracker = Tracker()
    centers = {k: (60 + 110 * (k % 6), 60 + 110 * (k // 6)) for k in range(30)}
    owner: dict[int, int] = {}
    for i in range(150):
        boxes = [
            jittered(at(x + 20 * np.sin(i / 15 + k), y, 60), 0.04, random)
            for k, (x, y) in centers.items()
            if i < 5 or random.uniform() > 0.15
        ]
        random.shuffle(boxes)  # type: ignore[arg-type]
        people, gone = tracker.update(boxes, i / 30)
        assert gone == []
        for track in people:
            x, y = track.box.center
            here = min(centers, key=lambda k: abs(centers[k][0] - x) + abs(centers[k][1] - y))
            assert owner.setdefault(track.number, here) == here
    assert sorted(owner) == list(range(1, 31))


def test_faces_beyond_the_most_are_ignored_and_counted() -> None:
    tracker = Tracker(max_people=4)
    for i in range(5):
        found = numbers(tracker, [at(60 + 90 * k) for k in range(10)], i / 30)
    assert list(found.values()) == pytest.approx([60, 150, 240, 330])
    assert tracker.ignored == 30


def test_a_walk_behind_something_keeps_the_identity() -> None:
    tracker = Tracker()
    for i in range(90):
        x = 50 + 250 * i / 30  # five sides a second
        boxes = [] if 40 <= i < 52 else [at(x)]  # hidden for 0.4 s
        found = numbers(tracker, boxes, i / 30)
    assert list(found) == [1]


def test_predicted_boxes_follow_the_motion_and_then_give_no_crops() -> None:
    tracker = Tracker()
    for i in range(30):
        numbers(tracker, [at(100 + 5 * i)], i / 30)
    for i in range(30, 36):
        (track,), _ = tracker.predict(i / 30, longest_s=0.2)
        assert track.visible == (i / 30 - 29 / 30 <= 0.2 + 1e-6)
    assert track.box.center[0] == pytest.approx(100 + 5 * 35, abs=8)
    (track,), _ = tracker.predict(1.3, longest_s=0.2)
    assert not track.visible
    assert list(numbers(tracker, [at(100 + 5 * 40)], 40 / 30)) == [1]


def test_boxes_without_an_area_are_nobody() -> None:
    tracker = Tracker(min_hits=1)
    wrong = [
        Box(5, 5, 0, 0),
        Box(5, 5, 9, 0),
        Box(0, 0, float("nan"), 9),
        Box(0, 0, float("inf"), 9),
    ]
    for time_s in (0.0, 0.1, 0.2):
        assert len(tracker.update([*wrong, at(100)], time_s)[0]) == 1
