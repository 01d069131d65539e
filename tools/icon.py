"""`python -m attractor_pack.tools.icon`: draw assets/icon.png, the density of a Clifford attractor.

x' = sin(a y) + c cos(a x), y' = sin(b x) + d cos(b y), after Clifford Pickover.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, ImageDraw

from .host import ROOT

FILE = ROOT / "assets" / "icon.png"
_A, _B, _C, _D = -1.7, 1.8, -1.9, -0.4
_SIDE, _DRAWN, _POINTS, _STEPS = 400, 800, 20_000, 300
_LOW, _HIGH = np.array([18, 60, 84]), np.array([255, 214, 140])  # few visits, many


def density() -> np.ndarray:
    """How often points of the attractor fall into each pixel, [side, side], scaled to [0, 1] by logarithm."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, _POINTS))
    counts = np.zeros((_DRAWN, _DRAWN))
    for step in range(_STEPS):
        x, y = np.sin(_A * y) + _C * np.cos(_A * x), np.sin(_B * x) + _D * np.cos(_B * y)
        if step > 20:
            counts += np.histogram2d(y, x, bins=_DRAWN, range=[[-3.1, 3.1], [-3.1, 3.1]])[0]
    found = np.log1p(counts)
    return (found / found.max()) ** 0.8


def main() -> int:
    """Draw it on a dark square with round corners."""
    light = density()[..., None]
    ground = np.array([16, 20, 28])
    colour = ground * (1 - np.minimum(1, light * 1.6)) + (_LOW + (_HIGH - _LOW) * light) * np.minimum(1, light * 1.6)
    picture = Image.fromarray(colour.clip(0, 255).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    corners = Image.new("L", (4 * _SIDE, 4 * _SIDE))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * _SIDE - 1, 4 * _SIDE - 1), radius=0.2 * 4 * _SIDE, fill=255)
    picture.putalpha(corners.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
    picture.save(FILE, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
