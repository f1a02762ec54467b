"""Where the tags and the panels of an overlay go, so that none covers a face or another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, product
from typing import NamedTuple

SHRINKS = (1.0, 0.75, 0.55)
"""Sizes of a tag or a panel that are tried, from its own."""

SMALLEST = 0.4
"""A tag inside its own box shrinks to no less than this, which can just be read."""


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

    def around(self, other: Area) -> Area:
        """The smallest rectangle that holds both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Area(x, y, right - x, bottom - y)


def place_tag(
    box: Area, size: tuple[int, int], taken: Sequence[Area], frame: tuple[int, int]
) -> tuple[Area, float] | None:
    """A line of text at a box, and how much it has to shrink to be free there: above, below or
    beside the box, else at its lower or upper edge inside. None where it is free nowhere. A line
    more than twice as wide as its box shrinks anyway, so that small faces do not get lost.

    Args:
        size: Width and height of the tag.
        taken: Boxes of others and what is placed already.
        frame: Width and height of the picture.
    """
    widest = max(SHRINKS[-1], 2 * box.width / size[0])
    for shrink in sorted({min(widest, shrink) for shrink in SHRINKS}, reverse=True):
        small = _shrunk(size, shrink)
        ways = chain(_above_and_below(box, small, frame, 0), _beside(box, small, frame, 0))
        found = _first_free(ways, (*taken, box), frame)
        if found is not None:
            return found, shrink
    shrink = min(SHRINKS[-1], box.width / size[0])
    if shrink < SMALLEST:
        return None
    width, height = _shrunk(size, shrink)
    x = min(max(0, box.x), max(0, frame[0] - width))
    inside = (Area(x, y, width, height) for y in (box.y + box.height - height, box.y))
    found = _first_free(inside, taken, frame)
    return None if found is None else (found, shrink)


def place_line(size: tuple[int, int], taken: Sequence[Area], frame: tuple[int, int]) -> Area:
    """A line of text in the corner of the frame where it covers nothing: lower left where there is
    no such corner."""
    right, bottom = frame[0] - size[0], frame[1] - size[1]
    corners = [Area(x, y, *size) for y in (bottom, 0) for x in (0, right)]
    return _first_free(corners, taken, frame) or corners[0]


def place_panel(
    box: Area, tag: Area | None, size: tuple[int, int], taken: Sequence[Area],
    frame: tuple[int, int], *, space: int, alone: bool,
) -> tuple[Area, float] | None:  # fmt: skip
    """A panel beside a box or beyond its tag, and how much it has to shrink; None where there is no
    room for it. A box that is alone may be covered in part, from the corner of the frame that is
    farther from it.

    Arguments are those of `place_tag`; `tag` is where that of this box is, if it has one, and
    `space` is left between box and panel.
    """
    taken = [*taken, *([] if tag is None else [tag])]
    cores = (box,) if tag is None else (box, box.around(tag))
    for core, shrink in product(cores, SHRINKS):
        small = _shrunk(size, shrink)
        ways = chain(
            _beside(core, small, frame, space), _above_and_below(core, small, frame, space)
        )
        found = _first_free(ways, (*taken, box), frame)
        if found is not None:
            return found, shrink
    if not alone:
        return None
    width, height = size
    x = 0 if box.x + box.width / 2 > frame[0] / 2 else max(0, frame[0] - width)
    bottom = max(0, frame[1] - height)
    corners = (Area(x, y, width, height) for y in (min(max(0, box.y), bottom), bottom))
    found = _first_free(corners, taken, frame)
    return None if found is None else (found, 1.0)


def _shrunk(size: tuple[int, int], shrink: float) -> tuple[int, int]:
    return round(size[0] * shrink), round(size[1] * shrink)


def _first_free(ways: Iterable[Area], taken: Sequence[Area], frame: tuple[int, int]) -> Area | None:
    for way in ways:
        if way.inside(*frame) and not any(way.meets(other) for other in taken):
            return way
    return None


def _beside(
    core: Area, size: tuple[int, int], frame: tuple[int, int], space: int
) -> Iterator[Area]:
    """Places to the right and the left: level with the top, the bottom, the middle."""
    width, height = size
    for y in _along(core.y, core.height, height, frame[1]):
        yield Area(core.x + core.width + space, y, width, height)
        yield Area(core.x - space - width, y, width, height)


def _above_and_below(
    core: Area, size: tuple[int, int], frame: tuple[int, int], space: int
) -> Iterator[Area]:
    """Places above and below: flush with the left edge, the right edge, in the middle."""
    width, height = size
    for x in _along(core.x, core.width, width, frame[0]):
        yield Area(x, core.y - space - height, width, height)
        yield Area(x, core.y + core.height + space, width, height)


def _along(start: int, length: int, size: int, limit: int) -> Iterator[int]:
    """Where something of a size begins along an edge: flush with its start, its end, centred; moved
    into the picture."""
    for at in (start, start + length - size, start + (length - size) // 2):
        yield min(max(0, at), max(0, limit - size))
