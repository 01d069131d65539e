"""Twelve kinds of item, each a few polygons in its own unit frame.

x grows to the right and y downward; every item lies within [-0.52, 0.52] on both axes. A part's role
says what it is painted with: "body" takes the first colour and the pattern, "trim" the second colour.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Part:
    """One filled polygon: role "body" or "trim", points float32 [N, 2] in item units."""

    role: str
    points: np.ndarray


@dataclass(frozen=True)
class Item:
    """A kind's parts, the axis its stripes run across (0 = x, 1 = y) and where a badge fits [2]."""

    parts: tuple[Part, ...]
    stripe_axis: int
    badge: tuple[float, float]

    def extent(self) -> tuple[float, float]:
        """Width and height in item units."""
        points = np.concatenate([p.points for p in self.parts])
        width, height = points.max(0) - points.min(0)
        return float(width), float(height)

    def centre(self) -> tuple[float, float]:
        """Middle of the bounding box in item units."""
        points = np.concatenate([p.points for p in self.parts])
        x, y = (points.max(0) + points.min(0)) / 2
        return float(x), float(y)


def _poly(role: str, *points: tuple[float, float]) -> Part:
    return Part(role, np.asarray(points, dtype=np.float32))


def _rect(role: str, x0: float, y0: float, x1: float, y1: float) -> Part:
    return _poly(role, (x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float, n: int = 28) -> np.ndarray:
    """Points of an elliptic arc, angles in degrees, clockwise from the right since y points down."""
    angle = np.deg2rad(np.linspace(start, stop, n, dtype=np.float32))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _ellipse(role: str, cx: float, cy: float, rx: float, ry: float) -> Part:
    return Part(role, _arc(cx, cy, rx, ry, 0, 360, 36))


def _band(role: str, cx: float, cy: float, inner: float, outer: float, start: float, stop: float) -> Part:
    """A curved strip between two radii: handles and hooks."""
    out = _arc(cx, cy, outer, outer, start, stop)
    return Part(role, np.concatenate([out, _arc(cx, cy, inner, inner, stop, start)]))


def _cup() -> Item:
    body = _poly("body", (-0.40, -0.36), (0.22, -0.36), (0.18, 0.30), (0.12, 0.40), (-0.30, 0.40),
                 (-0.36, 0.30))
    handle = _band("trim", 0.19, -0.02, 0.13, 0.22, -90, 90)
    return Item((handle, body, _rect("trim", -0.41, -0.40, 0.23, -0.32)), 1, (-0.08, 0.12))


def _bottle() -> Item:
    body = _poly("body", (-0.08, -0.40), (0.08, -0.40), (0.09, -0.26), (0.22, -0.12), (0.22, 0.46),
                 (0.18, 0.50), (-0.18, 0.50), (-0.22, 0.46), (-0.22, -0.12), (-0.09, -0.26))
    return Item((body, _rect("trim", -0.11, -0.50, 0.11, -0.36)), 1, (0.0, 0.22))


def _lamp() -> Item:
    shade = _poly("body", (-0.18, -0.50), (0.18, -0.50), (0.40, 0.02), (-0.40, 0.02))
    return Item((_rect("trim", -0.045, 0.0, 0.045, 0.44), _ellipse("trim", 0.0, 0.44, 0.24, 0.065), shade),
                1, (0.02, -0.14))


def _shoe() -> Item:
    upper = _poly("body", (-0.48, -0.34), (-0.14, -0.34), (-0.08, -0.10), (0.14, -0.02), (0.36, 0.04),
                  (0.48, 0.14), (0.50, 0.26), (-0.48, 0.26))
    sole = _poly("trim", (-0.50, 0.22), (0.52, 0.22), (0.51, 0.34), (-0.50, 0.34))
    return Item((upper, sole, _rect("trim", -0.50, -0.37, -0.12, -0.29)), 0, (-0.28, 0.06))


def _teapot() -> Item:
    body = _ellipse("body", -0.02, 0.10, 0.30, 0.27)
    spout = _poly("body", (0.18, 0.06), (0.38, -0.18), (0.50, -0.20), (0.44, -0.04), (0.24, 0.26))
    handle = _band("trim", -0.28, 0.06, 0.13, 0.21, 90, 270)
    lid = Part("trim", _arc(-0.02, -0.13, 0.19, 0.11, 180, 360))
    return Item((handle, spout, body, lid, _ellipse("trim", -0.02, -0.27, 0.06, 0.06)), 1, (-0.02, 0.12))


def _chair() -> Item:
    back = _rect("body", -0.30, -0.50, 0.30, -0.02)
    legs = (_rect("trim", -0.32, 0.10, -0.20, 0.50), _rect("trim", 0.20, 0.10, 0.32, 0.50))
    seat = _poly("trim", (-0.32, 0.02), (0.32, 0.02), (0.38, 0.15), (-0.38, 0.15))
    posts = (_rect("trim", -0.28, -0.04, -0.18, 0.04), _rect("trim", 0.18, -0.04, 0.28, 0.04))
    return Item((*legs, *posts, seat, back), 0, (0.0, -0.26))


def _hat() -> Item:
    crown = np.concatenate([_arc(0.0, -0.18, 0.27, 0.20, 180, 360),
                            np.asarray([(0.29, 0.18), (-0.29, 0.18)], dtype=np.float32)])
    band = _poly("trim", (-0.29, 0.02), (0.29, 0.02), (0.295, 0.15), (-0.295, 0.15))
    return Item((_ellipse("body", 0.0, 0.19, 0.50, 0.11), Part("body", crown), band), 0, (0.0, -0.17))


def _bag() -> Item:
    body = _poly("body", (-0.32, -0.12), (0.32, -0.12), (0.42, 0.44), (-0.42, 0.44))
    strap = _band("trim", 0.0, -0.10, 0.17, 0.26, 180, 360)
    return Item((strap, body, _poly("trim", (-0.32, -0.12), (0.32, -0.12), (0.34, 0.0), (-0.34, 0.0))),
                0, (0.0, 0.20))


def _car() -> Item:
    body = _poly("body", (-0.50, 0.0), (-0.34, -0.04), (-0.22, -0.28), (0.16, -0.28), (0.32, -0.03),
                 (0.48, 0.02), (0.51, 0.19), (-0.51, 0.19))
    windows = (_poly("trim", (-0.24, -0.05), (-0.17, -0.21), (-0.05, -0.21), (-0.05, -0.05)),
               _poly("trim", (0.02, -0.05), (0.02, -0.21), (0.12, -0.21), (0.21, -0.05)))
    wheels = (_ellipse("trim", -0.28, 0.19, 0.13, 0.13), _ellipse("trim", 0.28, 0.19, 0.13, 0.13))
    return Item((body, *windows, *wheels), 0, (0.0, 0.08))


def _umbrella() -> Item:
    scallops = [_arc(x, 0.02, rx, 0.07, 0, -180, 9) for x, rx in ((0.33, 0.17), (0.0, 0.16), (-0.33, 0.17))]
    dome = np.concatenate([_arc(0.0, 0.02, 0.50, 0.46, 180, 360), *scallops])
    hook = _band("trim", 0.085, 0.40, 0.045, 0.125, 0, 180)
    return Item((_rect("trim", -0.04, -0.10, 0.04, 0.41), hook, _rect("trim", -0.035, -0.52, 0.035, -0.40),
                 Part("body", dome)), 0, (0.0, -0.22))


def _boat() -> Item:
    hull = _poly("trim", (-0.48, 0.20), (0.48, 0.20), (0.30, 0.46), (-0.34, 0.46))
    sails = (_poly("body", (0.03, -0.50), (0.03, 0.13), (0.44, 0.13)),
             _poly("body", (-0.05, -0.42), (-0.05, 0.13), (-0.36, 0.13)))
    return Item((_rect("trim", -0.05, -0.52, 0.03, 0.22), hull, *sails), 1, (0.15, 0.0))


def _fish() -> Item:
    tail = _poly("trim", (-0.24, 0.0), (-0.52, -0.25), (-0.44, 0.0), (-0.52, 0.25))
    fins = (_poly("trim", (-0.08, -0.18), (0.04, -0.36), (0.24, -0.16)),
            _poly("trim", (0.0, 0.18), (0.06, 0.33), (0.20, 0.17)))
    eye = _ellipse("trim", 0.36, -0.05, 0.055, 0.055)
    return Item((tail, *fins, _ellipse("body", 0.11, 0.0, 0.39, 0.24), eye), 0, (0.08, 0.02))


ITEMS: dict[str, Item] = {
    "cup": _cup(), "bottle": _bottle(), "lamp": _lamp(), "shoe": _shoe(), "teapot": _teapot(),
    "chair": _chair(), "hat": _hat(), "bag": _bag(), "car": _car(), "umbrella": _umbrella(),
    "boat": _boat(), "fish": _fish(),
}
KINDS = tuple(ITEMS)
