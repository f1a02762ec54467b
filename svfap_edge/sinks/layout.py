"""Where the tags and the panels of an overlay go, so that none covers a face or another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

SHRINKS = (1.0, 0.75, 0.55)
"""Sizes of a panel that are tried, from its own."""


class Area(NamedTuple):
    """A rectangle in pixels."""

    x: int
    y: int
    width: int
    height: int

    def meets(self, other: Area) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )

    def inside(self, width: int, height: int) -> bool:
        right, bottom = self.x + self.width, self.y + self.height
        return self.x >= 0 and self.y >= 0 and right <= width and bottom <= height


def _free(area: Area, taken: Iterable[Area], frame: tuple[int, int]) -> bool:
    return area.inside(*frame) and not any(area.meets(other) for other in taken)


def place_tag(
    box: Area, size: tuple[int, int], taken: Sequence[Area], frame: tuple[int, int]
) -> tuple[Area, float]:
    """A line of text above a box, below it, or at its edges inside, and how much it has to shrink
    to be free there; where it never is, small and above the box, or inside it at the frame's edge.

    Args:
        size: Width and height of the tag.
        taken: Boxes of others and what is placed already.
        frame: Width and height of the picture.
    """
    below = box.y + box.height
    for shrink in SHRINKS:
        width, height = (round(n * shrink) for n in size)
        x = min(max(0, box.x), max(0, frame[0] - width))
        ways = [Area(x, y, width, height) for y in (box.y - height, below, box.y, below - height)]
        for way in ways:
            if _free(way, taken, frame):
                return way, shrink
    return ways[0] if ways[0].y >= 0 else ways[2], shrink


def place_panel(
    box: Area, size: tuple[int, int], taken: Sequence[Area], frame: tuple[int, int], *,
    space: int, alone: bool,
) -> tuple[Area, float] | None:  # fmt: skip
    """A panel beside a box, and how much it has to shrink; None where there is no room for it. A
    box that is alone may be covered in part, from the corner of the frame that is farther from it.

    Arguments are those of `place_tag`; `space` is left between box and panel.
    """
    for shrink in SHRINKS:
        width, height = (round(n * shrink) for n in size)
        for area in _beside(box, width, height, frame, space):
            if _free(area, (*taken, box), frame):
                return area, shrink
    if not alone:
        return None
    width, height = size
    x = 0 if box.x + box.width / 2 > frame[0] / 2 else max(0, frame[0] - width)
    bottom = max(0, frame[1] - height)
    corners = (Area(x, y, width, height) for y in (min(max(0, box.y), bottom), bottom))
    return next(((area, 1.0) for area in corners if _free(area, taken, frame)), None)


def _beside(
    box: Area, width: int, height: int, frame: tuple[int, int], space: int
) -> Iterator[Area]:
    """Places to the right and left of a box, below and above it."""
    y = min(max(0, box.y), max(0, frame[1] - height))
    for top in (y, box.y + box.height - height):
        yield Area(box.x + box.width + space, top, width, height)
        yield Area(box.x - space - width, top, width, height)
    x = min(max(0, box.x), max(0, frame[0] - width))
    yield Area(x, box.y + box.height + space, width, height)
    yield Area(x, box.y - space - height, width, height)
