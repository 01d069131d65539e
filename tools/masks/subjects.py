"""What the masks are measured on: renders of the demo world with every distraction, and real photos."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ...attractor.clicks import Click
from ...attractor.errors import AttractorError
from ...attractor.masks import Refinement
from ...attractor.photo_masks import mask_set
from ...attractor.raw_masks import Sources
from ...attractor.saliency import SaliencyModel
from ...training.photos import SubjectSet, photo_from_tensor, read_folder, read_photo, subject_set
from ..checkpoints import import_host
from ..host import ROOT
from ..models import fetch_u2netp
from ..world import KINDS, Distractions, sample_subject, subject_photos
from .measure import Scored, scored

DISTRACTIONS = Distractions(shadow=1.0, reflection=1.0, light=0.5, neighbour=1.0, noise=0.15, cast=0.25)
FIRST_SEED = 5000  # the thresholds were found on 4000
DATA = Path(os.environ.get("ATTRACTOR_PHOTOS", ROOT.parent / "shared" / "data"))
_PHOTOS = 5


@cache
def sources() -> Sources:
    """U2-NetP and the demo model."""
    return Sources(saliency(), demo_model())


@cache
def saliency() -> SaliencyModel:
    """U2-NetP."""
    return SaliencyModel(fetch_u2netp())


@cache
def demo_model() -> Any:
    """The demo checkpoint in the host's classes."""
    import_host()
    from ...nodes.host import demo
    from ...nodes.host.model import HostModel

    with torch.inference_mode():
        return HostModel(*demo.load())


def demo_sets(count: int) -> list[tuple[str, SubjectSet, list[np.ndarray]]]:
    """Subjects in both settings, with their true masks; reflection, shadow and a second object always on."""
    found = []
    for setting in ("same_shoot", "varied"):
        for i in range(count):
            subject = sample_subject(FIRST_SEED + i, KINDS[i % len(KINDS)])
            photos = subject_photos(subject, _PHOTOS, setting, FIRST_SEED + 100 + i, distractions=DISTRACTIONS)
            own = [photo_from_tensor(torch.from_numpy(p.image.copy()).float() / 255, f"{setting}-{i}-{k}")
                   for k, p in enumerate(photos)]  # fmt: skip
            found.append((setting, subject_set(own, subject.kind), [p.mask for p in photos]))
    return found


def demo(count: int) -> tuple[list[Scored], list[tuple[SubjectSet, str]]]:
    """Every back end on the demo world: rows, and the masked sets with the back end's name."""
    rows, sets = [], []
    for setting, subject, truth in demo_sets(count):
        for back_end in ("saliency", "attention", "auto"):
            found = masked(subject, back_end)
            sets.append((found, f"{back_end}, {subject.class_word}, {setting}"))
            rows += [scored(f"demo.{back_end}", photo.name, photo.mask, true, photo.verdict, _sure(photo))
                     for photo, true in zip(found.photos, truth, strict=True) if photo.mask is not None]  # fmt: skip
    return rows, sets


def masked(subject: SubjectSet, back_end: str) -> SubjectSet:
    """Masks of a set; one with a photo that shows no subject is refused, so its photos are taken by themselves then."""
    with torch.inference_mode():
        try:
            return mask_set(subject, back_end, Refinement(feather=0), sources=sources())
        except AttractorError:
            photos = []
            for photo in subject.photos:
                try:
                    photos += mask_set(subject.with_photos([photo]), back_end, Refinement(feather=0),
                                       sources=sources()).photos  # fmt: skip
                except AttractorError:
                    photos.append(replace(photo, mask=torch.zeros(photo.pixels.shape[-2:]), verdict="no subject found"))
            return subject.with_photos(photos)


def break_a_scene() -> tuple[list[Scored], list[tuple[SubjectSet, str]]]:
    """Each object of the seven pictures: what saliency alone gives, and auto with one click or with a box."""
    rows, sets = [], []
    only = Sources(saliency())
    for folder in sorted(p for p in (DATA / "break-a-scene").iterdir() if p.is_dir()):
        picture = subject_set([read_photo(folder / "img.jpg")], folder.name)
        alone = mask_set(picture, "saliency", Refinement(feather=0), sources=only)
        for file in sorted(folder.glob("mask*.png")):
            with Image.open(file) as stored:
                truth = np.asarray(stored.convert("L")) > 127
            name = f"{folder.name}/{file.stem}"
            rows.append(_row("saliency", name, alone, truth))
            for group, click in (("click", _inmost(truth)), ("box", _box(truth))):
                clicks = {"img.jpg": click}
                masked = mask_set(picture, "auto", Refinement(feather=0), sources=only, clicks=clicks)
                sets.append((masked, f"{name}, {group}"))
                rows.append(_row(group, name, masked, truth))
    return rows, sets


def dreambooth() -> list[tuple[SubjectSet, str]]:
    """All photos with the masks of auto, as a user without a Stable Diffusion model would have them."""
    sets = []
    for folder in sorted(p for p in (DATA / "dreambooth").iterdir() if p.is_dir()):
        subject = read_folder(folder, folder.name.replace("_", " "))
        try:
            sets.append((mask_set(subject, "auto", Refinement(), sources=Sources(saliency())), folder.name))
        except AttractorError as error:
            print(f"{folder.name}: {error}")
    return sets


def _row(group: str, name: str, masked: SubjectSet, truth: np.ndarray) -> Scored:
    photo = masked.photos[0]
    mask = cast(Tensor, photo.mask)
    return scored(f"break_a_scene.{group}", name, mask, truth, photo.verdict, _sure(photo))


def _sure(photo: Any) -> float:
    return photo.evidence.confidence if photo.evidence else 0.0


def _inmost(truth: np.ndarray) -> Click:
    """The point that is farthest from the object's edge: where a user would click."""
    row, column = np.unravel_index(int(distance_transform_edt(truth).argmax()), truth.shape)
    return Click((float(column) + 0.5) / truth.shape[1], (float(row) + 0.5) / truth.shape[0])


def _box(truth: np.ndarray) -> Click:
    rows, columns = np.nonzero(truth)
    height, width = truth.shape
    x0, y0, x1, y1 = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
    return Click((x0 + x1) / 2, (y0 + y1) / 2, (x0, y0, x1, y1))
