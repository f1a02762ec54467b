"""Text in pictures: OpenCV's strokes for ASCII, fonts that have every character for the rest."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np

from svfap_edge.errors import DependencyMissing

STROKES = cv2.FONT_HERSHEY_SIMPLEX
STROKE_HEIGHT = 30.0
"""Pixels of a font that looks as large as OpenCV's strokes at scale 1."""


def require_fonts(texts: Iterable[str]) -> None:
    """Raise DependencyMissing for a text that cannot be drawn here, and say which script it is."""
    for text in texts:
        if text.isascii():
            continue
        try:
            import matplotlib  # noqa: F401
            import PIL  # noqa: F401
        except ImportError as error:
            raise DependencyMissing(
                f"Drawing '{text}' needs Pillow and matplotlib: pip install "
                '"svfap-edge[report]". Labels in ASCII need neither.'
            ) from error
        if find_font(text) is None:
            scripts = {unicodedata.name(c, "UNKNOWN").split()[0] for c in text if not c.isascii()}
            raise DependencyMissing(
                f"No font here has all characters of '{text}' ({', '.join(sorted(scripts))}). "
                "Install one, such as the Debian packages fonts-noto and fonts-noto-cjk."
            )


def drawable(text: str) -> str:
    """A text with a square for every character that no font here has, and spaces for those that
    are not to be seen: for titles, whose words are not worth ending a run for."""
    seen = "".join(c if c.isprintable() else " " for c in text)
    return "".join(
        c if c.isascii() or find_font(c) is not None else "\N{WHITE SQUARE}" for c in seen
    )


def find_font(text: str) -> str | None:
    """The file of a font that has all characters of a text: matplotlib's own, else one of the
    system's; None if there is none."""
    return _find_font(frozenset(ord(c) for c in text if not c.isascii() and not c.isspace()))


def families(texts: Iterable[str]) -> list[str]:
    """Names of fonts for matplotlib that together have all characters of some texts."""
    from matplotlib import font_manager

    found = ["DejaVu Sans"]
    for path in {find_font(text) for text in texts if not text.isascii()} - {None}:
        font_manager.fontManager.addfont(str(path))
        found.append(font_manager.FontProperties(fname=path).get_name())
    return found


@lru_cache(maxsize=64)
def _find_font(wanted: frozenset[int]) -> str | None:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    own = font_manager.findfont("DejaVu Sans")
    for path in (own, *sorted(font_manager.findSystemFonts())):
        try:
            if wanted <= FT2Font(path).get_charmap().keys():
                return str(path)
        except (OSError, RuntimeError):  # a font of a kind that is not read
            continue
    return None


def measure(text: str, scale: float, thickness: int = 1) -> tuple[int, int]:
    """Width and height of a text in pixels, at OpenCV's scale."""
    if text.isascii():
        (width, height), _ = cv2.getTextSize(text, STROKES, scale, thickness)
        return width, height
    left, _, right, _ = _font(text, scale).getbbox(text)
    return round(right - left), round(0.7 * STROKE_HEIGHT * scale)


def write(
    canvas: np.ndarray, text: str, origin: tuple[int, int], scale: float,
    color: tuple[int, int, int], thickness: int = 1,
) -> None:  # fmt: skip
    """Write a text with a dark edge; `origin` is its lower left corner, on the base line."""
    if text.isascii():
        for shade, width in (((0, 0, 0), thickness + 1), (color, thickness)):
            cv2.putText(canvas, text, origin, STROKES, scale, shade, width, cv2.LINE_AA)
        return
    from PIL import Image, ImageDraw

    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(
        origin, text, color, _font(text, scale), anchor="ls",
        stroke_width=1, stroke_fill=(0, 0, 0),
    )  # fmt: skip
    canvas[:] = np.asarray(picture)


@lru_cache(maxsize=256)
def _font(text: str, scale: float):  # type: ignore[no-untyped-def]
    from PIL import ImageFont

    path = find_font(text)
    size = max(6, round(STROKE_HEIGHT * scale))
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
