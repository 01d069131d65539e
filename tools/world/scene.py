"""A scene: every factor of one picture, and the seeded draw of one."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import BACKGROUNDS
from .items import KINDS
from .palette import COLOUR_NAMES

PATTERNS = ("plain", "striped", "dotted", "checked")
DETAILS = ("disc", "ring", "square", "cross")
HELD_BACK_PERCENT = 15


@dataclass(frozen=True)
class Detail:
    """A badge that no word names: shape, colour, place [x, y] and half-width in item units."""

    shape: str
    colour: str
    x: float
    y: float
    size: float = 0.105


@dataclass(frozen=True)
class Thing:
    """An item in its place. x, y in [0, 1] of the frame; size = larger extent as a share of the frame."""

    kind: str
    pattern: str
    colour: str
    colour2: str
    x: float = 0.5
    y: float = 0.55
    size: float = 0.6
    angle: float = 0.0  # degrees, anticlockwise
    mirror: bool = False
    detail: Detail | None = None


@dataclass(frozen=True)
class Scene:
    """All factors of one picture. A distraction is off at its default value."""

    item: Thing
    background: str
    background_colour: str
    shift: float = 0.0  # of the background's seams, in [-1, 1]
    light: float = 0.0  # gradient light: change of brightness across half the frame, in [0, 0.3]
    light_angle: float = 0.0  # degrees, where the light comes from
    shadow: float = 0.0  # depth in [0, 0.6]
    reflection: float = 0.0  # share of the mirror image below the item, in [0, 0.4]
    neighbour: Thing | None = None  # second object, cut by the frame's edge
    noise: float = 0.0  # standard deviation of sensor noise, in [0, 0.05]
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain of each channel
    seed: int = 0  # grain and noise


@dataclass(frozen=True)
class Distractions:
    """How often each distraction is drawn, in [0, 1]; 0 switches it off."""

    shadow: float = 0.7
    reflection: float = 0.12
    light: float = 0.5
    neighbour: float = 0.06
    noise: float = 0.15
    cast: float = 0.25

    @classmethod
    def none(cls) -> "Distractions":
        """No distraction at all."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def held_back(kind: str, pattern: str, colour: str, colour2: str) -> bool:
    """True for the share of combinations that pre-training never renders (a fixed hash decides)."""
    text = f"{kind}|{pattern}|{colour}|{colour2}"
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_BACK_PERCENT


def _pick(rng: np.random.Generator, names: tuple[str, ...], *without: str) -> str:
    names = tuple(n for n in names if n not in without)
    return names[int(rng.integers(len(names)))]


def sample_look(rng: np.random.Generator, held: bool = False) -> tuple[str, str, str, str]:
    """Draw kind, pattern and two different colours among the combinations that are (not) held back."""
    while True:
        colour = _pick(rng, COLOUR_NAMES)
        look = (_pick(rng, KINDS), _pick(rng, PATTERNS), colour, _pick(rng, COLOUR_NAMES, colour))
        if held_back(*look) == held:
            return look


def sample_pose(rng: np.random.Generator, thing: Thing) -> Thing:
    """The same thing at a new place, size, angle and side."""
    size = float(rng.uniform(0.56, 0.74))
    return replace(thing, x=float(rng.uniform(0.42, 0.58)), y=float(rng.uniform(0.46, 0.60)), size=size,
                   angle=float(rng.uniform(-11, 11)), mirror=bool(rng.random() < 0.5))


def _neighbour(rng: np.random.Generator) -> Thing:
    kind, pattern, colour, colour2 = sample_look(rng)
    left = rng.random() < 0.5
    return Thing(kind, pattern, colour, colour2, x=float(rng.uniform(-0.04, 0.04) + (0.0 if left else 1.0)),
                 y=float(rng.uniform(0.35, 0.75)), size=float(rng.uniform(0.28, 0.40)))


def sample_distractions(rng: np.random.Generator, scene: Scene, how: Distractions) -> Scene:
    """Draw light, shadow, reflection, neighbour, noise and colour cast anew for a scene."""
    odds = [how.shadow, how.reflection, how.light, how.neighbour, how.noise, how.cast]
    on = rng.random(6) < np.asarray(odds)
    gain = 1.0 + rng.uniform(-0.08, 0.08, 3)
    drawn = dict(shadow=float(rng.uniform(0.25, 0.5)), reflection=float(rng.uniform(0.15, 0.35)),
                 light=float(rng.uniform(0.08, 0.25)), noise=float(rng.uniform(0.01, 0.04)))
    return replace(
        scene,
        shadow=drawn["shadow"] if on[0] else 0.0,
        reflection=drawn["reflection"] if on[1] else 0.0,
        light=drawn["light"] if on[2] else 0.0,
        light_angle=float(rng.uniform(0, 360)),
        neighbour=_neighbour(rng) if on[3] else None,
        noise=drawn["noise"] if on[4] else 0.0,
        cast=tuple(float(g) for g in gain) if on[5] else (1.0, 1.0, 1.0),
    )


def sample_scene(rng: np.random.Generator, distractions: Distractions | None = None,
                 thing: Thing | None = None, held: bool = False) -> Scene:
    """Draw a scene; the background's colour always differs from the item's first colour.

    `thing` fixes the item's look (its pose is drawn); `held` draws from the held-back combinations.
    """
    thing = sample_pose(rng, thing or Thing(*sample_look(rng, held)))
    scene = Scene(thing, _pick(rng, BACKGROUNDS), _pick(rng, COLOUR_NAMES, thing.colour),
                  shift=float(rng.uniform(-1, 1)), seed=int(rng.integers(2**31)))
    return sample_distractions(rng, scene, distractions or Distractions())
