"""What is learnt and what is asked for: subjects, their photos in two settings, prompts in three grades."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ...training.photos import SubjectSet, photo_from_tensor, subject_set
from ..world import BACKGROUNDS, COLOUR_NAMES, KINDS, Distractions, Photo, Subject, sample_subject, subject_photos
from ..world.captions import article

SETTINGS = ("same_shoot", "varied")
GRADES = ("full", "partial", "bare")
TRAIN_PHOTOS, HELD_OUT_PHOTOS = 5, 4
# the same shoot is made hard, until plain Textual Inversion leaks: shadow, light and a cast of colour in every one, a
# reflection in half of them, and the camera stands off, so that most of a photo is background
SHOOT = Distractions(shadow=1.0, reflection=0.5, light=1.0, neighbour=0.06, noise=0.5, cast=1.0)
FURTHER = 0.18
# first seed of a group's subjects and of its photos, and the step through the kinds: "test" makes the tables;
# settings are tuned on "tuning", defaults are chosen on "develop"
GROUPS = {"test": (300, 1000, 1), "tuning": (900, 1500, 5), "develop": (600, 2000, 1)}
_BARE = ("a photo of {}", "a picture of {}", "{}")


@dataclass(frozen=True)
class Prompt:
    """A prompt, its grade, and what it says of the background (None where it says nothing)."""

    text: str
    grade: str
    background: str | None = None
    colour: str | None = None


@dataclass(frozen=True)
class Case:
    """One subject in one setting. number: which subject of its group, one of GROUPS."""

    group: str
    number: int
    setting: str

    @property
    def name(self) -> str:
        """Unique among all cases."""
        return f"{self.group}-{self.number}-{self.setting}"

    @cached_property
    def subject(self) -> Subject:
        """The subject; the kinds take turns."""
        first, _, step = GROUPS[self.group]
        return sample_subject(first + self.number, KINDS[(self.number * step) % len(KINDS)])

    @property
    def word(self) -> str:
        """The class word."""
        return self.subject.kind

    @cached_property
    def photos(self) -> tuple[list[Photo], list[Photo]]:
        """Training photos, and held-out photos in backgrounds that the training photos do not have."""
        seed = GROUPS[self.group][1] + self.number
        hard = {"distractions": SHOOT, "further": FURTHER} if self.setting == "same_shoot" else {}
        train = subject_photos(self.subject, TRAIN_PHOTOS, self.setting, seed, **hard)
        seen = tuple({(p.scene.background, p.scene.background_colour) for p in train})
        return train, subject_photos(self.subject, HELD_OUT_PHOTOS, "varied", seed + 7000, avoid=seen)

    @cached_property
    def backgrounds(self) -> set[tuple[str, str]]:
        """Kind and colour of the training photos' backgrounds."""
        return {(p.scene.background, p.scene.background_colour) for p in self.photos[0]}

    def sets(self) -> tuple[SubjectSet, SubjectSet]:
        """Training photos with their true masks, and held-out photos with theirs."""
        return tuple(_as_set(photos, self.word) for photos in self.photos)  # type: ignore[return-value]

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """Eight that spell the background out, six that name its kind, three its colour, three that do not name it.

        No full prompt asks for a background of the training photos, and none for a colour of the subject.
        """
        rng = np.random.default_rng((self.number, GROUPS[self.group][1]))
        own = (self.subject.colour, self.subject.colour2, self.subject.detail.colour)
        seen = {colour for _, colour in self.backgrounds}
        colours = [c for c in COLOUR_NAMES if c not in own and not (self.setting == "same_shoot" and c in seen)]
        asked: list[tuple[str, str]] = []
        for i in range(8):
            kind = BACKGROUNDS[i % len(BACKGROUNDS)]
            left = [c for c in colours if (kind, c) not in {*self.backgrounds, *asked}]
            asked.append((kind, left[int(rng.integers(len(left)))]))
        full = [self._prompt("full", kind, colour) for kind, colour in asked]
        partial = [self._prompt("partial", kind, None) for kind in BACKGROUNDS]
        partial += [self._prompt("partial", None, str(c)) for c in rng.permutation(colours)[:3]]
        return (*full, *partial, *(Prompt(text.format(self._words), "bare") for text in _BARE))

    @property
    def _words(self) -> str:
        return f"{'an' if self.word[0] in 'aeiou' else 'a'} <subject>"

    def _prompt(self, grade: str, background: str | None, colour: str | None) -> Prompt:
        words = article(" ".join(w for w in (colour, background, "background") if w))
        return Prompt(f"a photo of {self._words} on {words}", grade, background, colour)


def cases(group: str, count: int, settings: tuple[str, ...] = SETTINGS) -> list[Case]:
    """The first `count` subjects of a group in every setting."""
    return [Case(group, number, setting) for setting in settings for number in range(count)]


def _as_set(photos: list[Photo], word: str) -> SubjectSet:
    found = []
    for i, photo in enumerate(photos):
        pixels = torch.from_numpy(photo.image.copy()).float().div(255)
        found.append(replace(photo_from_tensor(pixels, f"{i + 1}.png"), mask=torch.from_numpy(photo.mask.copy())))
    return subject_set(found, word)
