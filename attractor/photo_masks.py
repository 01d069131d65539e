"""Masks for all photos of a subject set, by one of the back ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import AttractorError
from .masks import Refinement, check_mask, refine, verdict
from .saliency import SaliencyModel

if TYPE_CHECKING:
    from ..training.photos import Photo, SubjectSet

BACK_ENDS = ("saliency", "external", "none")


def mask_set(
    subject: SubjectSet, back_end: str, how: Refinement, given: Sequence[Tensor] | None = None,
    saliency: SaliencyModel | None = None,
) -> SubjectSet:  # fmt: skip
    """The set with a mask and a verdict for every photo.

    given: the external masks [H, W], one a photo in order. Raises AttractorError for masks that are missing, too
    few or too many, of other proportions, all zero or not finite, and for a set whose photos show no subject.
    """
    if back_end not in BACK_ENDS:
        raise AttractorError(f"back_end is {back_end!r}: one of {', '.join(BACK_ENDS)}.")
    if back_end == "external" and given is not None and len(given) != len(subject):
        raise AttractorError(
            f"masks: {len(given)} mask{'s' if len(given) != 1 else ''} for {len(subject)} photos. Give one for each "
            "photo, in the order of the photos."
        )
    photos = []
    for i, photo in enumerate(subject.photos):
        own = given[i] if back_end == "external" and given is not None else None
        mask = _raw(photo, back_end, own, saliency)
        if back_end != "none":
            mask = refine(mask, how)
        photos.append(replace(photo, mask=mask, verdict="whole photo" if back_end == "none" else verdict(mask)))
    empty = [p.name for p in photos if p.verdict == "no subject found" and back_end == "saliency"]
    if empty:
        raise AttractorError(
            f"No subject was found in {', '.join(empty)}: the mask is empty. Take the photo out, choose another back "
            "end, or paint the mask and connect it (back end 'external')."
        )
    return subject.with_photos(photos)


def _raw(photo: Photo, back_end: str, given: Tensor | None, saliency: SaliencyModel | None) -> Tensor:
    if back_end == "none":
        return torch.ones(photo.pixels.shape[-2:])
    if back_end == "external":
        mask = given if given is not None else photo.mask
        if mask is None:
            raise AttractorError(
                f"{photo.name}: back end 'external' needs the masks input (or a photo with transparency): connect a "
                "MASK for each photo."
            )
        return check_mask(mask, photo.size, photo.name)
    if saliency is None:
        raise AttractorError("back_end 'saliency' needs its model.")
    return saliency.mask(photo.pixels)
