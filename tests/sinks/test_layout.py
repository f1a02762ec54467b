"""Where the tags and panels of an overlay go."""

from __future__ import annotations

import itertools
import random

import pytest

from svfap_edge.sinks.layout import SMALLEST, Area, place_line, place_panel, place_tag

FRAME = (1280, 720)
TAG, PANEL = (300, 40), (285, 234)


def placed(boxes: list[Area]) -> tuple[list[Area], list[Area]]:
    """Tags and panels, placed as the overlay does."""
    tags: dict[Area, Area] = {}
    panels: list[Area] = []
    for box in boxes:
        others = [b for b in boxes if b is not box]
        found = place_tag(box, TAG, [*others, *tags.values()], FRAME)
        if found is not None:
            tags[box] = found[0]
    for box in boxes:
        others = [b for b in boxes if b is not box]
        rest = [tag for owner, tag in tags.items() if owner is not box]
        found = place_panel(
            box, tags.get(box), PANEL, [*others, *rest, *panels], FRAME,
            space=8, alone=len(boxes) == 1,
        )  # fmt: skip
        panels += [] if found is None else [found[0]]
    return list(tags.values()), panels


def crowd(chance: random.Random, people: int) -> list[Area]:
    """Faces of any size at any place, none over another, the largest first."""
    boxes: list[Area] = []
    while len(boxes) < people:
        side = chance.randrange(40, 240)
        x, y = chance.randrange(FRAME[0] - side), chance.randrange(FRAME[1] - side)
        box = Area(x, y, side, side)
        if not any(box.meets(other) for other in boxes):
            boxes.append(box)
    return sorted(boxes, key=lambda box: -box.width)


@pytest.mark.parametrize("people", [1, 2, 5, 12])
def test_nothing_covers_a_face_or_another(people: int) -> None:
    chance = random.Random(people)
    all_tags = all_panels = 0
    for _ in range(100):
        boxes = crowd(chance, people)
        tags, panels = placed(boxes)
        all_tags, all_panels = all_tags + len(tags), all_panels + len(panels)
        for one, other in itertools.combinations([*tags, *panels], 2):
            assert not one.meets(other)
        for panel, box in itertools.product(panels, boxes):
            assert not panel.meets(box)
        for tag in tags:
            assert sum(tag.meets(box) for box in boxes) <= 1  # its own, as a last resort
        assert all(area.inside(*FRAME) for area in (*tags, *panels))
    shares = {1: (1.0, 1.0), 2: (1.0, 1.0), 5: (0.99, 0.95), 12: (0.95, 0.45)}[people]
    assert all_tags >= shares[0] * 100 * people
    assert all_panels >= shares[1] * 100 * people


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_faces_in_rows(columns: int, rows: int) -> None:
    width, height = FRAME[0] // columns, FRAME[1] // rows
    boxes = [
        Area(x * width + width // 4, y * height + height // 5, width // 2, height * 3 // 5)
        for x, y in itertools.product(range(columns), range(rows))
    ]
    tags, panels = placed(boxes)
    assert len(tags) == len(boxes)
    # The gap between two columns holds one panel at most.
    assert len(panels) == {1: 1, 2: 2, 6: 4, 12: 0}[len(boxes)]


def test_no_room_beside_a_face() -> None:
    boxes = [Area(0, 0, 640, 720), Area(640, 0, 640, 720)]
    tags, panels = placed(boxes)
    assert panels == []
    assert len(tags) == 2 and all(tag.inside(*FRAME) for tag in tags)  # inside their boxes
    assert len(placed([Area(100, 0, 1180, 720)])[1]) == 1  # alone, it may be covered in part


def test_a_panel_goes_beyond_the_tag() -> None:
    box, tag = Area(0, 300, 1280, 100), Area(0, 270, 1280, 30)
    found = place_panel(box, tag, PANEL, [Area(0, 400, 1280, 320)], FRAME, space=8, alone=False)
    assert found == (Area(0, 28, 285, 234), 1.0)


def test_the_clock_is_where_no_face_is() -> None:
    assert place_line((500, 50), [], FRAME) == Area(0, 670, 500, 50)
    boxes = [Area(100, 600, 100, 100), Area(1100, 600, 100, 100)]
    assert place_line((500, 50), boxes, FRAME) == Area(0, 0, 500, 50)
    everywhere = [Area(0, 0, 1280, 720)]
    assert place_line((500, 50), everywhere, FRAME) == Area(0, 670, 500, 50)


def test_a_tag_that_would_be_too_small_is_left_out() -> None:
    around = [Area(0, 0, 1280, 340), Area(0, 380, 1280, 340), Area(0, 340, 600, 40)]
    around.append(Area(640, 340, 640, 40))
    small = Area(600, 340, 40, 40)
    assert 40 / TAG[0] < SMALLEST
    assert place_tag(small, TAG, around, FRAME) is None
    found = place_tag(small, (80, 20), around, FRAME)
    assert found is not None and found[0].width == 40
