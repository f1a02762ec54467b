"""The colours of labels, shared by every picture."""

from __future__ import annotations

PALETTE = (
    "#8d99ae", "#f2a900", "#7a5cc9", "#d1495b", "#2e86c1", "#4a8f3c",
    "#1f5f6b", "#c77dba", "#a0522d", "#e07a3f", "#5c6b73",
)  # fmt: skip
"""Colour of each label by its place in the task; distinct in lightness as well as hue."""


def color_of(index: int) -> tuple[int, int, int]:
    """RGB of the label at `index`."""
    text = PALETTE[index % len(PALETTE)]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
