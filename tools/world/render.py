"""From a scene to a picture with its exact mask: drawn at four times the size, then averaged down."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .backgrounds import background
from .items import ITEMS
from .palette import rgb
from .scene import Detail, Scene, Thing

OVERSAMPLE = 4
_STRIPE, _DOT, _CHECK = 0.26, 0.25, 0.19  # periods in item units


@dataclass(frozen=True)
class _Frame:
    """Maps item units to pixels of the oversampled canvas and back."""

    scale: float
    centre: tuple[float, float]  # pixels
    middle: tuple[float, float]  # item units
    cos: float
    sin: float
    flip: float

    @classmethod
    def of(cls, thing: Thing, side: int) -> "_Frame":
        item = ITEMS[thing.kind]
        angle = np.deg2rad(-thing.angle)
        return cls(thing.size * side / max(item.extent()), (thing.x * side, thing.y * side), item.centre(),
                   float(np.cos(angle)), float(np.sin(angle)), -1.0 if thing.mirror else 1.0)

    def to_pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        x = (points[:, 0] - self.middle[0]) * self.flip * self.scale
        y = (points[:, 1] - self.middle[1]) * self.scale
        px = self.centre[0] + self.cos * x - self.sin * y
        py = self.centre[1] + self.sin * x + self.cos * y
        return list(zip(px.tolist(), py.tolist(), strict=True))

    def to_item(self, px: np.ndarray, py: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = px - self.centre[0], py - self.centre[1]
        u = (self.cos * x + self.sin * y) / self.scale * self.flip + self.middle[0]
        v = (-self.sin * x + self.cos * y) / self.scale + self.middle[1]
        return u, v


def _pattern(name: str, axis: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the second colour lies on the body, bool like u."""
    if name == "striped":
        return (((v if axis else u) / _STRIPE + 0.25) % 1.0) < 0.5
    if name == "dotted":
        row = np.floor(v / _DOT)
        du = (u / _DOT + 0.5 * (row % 2)) % 1.0 - 0.5
        dv = (v / _DOT) % 1.0 - 0.5
        return du * du + dv * dv < 0.36**2
    if name == "checked":
        return (np.floor(u / _CHECK) + np.floor(v / _CHECK)) % 2 == 0
    return np.zeros(u.shape, dtype=bool)


def _badge(detail: Detail, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    du, dv = np.abs(u - detail.x) / detail.size, np.abs(v - detail.y) / detail.size
    radius = np.hypot(du, dv)
    if detail.shape == "ring":
        return (radius < 1.15) & (radius > 0.55)
    if detail.shape == "square":
        return np.maximum(du, dv) < 0.9
    if detail.shape == "cross":
        return (np.minimum(du, dv) < 0.38) & (np.maximum(du, dv) < 1.15)
    return radius < 1.05


def _layer(thing: Thing, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour float32 [side, side, 3] and coverage float32 [side, side] of one item at full canvas size."""
    frame, item = _Frame.of(thing, side), ITEMS[thing.kind]
    roles = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(roles)
    for part in item.parts:
        draw.polygon(frame.to_pixels(part.points), fill=2 if part.role == "trim" else 1)
    colour = np.zeros((side, side, 3), dtype=np.float32)
    box = roles.getbbox()
    role_map = np.asarray(roles)
    if box is None:
        return colour, (role_map > 0).astype(np.float32)
    x0, y0, x1, y1 = box
    part_map = role_map[y0:y1, x0:x1]
    px, py = np.meshgrid(np.arange(x0, x1, dtype=np.float32) + 0.5, np.arange(y0, y1, dtype=np.float32) + 0.5)
    u, v = frame.to_item(px, py)
    second = (part_map == 2) | _pattern(thing.pattern, item.stripe_axis, u, v)
    paint = np.where(second[..., None], rgb(thing.colour2), rgb(thing.colour))
    if thing.detail is not None:
        badge = _badge(thing.detail, u, v) & (part_map == 1)
        paint = np.where(badge[..., None], rgb(thing.detail.colour), paint)
    shade = 1.04 - 0.16 * np.clip((px - frame.centre[0]) / (0.5 * frame.scale), -1, 1)
    edge = Image.fromarray((part_map > 0).astype(np.uint8)).filter(ImageFilter.MinFilter(5))
    shade = np.where(np.asarray(edge) > 0, shade, 0.62 * shade)
    colour[y0:y1, x0:x1] = paint * shade[..., None] + 0.02
    return np.clip(colour, 0.0, 1.0), (role_map > 0).astype(np.float32)


def _down(x: np.ndarray, size: int) -> np.ndarray:
    factor = x.shape[0] // size
    return x.reshape(size, factor, size, factor, *x.shape[2:]).mean(axis=(1, 3))


def _shadow(scene: Scene, bottom: float, size: int) -> np.ndarray:
    """Multiplier [size, size]: a soft dark ellipse where the item stands."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    lean = 0.05 * np.cos(np.deg2rad(scene.light_angle))
    dx = (axis - scene.item.x + lean) / (0.50 * scene.item.size)
    dy = (axis - bottom) / 0.055
    return 1.0 - scene.shadow * np.exp(-(dx[None, :] ** 2) - dy[:, None] ** 2)


def _over(picture: np.ndarray, thing: Thing, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lay an item over a picture: the new picture and the item's coverage [size, size]."""
    colour, cover = _layer(thing, size * OVERSAMPLE)
    alpha = _down(cover, size)
    return picture * (1 - alpha[..., None]) + _down(colour * cover[..., None], size), alpha


def _camera(picture: np.ndarray, scene: Scene, size: int) -> np.ndarray:
    """Gradient light, colour cast and sensor noise."""
    if scene.light > 0:
        axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        angle = np.deg2rad(scene.light_angle)
        plane = axis[None, :] * np.cos(angle) - axis[:, None] * np.sin(angle)
        picture = picture * (1.0 + scene.light * plane)[..., None]
    picture = picture * np.asarray(scene.cast, dtype=np.float32)
    if scene.noise > 0:
        rng = np.random.default_rng((scene.seed, 1))
        picture = picture + rng.normal(0.0, scene.noise, picture.shape)
    return picture


def render(scene: Scene, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene.

    Returns the picture, uint8 [size, size, 3], and the item's exact coverage, float32 [size, size] in
    [0, 1] (shadow, reflection and neighbour do not belong to it).
    """
    rng = np.random.default_rng((scene.seed, 0))
    side = size * OVERSAMPLE
    picture = _down(background(scene.background, scene.background_colour, scene.shift, side, rng), size)
    colour, cover = _layer(scene.item, side)
    alpha, paint = _down(cover, size), _down(colour * cover[..., None], size)
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    last = int(rows[-1]) if len(rows) else size - 1
    if scene.reflection > 0:
        depth = min(last + 1, size - 1 - last)
        fade = scene.reflection * np.linspace(1.0, 0.2, max(depth, 1), dtype=np.float32)[:depth, None, None]
        flipped = slice(last, None, -1) if depth == last + 1 else slice(last, last - depth, -1)
        under = slice(last + 1, last + 1 + depth)
        picture[under] = picture[under] * (1 - fade * alpha[flipped][..., None]) + fade * paint[flipped]
    if scene.shadow > 0:
        picture = picture * _shadow(scene, (last + 1) / size, size)[..., None]
    if scene.neighbour is not None:
        picture, _ = _over(picture, scene.neighbour, size)
    picture = picture * (1 - alpha[..., None]) + paint
    picture = _camera(picture, scene, size)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), alpha.astype(np.float32)
