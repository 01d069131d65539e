"""The masks that methods get: our own, as a user has them, the true ones, and the true ones made wrong on purpose."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from scipy.ndimage import grey_dilation, grey_erosion
from torch import Tensor

from ...attractor.errors import AttractorError
from ...attractor.masks import Refinement
from ...attractor.photo_masks import mask_set
from ...attractor.raw_masks import Sources
from ...attractor.saliency import SaliencyModel
from ...training.photos import SubjectSet
from ..models import fetch_u2netp

if TYPE_CHECKING:
    from ...training.model import DiffusionModel

QUALITIES = ("true", "own", "eroded", "dilated", "box")
WRONG_BY = 1 / 8  # of the picture's side, spread over both sides of the subject


@cache
def _saliency() -> SaliencyModel:
    return SaliencyModel(fetch_u2netp())


def with_masks(subject: SubjectSet, quality: str, model: DiffusionModel | None = None) -> SubjectSet:
    """The set (which has its true masks) with masks of a quality; "none" takes them away.

    "own" are those of the back end "auto", with the model's attention beside the saliency model's map. Raises
    AttractorError where a user would be told that there is no subject, or a back end is missing.
    """
    if quality == "none":
        return subject.with_photos(replace(p, mask=None) for p in subject.photos)
    if quality == "true":
        return subject
    if quality == "own":
        sources = Sources(_saliency(), model)
        found = mask_set(subject, "auto", Refinement(), sources=sources)
        if model is None or set(sources.missing) - {"text"}:
            raise AttractorError(f"auto did without a back end: {sources.missing}")
        return found
    return subject.with_photos(replace(p, mask=_wrong(p.mask, quality)) for p in subject.photos if p.mask is not None)


def _wrong(mask: Tensor, quality: str) -> Tensor:
    side = max(mask.shape)
    if quality == "box":
        inside = mask > 0.5
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        box = torch.zeros_like(mask)
        box[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1] = 1
        return box
    radius = round(side * WRONG_BY / 2)
    size = (2 * radius + 1, 2 * radius + 1)
    change = {"dilated": grey_dilation, "eroded": grey_erosion}[quality]
    return torch.from_numpy(change(mask.numpy(), size=size).copy())


def overlap(subject: SubjectSet, truth: SubjectSet) -> float:
    """Mean intersection over union of two sets' masks at .5."""
    values = []
    for mine, true in zip(subject.photos, truth.photos, strict=True):
        if mine.mask is None or true.mask is None:
            continue
        a, b = mine.mask > 0.5, true.mask > 0.5
        values.append(float((a & b).sum()) / max(1.0, float((a | b).sum())))
    return sum(values) / max(1, len(values))
