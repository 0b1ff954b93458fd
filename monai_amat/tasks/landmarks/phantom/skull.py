"""A synthetic radiograph of a head from the side, with known landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

__all__ = ["FRAME_MM", "draw_skull"]

FRAME_MM = (240.0, 193.5)
"""Height and width of the radiograph, as of the films of the challenge."""

# The usual abbreviations of the challenge's 19 landmarks, in its order.
S, N, OR, PO, A, B, POG, ME, GN, GO, LI, UI, UL, LL, SN, SPOG, PNS, ANS, AR = range(19)

# A mean head, x + iy in mm from the upper left corner, face to the right. Complex numbers are the shortest notation for
# points, shifts and rotations in the plane.
_MEAN = np.zeros(19, dtype=np.complex128)
_MEAN[[S, N, OR, PO, AR]] = 81 + 103j, 141 + 97j, 129 + 121j, 60 + 121j, 68 + 133j
_MEAN[[PNS, ANS, A, UI]] = 98 + 144j, 142 + 145j, 139 + 152j, 145 + 172j
_MEAN[[LI, B, POG, GN, ME, GO]] = 142 + 169j, 136 + 186j, 138 + 198j, 135 + 204j, 130 + 206j, 73 + 174j
_MEAN[[SN, UL, LL, SPOG]] = 150 + 149j, 156 + 161j, 153 + 182j, 147 + 201j
_LOWER_JAW = [B, POG, ME, GN, GO, LI, LL, SPOG]
# Independent variation in mm, in addition to pose and jaw; small where neighbours must keep their order.
_OWN = np.full(19, 1.5)
_OWN[[OR, GO]] = 2.0
_OWN[[A, LI, UI, SN, ANS]] = 1.0
_OWN[[LL, SPOG]] = 1.2
_OWN[[B, POG, ME]] = 0.8
_OWN[GN] = 0.5
_OVERSAMPLING = 2


def draw_skull(rng: np.random.Generator, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw one head.

    Each landmark lies on a structure of its own kind, as in a radiograph: in the middle of a cup (sella), on top of a
    dark hole (porion), at the bottom of a ring (orbitale), at the crossing of two outlines (articulare), at corners,
    tips and hollows of outlines. Pose, size, the position of the jaw, every landmark, exposure, contrast and noise vary
    between heads; a spine and a ruler are distractors.

    Args:
        rng: source of all random numbers.
        size: `(H, W)` in pixels of the frame of 240 x 193.5 mm.

    Returns:
        Image `(H, W)` uint8 and landmarks `(19, 2)` float64, (y, x) in mm from the frame's upper left corner.

    Example:
        >>> image, landmarks = draw_skull(np.random.default_rng(0), (60, 48))
        >>> image.shape, landmarks.shape
        ((60, 48), (19, 2))
    """
    canvas = _Canvas(size)
    points = _head(rng)
    scene = np.zeros(canvas.size)
    for layer in (_soft_tissue, _vault, _spine, _ear, _base, _orbit, _upper_jaw, _lower_jaw):
        scene = layer(canvas, scene, points, rng)
    return _expose(rng, scene, canvas), np.stack([points.imag, points.real], axis=-1)


def _head(rng: np.random.Generator) -> np.ndarray:
    """Landmarks `(19,)` of one head, x + iy in mm."""
    points = _MEAN + _OWN * (rng.normal(size=19) + 1j * rng.normal(size=19))
    hinge = points[AR]
    points[_LOWER_JAW] = hinge + rng.normal(1, 0.025) * _turn(rng.normal(0, 0.04)) * (points[_LOWER_JAW] - hinge)
    centre = 100 + 140j
    shift = complex(*rng.normal(0, 4.0, size=2))
    return centre + shift + rng.normal(1, 0.045) * _turn(rng.normal(0, 0.06)) * (points - centre)


def _turn(angle: float) -> complex:
    """Factor that rotates by an angle in radians, clockwise on the screen, because y points down."""
    return complex(np.exp(1j * angle))


class _Canvas:
    """Draws shapes, given as x + iy in mm, as masks `(H, W)` between 0 and 1."""

    def __init__(self, size: Sequence[int]) -> None:
        self.size = (int(size[0]), int(size[1]))
        # Oversampled pixels per mm, along x and along y.
        self._scale = self.size[1] / FRAME_MM[1] * _OVERSAMPLING, self.size[0] / FRAME_MM[0] * _OVERSAMPLING

    @property
    def pixels_per_mm(self) -> float:
        """Pixels per mm along y."""
        return self._scale[1] / _OVERSAMPLING

    def fill(self, outline: np.ndarray) -> np.ndarray:
        """Mask of the inside of an outline `(n,)`."""
        image, draw = self._blank()
        draw.polygon(self._place(outline), fill=255)
        return self._reduce(image)

    def stroke(self, line: np.ndarray, width: float = 1.2) -> np.ndarray:
        """Mask of a line `(n,)` of `width` mm."""
        image, draw = self._blank()
        draw.line(self._place(line), fill=255, width=max(1, round(width * self._scale[1])), joint="curve")
        return self._reduce(image)

    def blur(self, mask: np.ndarray, width: float) -> np.ndarray:
        """Blur a mask by `width` mm."""
        return np.asarray(gaussian_filter(mask, width * self.pixels_per_mm))

    def _blank(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        image = Image.new("L", (self.size[1] * _OVERSAMPLING, self.size[0] * _OVERSAMPLING))
        return image, ImageDraw.Draw(image)

    def _place(self, points: np.ndarray) -> list[tuple[float, float]]:
        # Pillow counts from pixel centres.
        return [(p.real * self._scale[0] - 0.5, p.imag * self._scale[1] - 0.5) for p in points.tolist()]

    def _reduce(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.reduce(_OVERSAMPLING), dtype=np.float64) / 255


def _curve(points: Sequence[complex], *, closed: bool = False) -> np.ndarray:
    """A smooth line `(n,)` through points."""
    knots = np.array([*points, points[0]] if closed else points, dtype=np.complex128)
    # The root of the distance as parameter keeps the spline from overshooting where points lie close together.
    along = np.concatenate([[0.0], np.cumsum(np.sqrt(np.abs(np.diff(knots))))])
    spline = CubicSpline(along, knots, bc_type="periodic" if closed else "natural")
    return np.asarray(spline(np.linspace(0, along[-1], 24 * len(knots))))


def _arc(centre: complex, wide: float, high: float, start: float = 0, end: float = 1) -> np.ndarray:
    """Part of an ellipse with these half axes, between two fractions of a turn: 0 is right, a quarter is down."""
    angle = np.linspace(start, end, 48) * 2 * np.pi
    return centre + wide * np.cos(angle) + 1j * high * np.sin(angle)


def _soft_tissue(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    nose = p[SN] + complex(15, rng.uniform(-15, -11))
    face = [p[N] - 60j, p[N] + (7 - 22j), p[N] + (5 + 2j), nose - (3 + 6j), nose, p[SN] + 4, p[SN]]
    mouth = [p[UL], (p[UL] + p[LL]) / 2 - 3, p[LL], (p[LL] + p[SPOG]) / 2 - 4, p[SPOG], p[ME] + (3 + 9j)]
    neck = [p[GO] + (38 + 32j), p[GO] + (32 + 75j), p[GO] + (-75 + 75j)]
    back = [p[PO] - 70, p[PO] - (55 + 85j), p[S] - (5 + 106j)]
    return scene + 0.22 * canvas.fill(_curve([*face, *mouth, *neck, *back], closed=True))


def _vault(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    roof = [p[N], p[N] + (1 - 16j), p[N] - (10 + 52j), p[S] + (10 - 95j), p[S] - (45 + 86j), p[PO] - (52 + 40j)]
    floor = [p[PO] + (-48 + 8j), p[PO] + (-20 + 22j), p[AR] + (4 - 2j), p[S] + (6 + 10j), p[S] + (30 - 2j)]
    outline = _curve([*roof, *floor], closed=True)
    return scene + 0.22 * canvas.fill(outline) + 0.22 * canvas.stroke(outline, rng.uniform(2.0, 3.5))


def _spine(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for i in range(5):
        corner = p[AR] + complex(-26 - 2.5 * i + rng.normal(0, 1), 12 + 17 * i)
        block = _curve([corner, corner + (18 + 2j), corner + (17 + 14j), corner + (-1 + 12j)], closed=True)
        scene = scene + 0.17 * canvas.fill(block) + 0.12 * canvas.stroke(block)
    ruler = FRAME_MM[1] - 22 + rng.normal(0, 2)
    return scene + 0.2 * canvas.stroke(np.array([ruler, ruler + 1j * rng.uniform(60, 90)]), 4.0)


def _ear(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    radius = rng.uniform(3.5, 5.0)
    centre = p[PO] + 1j * radius
    bone = canvas.blur(canvas.fill(_arc(centre, 15, 12)), 3.0)
    hole = canvas.fill(_arc(centre, radius, radius))
    rim = canvas.stroke(_arc(centre, radius + 0.8, radius + 0.8))
    return (scene + 0.2 * bone) * (1 - 0.6 * hole) + 0.25 * rim


def _base(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    radius = rng.uniform(4.0, 5.5)
    front, back = p[S] + radius * (1 - 0.7j), p[S] - radius * (1 + 0.6j)
    cup = _arc(p[S], radius, radius, -0.08, 0.58)
    ahead = _curve([p[N], p[N] + (-22 + 2j), front + (12 - 3j), front])
    # Down the clivus and across the posterior border of the jaw, which it crosses at articulare.
    behind = _curve([back, back + (-6 + 9j), p[AR], p[AR] + (-9 + 12j)])
    scene = scene * (1 - 0.25 * canvas.fill(_arc(p[S], radius, radius)))
    return scene + 0.28 * np.maximum.reduce([canvas.stroke(line, 1.4) for line in (cup, ahead, behind)])


def _orbit(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide, high = rng.uniform(10, 13), rng.uniform(13, 16)
    centre = p[OR] - 1j * high
    hollow = canvas.blur(canvas.fill(_arc(centre, wide, high)), 2.0)
    return scene * (1 - 0.25 * hollow) + 0.26 * canvas.stroke(_arc(centre, wide, high, 0.02, 0.48), 1.4)


def _upper_jaw(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tip = p[UI]
    front = [p[ANS], p[A], tip - (2 + 9j)]
    bite = [tip - (12 + 5j), tip - (36 + 3j), p[PNS] + (6 + 14j)]
    outline = _curve([*front, *bite, p[PNS], p[PNS] + (20 + 1j)], closed=True)
    palate = _curve([p[PNS], (p[PNS] + p[ANS]) / 2 + 1j * rng.normal(1, 0.5), p[ANS]])
    tooth = np.array([tip, tip + (0.5 - 6j), tip - (6 + 22j), tip - (7 + 8j)])
    scene = scene + 0.16 * canvas.fill(outline) + 0.12 * canvas.stroke(_curve(front)) + 0.3 * canvas.fill(tooth)
    return scene + 0.3 * canvas.stroke(palate, 1.6)


def _lower_jaw(canvas: _Canvas, scene: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tip = p[LI]
    ramus = [p[AR] + (1 - 7j), p[AR], (p[AR] + p[GO]) / 2 + 3, p[GO], (p[GO] + p[ME]) / 2 + (-2 + 3j)]
    chin = [p[ME], p[GN], p[POG], p[B], tip + (-2 + 8j)]
    bite = [tip + (-12 + 5j), tip + complex(-38, 4 + rng.normal(0, 1))]
    joint = [p[AR] + (32 + 20j), p[AR] + (24 - 2j), p[AR] + (13 + 4j)]
    outline = _curve([*ramus, *chin, *bite, *joint], closed=True)
    tooth = np.array([tip, tip + (0.5 + 6j), tip + (-5 + 21j), tip + (-6 + 7j)])
    scene = scene + 0.2 * canvas.fill(outline) + 0.24 * canvas.stroke(outline, 1.6)
    return scene + 0.3 * canvas.fill(tooth)


def _expose(rng: np.random.Generator, scene: np.ndarray, canvas: _Canvas) -> np.ndarray:
    """Grey values uint8 of an attenuation."""

    def texture(width: float) -> np.ndarray:
        noise = gaussian_filter(rng.standard_normal(scene.shape), width * canvas.pixels_per_mm)
        return np.asarray((noise - noise.mean()) / noise.std())

    scene = canvas.blur(scene, 0.5) * (1 + 0.12 * texture(3.0)) * (1 + 0.15 * texture(30.0))
    film = 1 - np.exp(-rng.uniform(1.5, 2.2) * scene)
    film = film ** rng.uniform(0.8, 1.2) + 0.03 * texture(0.6) + 0.02 * rng.standard_normal(scene.shape)
    return np.asarray(np.clip(rng.uniform(10, 25) + 215 * film, 0, 255).round(), dtype=np.uint8)
