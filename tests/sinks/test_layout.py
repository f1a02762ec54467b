"""Where the tags and panels of an overlay go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from svfap_edge.errors import DependencyMissing
from svfap_edge.sinks.fonts import find_font, measure, require_fonts, write
from svfap_edge.sinks.layout import Area, place_panel, place_tag

FRAME = (1280, 720)
TAG, PANEL = (150, 30), (230, 200)


def placed(boxes: list[Area]) -> tuple[list[Area], list[Area]]:
    """Tags and panels, placed as the overlay does."""
    tags: list[Area] = []
    panels: list[Area] = []
    for box in boxes:
        others = [b for b in boxes if b is not box]
        tags.append(place_tag(box, TAG, [*others, *tags], FRAME)[0])
    for box in boxes:
        others = [b for b in boxes if b is not box]
        found = place_panel(
            box, PANEL, [*others, *tags, *panels], FRAME, space=8, alone=len(boxes) == 1
        )
        panels += [] if found is None else [found[0]]
    return tags, panels


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_panels_cover_neither_faces_nor_each_other(columns: int, rows: int) -> None:
    width, height = FRAME[0] // columns, FRAME[1] // rows
    boxes = [
        Area(x * width + width // 4, y * height + height // 5, width // 2, height * 3 // 5)
        for x, y in itertools.product(range(columns), range(rows))
    ]
    tags, panels = placed(boxes)
    assert len(tags) == len(boxes)
    assert len(panels) >= min(2, len(boxes))
    for one, other in itertools.combinations([*boxes, *panels], 2):
        assert not one.meets(other)
    for one, other in itertools.combinations([*tags, *panels], 2):
        assert not one.meets(other)
    assert all(area.inside(*FRAME) for area in (*tags, *panels))


def test_no_room_for_a_panel() -> None:
    boxes = [Area(0, 0, 640, 720), Area(640, 0, 640, 720)]
    tags, panels = placed(boxes)
    assert panels == []
    assert all(tag.inside(*FRAME) for tag in tags)
    assert len(placed([Area(100, 0, 1180, 720)])[1]) == 1  # alone, it may be covered in part


@pytest.mark.parametrize("text", ["dégoût", "złość", "радость", "χαρά"])
def test_text_that_is_not_ascii_is_drawn(text: str) -> None:
    pytest.importorskip("PIL")
    require_fonts([text])
    canvas = np.zeros((60, 300, 3), np.uint8)
    write(canvas, text, (10, 40), 1.0, (255, 255, 255))
    width, height = measure(text, 1.0)
    assert 40 < width < 290 and 10 < height < 40
    assert canvas[:45, 10 : 10 + width].max() == 255
    assert canvas[:, 20 + width :].max() == 0
    other = np.zeros_like(canvas)
    write(other, "?" * len(text), (10, 40), 1.0, (255, 255, 255))
    assert not np.array_equal(canvas, other)


def test_a_script_without_a_font_is_named() -> None:
    pytest.importorskip("matplotlib")
    text = "\U00013000"
    if find_font(text) is not None:
        pytest.skip("this machine has a font for hieroglyphs")
    with pytest.raises(DependencyMissing, match="EGYPTIAN"):
        require_fonts(["joy", text])
