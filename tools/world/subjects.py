"""Subjects to learn: looks that pre-training never saw, with a detail that no word names."""

from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import BACKGROUNDS
from .items import ITEMS
from .palette import COLOUR_NAMES
from .render import render
from .scene import (
    DETAILS,
    Detail,
    Distractions,
    Scene,
    Thing,
    sample_distractions,
    sample_look,
    sample_pose,
    sample_scene,
)


@dataclass(frozen=True)
class Subject:
    """A held-back combination with a badge of a third colour."""

    kind: str
    pattern: str
    colour: str
    colour2: str
    detail: Detail

    @property
    def thing(self) -> Thing:
        """The subject as an item that can be placed."""
        return Thing(self.kind, self.pattern, self.colour, self.colour2, detail=self.detail)

    def words(self) -> str:
        """All that words can say of it: "red blue striped cup"."""
        return f"{self.colour} {self.colour2} {self.pattern} {self.kind}"


@dataclass(frozen=True)
class Photo:
    """image uint8 [H, W, 3], mask float32 [H, W] in [0, 1], and the scene they show."""

    image: np.ndarray
    mask: np.ndarray
    scene: Scene


def badge_for(kind: str, shape: str, colour: str) -> Detail:
    """A badge at the kind's own place."""
    x, y = ITEMS[kind].badge
    return Detail(shape, colour, x, y)


def sample_subject(seed: int, kind: str | None = None) -> Subject:
    """Draw a subject among the held-back combinations, of one kind if given."""
    rng = np.random.default_rng((seed, 17))
    while True:
        look = sample_look(rng, held=True)
        if kind in (None, look[0]):
            break
    others = [c for c in COLOUR_NAMES if c not in look[2:]]
    shape, colour = DETAILS[int(rng.integers(len(DETAILS)))], others[int(rng.integers(len(others)))]
    return Subject(*look, badge_for(look[0], shape, colour))


def subject_photos(subject: Subject, n: int, setting: str = "same_shoot", seed: int = 0, size: int = 64,
                   avoid: tuple[tuple[str, str], ...] = (),
                   distractions: Distractions | None = None, further: float = 0.0) -> list[Photo]:
    """Take n photos of a subject; its pose, place and size differ in each.

    "same_shoot": all share background and light. "varied": each has a background of its own, none of
    them among `avoid`, pairs of kind and colour. further: taken off the item's size, as from further away. Raises
    ValueError for another setting or too large an n.
    """
    if setting not in ("same_shoot", "varied"):
        raise ValueError(f"setting must be 'same_shoot' or 'varied', not {setting!r}")
    rng = np.random.default_rng((seed, 29))
    own = (subject.colour, subject.colour2, subject.detail.colour)
    pairs = [(kind, colour) for kind in BACKGROUNDS for colour in COLOUR_NAMES
             if colour not in own and (kind, colour) not in avoid]
    if setting == "varied" and n > len(pairs):
        raise ValueError(f"only {len(pairs)} backgrounds are left for {n} photos")
    order = rng.permutation(len(pairs))
    shoot = sample_scene(rng, distractions, thing=subject.thing)
    photos = []
    for i in range(n):
        kind, colour = pairs[int(order[i if setting == "varied" else 0])]
        pose = sample_pose(rng, subject.thing)
        scene = replace(shoot, item=replace(pose, size=pose.size - further), background=kind,
                        background_colour=colour, seed=int(rng.integers(2**31)))
        if setting == "varied":
            scene = replace(scene, shift=float(rng.uniform(-1, 1)))
            scene = sample_distractions(rng, scene, distractions or Distractions())
        photos.append(Photo(*render(scene, size), scene))
    return photos
