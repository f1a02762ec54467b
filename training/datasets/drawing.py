"""Drawing a face from numbers that say who it is, what it expresses and how it is filmed."""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np

SUPERSAMPLING = 3
FIXED_POINT_BITS = 4  # sub-pixel coordinates of OpenCV's drawing
EYE_LEVEL, MOUTH_LEVEL = -0.12, 0.42

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Expression:
    """The state of a face; 0 is neutral, 1 the apex.

    It follows the action units (AU) of Ekman and Friesen's Facial Action Coding System (1978),
    joined where a drawing cannot tell them apart.

    Attributes:
        inner_brow: Inner brows raised (AU 1); below 0 lowered and drawn together (AU 4).
        outer_brow: Outer brows raised (AU 2); below 0 lowered (AU 4).
        eyes: Eyes opened wide (AU 5); below 0 narrowed (AU 6, 7).
        nose: Nose wrinkled (AU 9).
        corners: Corners of the mouth up (AU 12); below 0 down (AU 15).
        width: Mouth wide; below 0 rounded.
        jaw: Mouth open (AU 25, 26).
        upper_lip: Upper lip raised in the middle (AU 10).
        teeth: Teeth closed and shown.
    """

    inner_brow: float = 0.0
    outer_brow: float = 0.0
    eyes: float = 0.0
    nose: float = 0.0
    corners: float = 0.0
    width: float = 0.0
    jaw: float = 0.0
    upper_lip: float = 0.0
    teeth: float = 0.0

    def scaled(self, share: float) -> Expression:
        """The expression on its way from neutral (0) to itself (1)."""
        return Expression(**{f.name: share * getattr(self, f.name) for f in fields(self)})


EXPRESSIONS = {
    "neutral": Expression(),
    "happiness": Expression(eyes=-0.45, corners=1, width=0.8, jaw=0.4, teeth=1),
    "surprise": Expression(inner_brow=1, outer_brow=1, eyes=1, width=-0.7, jaw=1),
    "anger": Expression(
        inner_brow=-1, outer_brow=0.35, eyes=-0.3, corners=-0.4, width=0.1, jaw=0.5, teeth=1
    ),
    "sadness": Expression(inner_brow=0.9, outer_brow=-0.7, eyes=-0.4, corners=-1, width=-0.15),
    "disgust": Expression(
        inner_brow=-0.6, outer_brow=-0.4, eyes=-0.65, nose=1, corners=-0.6, jaw=0.2, upper_lip=1
    ),
}  # fmt: skip
LABELS = tuple(EXPRESSIONS)
"""Labels in the order of their indices."""


@dataclass(frozen=True)
class Person:
    """What does not change with the expression; lengths are in half sides of the picture.

    Attributes:
        skin, hair, iris, shirt: Colours, RGB in 0..255.
        face: Half width and half height of the head.
        eyes: Half distance of the eyes.
        eye: Half width of an eye.
        brow: Thickness of the brows.
        mouth: Half width of the mouth.
        fringe: Length by which the hair comes down the forehead.
        long_hair: Whether the hair reaches the shoulders.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    face: tuple[float, float]
    eyes: float
    eye: float
    brow: float
    mouth: float
    fringe: float
    long_hair: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        light, dark = np.array((246, 212, 184.0)), np.array((92, 58, 42.0))
        tone = rng.random()
        hairs = ((25, 20, 20), (70, 42, 24), (120, 75, 35), (205, 165, 95), (150, 148, 145))
        irises = ((70, 45, 25), (60, 90, 60), (70, 110, 150))
        return cls(
            skin=_rgb(light + tone * (dark - light) + rng.normal(0, 3, 3)),
            hair=_rgb(np.array(hairs[rng.integers(5 if tone < 0.5 else 2)], float)),
            iris=_rgb(np.array(irises[rng.integers(3 if tone < 0.5 else 1)], float)),
            shirt=_rgb(rng.uniform(30, 220, 3)),
            face=(float(rng.uniform(0.56, 0.66)), float(rng.uniform(0.74, 0.82))),
            eyes=float(rng.uniform(0.24, 0.29)),
            eye=float(rng.uniform(0.13, 0.16)),
            brow=float(rng.uniform(0.045, 0.075)),
            mouth=float(rng.uniform(0.22, 0.27)),
            fringe=float(rng.uniform(0.08, 0.22)),
            long_hair=bool(rng.random() < 0.5),
        )


@dataclass(frozen=True)
class Shot:
    """How a clip is filmed.

    Attributes:
        background: Colours of the background above and below, RGB in 0..255.
        light: Factor on all levels.
        side_light: Change of this factor at the right border; at the left one it is opposite.
        noise: Standard deviation of the sensor's noise in levels of 0..255.
    """

    background: tuple[Colour, Colour]
    light: float
    side_light: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Shot:
        above, below = rng.uniform(40, 230, (2, 3))
        light, side, noise = rng.uniform((0.75, -0.3, 0), (1.15, 0.3, 4))
        return cls((_rgb(above), _rgb(below)), float(light), float(side), float(noise))


def draw_face(
    person: Person,
    expression: Expression,
    shot: Shot,
    size: int,
    pose: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0),
) -> np.ndarray:
    """One frame (size, size, 3) uint8 RGB, without sensor noise.

    The pose is the shift of the head (x, y) in half sides, its roll in radians, and its scale.
    """
    canvas = _Canvas(size * SUPERSAMPLING, pose)
    canvas.fill_background(shot.background)
    _draw_head(canvas, person)
    for side in (-1.0, 1.0):
        _draw_eye(canvas, person, expression, side)
    _draw_nose(canvas, person, expression)
    _draw_mouth(canvas, person, expression)
    image = cv2.resize(canvas.image, (size, size), interpolation=cv2.INTER_AREA)
    lit = shot.light + shot.side_light * np.linspace(-1, 1, size)
    return (image * lit[None, :, None]).clip(0, 255).astype(np.uint8)


class _Canvas:
    """Draws in half sides of the picture, from the middle of the head, with y pointing down."""

    def __init__(self, side: int, pose: tuple[float, float, float, float]) -> None:
        x, y, roll, scale = pose
        cos, sin = scale * np.cos(roll), scale * np.sin(roll)
        self.image = np.empty((side, side, 3), np.uint8)
        self._turn = np.array(((cos, sin), (-sin, cos)))  # of row vectors
        self._shift = np.array((x, y))
        self._scale = scale

    def fill_background(self, colours: tuple[Colour, Colour]) -> None:
        share = np.linspace(0, 1, len(self.image))[:, None]
        rows = (1 - share) * np.array(colours[0]) + share * np.array(colours[1])
        self.image[:] = rows[:, None]

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a polygon (n, 2)."""
        cv2.fillPoly(self.image, [self._pixels(points)], colour, cv2.LINE_AA, FIXED_POINT_BITS)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Draw an open line (n, 2) of a width in half sides."""
        pixels = max(1, round(width * self._scale * len(self.image) / 2))
        cv2.polylines(
            self.image, [self._pixels(points)], False, colour, pixels, cv2.LINE_AA,
            FIXED_POINT_BITS,
        )  # fmt: skip

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        placed = np.asarray(points) @ self._turn + self._shift
        scaled = (placed + 1) / 2 * len(self.image) * (1 << FIXED_POINT_BITS)
        pixels: np.ndarray = scaled.round().astype(np.int32)
        return pixels


def _draw_head(canvas: _Canvas, person: Person) -> None:
    width, height = person.face
    shadow = _darker(person.skin, 0.82)
    if person.long_hair:
        canvas.fill(_ellipse(0, 0.05, width + 0.14, height + 0.12), person.hair)
        sides = np.array([(-1, 0), (-1.05, 1.1), (1.05, 1.1), (1, 0)]) * (width + 0.14, 1)
        canvas.fill(sides, person.hair)
    canvas.fill(_ellipse(0, 1.35, 0.95, 0.5), person.shirt)
    neck = np.array([(-0.26, 0.5), (-0.28, 1.0), (0.28, 1.0), (0.26, 0.5)])
    canvas.fill(neck, shadow)
    for side in (-1, 1):
        canvas.fill(_ellipse(side * width, 0.0, 0.08, 0.15), shadow)
    scalp = _ellipse(0, -0.08, width + 0.05, height + 0.02)
    canvas.fill(scalp[scalp[:, 1] < 0.05], person.hair)
    canvas.fill(_ellipse(0, 0.02, width, height), person.skin)
    hairline = 0.02 - height + person.fringe
    fringe = _ellipse(0, 0.02, width + 0.01, height + 0.01)
    canvas.fill(fringe[fringe[:, 1] < hairline], person.hair)


def _draw_eye(canvas: _Canvas, person: Person, expression: Expression, side: float) -> None:
    """Draw one eye and its brow; `side` is -1 for the eye on the left of the picture."""
    x, y, half = side * person.eyes, EYE_LEVEL, person.eye
    opening = half * 0.62 * max(0.08, 1 + 0.65 * expression.eyes)
    canvas.fill(_ellipse(x, y, half, opening), (245, 243, 238))
    for radius, colour in ((0.5 * half, person.iris), (0.24 * half, (15.0, 12.0, 12.0))):
        disc = _ellipse(x, y, radius, radius)
        lid = opening * np.sqrt(1 - ((disc[:, 0] - x) / half) ** 2)
        disc[:, 1] = y + (disc[:, 1] - y).clip(-lid, lid)
        canvas.fill(disc, colour)
    lids = _ellipse(x, y, half, opening)
    canvas.line(lids[lids[:, 1] <= y + 1e-9], _darker(person.skin, 0.3), 0.025)
    canvas.line(lids[lids[:, 1] >= y - 1e-9], _darker(person.skin, 0.65), 0.012)
    inner = (0.06 if expression.inner_brow < 0 else 0.0) * expression.inner_brow
    ends = np.array(
        [
            (x - side * (0.14 - inner), y - 0.25 - 0.11 * expression.inner_brow),
            (x + side * 0.18, y - 0.24 - 0.12 * expression.outer_brow),
        ]
    )
    middle = ends.mean(0) + np.array((side * 0.03, -0.045))
    canvas.line(_curve(ends[0], middle, ends[1]), _darker(person.hair, 0.7), person.brow)


def _draw_nose(canvas: _Canvas, person: Person, expression: Expression) -> None:
    shade = _darker(person.skin, 0.62)
    tip = 0.2 - 0.05 * expression.nose
    for side in (-1, 1):
        wing = [(side * 0.05, tip - 0.12), (side * 0.15, tip + 0.02), (side * 0.03, tip + 0.03)]
        canvas.line(_curve(*np.array(wing)), shade, 0.022)
    if expression.nose > 0.05:
        wrinkle = 0.022 * min(1.0, 2 * expression.nose)
        for row in range(3):
            y = EYE_LEVEL + 0.02 + 0.07 * row
            bow = [(-0.08, y + 0.03), (0, y - 0.03), (0.08, y + 0.03)]
            canvas.line(_curve(*np.array(bow)), shade, wrinkle)
    fold = max(expression.corners, expression.nose, 0.0)  # from the nose to the mouth's corners
    if fold > 0.2:
        for side in (-1, 1):
            bow = [(side * 0.18, 0.16), (side * 0.4, 0.24), (side * 0.38, 0.42)]
            canvas.line(_curve(*np.array(bow)), _darker(person.skin, 1 - 0.3 * fold), 0.02)


def _draw_mouth(canvas: _Canvas, person: Person, expression: Expression) -> None:
    lips = _rgb(0.55 * np.array(person.skin) + 0.45 * np.array((165, 45, 55)))
    half = person.mouth * (1 + 0.35 * expression.width)
    corner = MOUTH_LEVEL - 0.1 * expression.corners
    middle = MOUTH_LEVEL + 0.05 * expression.corners
    upper = middle - 0.04 * expression.jaw - 0.11 * expression.upper_lip
    lower = middle + 0.3 * expression.jaw - 0.02 * expression.upper_lip
    # A parabola, or with teeth shown in anger and lips rounded in surprise more of an ellipse.
    roundness = min(1.0, max(0.0, -expression.width + expression.teeth * -expression.corners))
    across = np.linspace(-1, 1, 33)
    rise = (1 - roundness) * (1 - across**2) + roundness * np.sqrt(1 - across**2)
    top = np.stack((half * across, corner + (upper - corner) * rise), 1)
    bottom = np.stack((half * across, corner + (lower - corner) * rise), 1)
    if lower - upper > 0.02:
        canvas.fill(np.concatenate((top, bottom[::-1])), (70, 18, 22))
        if expression.teeth > 0.1:
            share = 0.7 if expression.corners > 0 else 0.95
            edge = top + share * min(1.0, expression.teeth) * (bottom - top)
            canvas.fill(np.concatenate((top, edge[::-1])), (244, 240, 230))
            if expression.corners < 0:
                canvas.line((top + edge)[3:-3] / 2, (120, 100, 95), 0.012)
    canvas.line(top, lips, 0.045)
    canvas.line(bottom, lips, 0.055)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """Points (65, 2) of an ellipse, from the left over the top."""
    angle = np.linspace(np.pi, 3 * np.pi, 65)
    return np.stack((x + half_width * np.cos(angle), y + half_height * np.sin(angle)), 1)


def _curve(start: np.ndarray, middle: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points (17, 2) of the parabola through three points."""
    t = np.linspace(0, 1, 17)[:, None]
    curve: np.ndarray = start * (1 - t) * (1 - 2 * t) + 4 * middle * t * (1 - t)
    return curve + end * t * (2 * t - 1)


def _darker(colour: Colour, share: float) -> Colour:
    r, g, b = colour
    return share * r, share * g, share * b


def _rgb(colour: np.ndarray) -> Colour:
    r, g, b = colour.clip(0, 255).tolist()
    return r, g, b
