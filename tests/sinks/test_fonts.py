"""Text in pictures that is not ASCII."""

from __future__ import annotations

import numpy as np
import pytest

from svfap_edge.errors import DependencyMissing
from svfap_edge.sinks.fonts import drawable, find_font, measure, require_fonts, write

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")

EGYPTIAN = "\U00013000"


@pytest.mark.parametrize(
    "text", ["dégoût", "złość", "радость", "χαρά", "سعيد", "喜び", "高兴", "खुशी", "기쁨"]
)
def test_text_that_is_not_ascii_is_drawn(text: str) -> None:
    if find_font(text) is None:
        pytest.skip(f"this machine has no font for '{text}'")
    require_fonts([text])
    canvas = np.zeros((60, 300, 3), np.uint8)
    write(canvas, text, (10, 40), 1.0, (255, 255, 255))
    width, height = measure(text, 1.0)
    assert 30 < width < 290 and 10 < height < 40
    assert canvas[:50, 10 : 10 + width].max() == 255
    assert canvas[:, 20 + width :].max() == 0
    other = np.zeros_like(canvas)
    write(other, "?" * len(text), (10, 40), 1.0, (255, 255, 255))
    assert not np.array_equal(canvas, other)


def test_a_script_without_a_font_is_named() -> None:
    if find_font(EGYPTIAN) is not None:
        pytest.skip("this machine has a font for hieroglyphs")
    with pytest.raises(DependencyMissing, match="EGYPTIAN"):
        require_fonts(["joy", EGYPTIAN])


def test_a_title_is_drawn_as_far_as_fonts_go() -> None:
    assert drawable("χαρά at 0.5 s\t\x07") == "χαρά at 0.5 s  "
    if find_font(EGYPTIAN) is None:
        assert drawable(f"a{EGYPTIAN}é.mp4") == "a\N{WHITE SQUARE}é.mp4"
