"""Whether pictures copy train photos: nearest neighbours by an encoder, and the photo's very pixels found again.

After Somepalli et al., "Diffusion Art or Digital Forgery?", CVPR 2023: the similarity of each picture to its nearest
train photo, looked at in its upper percentiles and beside what the photos reach among themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..training.photos import SubjectSet, photo_from_tensor
from .duplicates import Thresholds, compare

SSCD_THRESHOLD = 0.75  # Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022: precision .9
SMALLEST = 128  # pixels of the shorter side from which on local features can tell
_MISSES = 24  # pictures in a row, from the nearest on, that hold no photo before the search by local features ends
_LEAST_PAIRS = 3


@dataclass(frozen=True)
class Copies:
    """Cosine similarities of pictures to their nearest train photo.

    threshold: above it a picture counts as a copy; basis: where it comes from. share: of pictures above it.
    mean, upper (95th percentile), highest: of the similarities.
    """

    threshold: float
    basis: str
    share: float
    mean: float
    upper: float
    highest: float


@dataclass(frozen=True)
class PixelCopy:
    """A picture that lies over a train photo: its place among the pictures, the photo's SHA-256, and the evidence."""

    picture: int
    photo: str
    inliers: int
    correlation: float


def copy_check(nearest: Tensor, real: Tensor, encoder: str) -> Copies | None:
    """nearest: similarity [B] of each picture to its nearest train photo. real: similarities [P] of pairs of different
    photos of the subject, of which the highest is the threshold; for SSCD it is .75. None with fewer than three pairs.
    """
    if encoder.startswith("SSCD"):
        threshold, basis = SSCD_THRESHOLD, "SSCD's own for a precision of .9"
    elif len(real) >= _LEAST_PAIRS:
        threshold, basis = float(real.max()), f"the nearest two of {len(real)} pairs of different photos of the subject"
    else:
        return None
    values = nearest.numpy()
    return Copies(
        threshold, basis, float((values > threshold).mean()), float(values.mean()), float(np.quantile(values, 0.95)),
        float(values.max()),
    )  # fmt: skip


def real_pairs(seen: Tensor, unseen: Tensor, together: Mapping[tuple[int, int], str]) -> Tensor:
    """Similarities [P] of pairs of different photos, one or both of them to train on.

    Pairs of one shoot are left out where three others remain, near-duplicates always. seen, unseen: features [N, D] of
    train and held-out photos. together: which pairs of them, in one row, are of kind "duplicate" or "same_shoot".
    """
    similar = seen @ torch.cat([seen, unseen]).T
    by_kind: dict[str, list[Tensor]] = {"": [], "same_shoot": [], "duplicate": []}
    for i in range(len(seen)):
        for j in range(i + 1, similar.shape[1]):
            by_kind[together.get((i, j), "")].append(similar[i, j])
    apart = by_kind[""] if len(by_kind[""]) >= _LEAST_PAIRS else by_kind[""] + by_kind["same_shoot"]
    return torch.stack(apart) if apart else similar.new_zeros(0)


def pixel_copies(images: Tensor, to_train: Tensor, train: SubjectSet) -> list[PixelCopy] | None:
    """The pictures [B, 3, H, W] that local features lay over their nearest train photo, as splits find duplicates.

    to_train: similarities [B, N], by which the nearest pictures and photos are chosen. None for pictures of fewer than
    128 pixels, on which different pictures of one thing look alike to local features.
    """
    if min(images.shape[-2:]) < SMALLEST:
        return None
    found, limits, misses = [], Thresholds(), 0
    for i in to_train.max(1).values.argsort(descending=True).tolist():
        if misses >= _MISSES:
            break
        photo = train.photos[int(to_train[i].argmax())]
        match = compare(photo_from_tensor(images[i].movedim(0, -1), "picture"), photo, limits)
        misses += 1
        if match.kind == "duplicate":
            misses = 0
            found.append(PixelCopy(i, photo.sha256, match.inliers, round(match.correlation, 4)))
    return found


def share_of(copies: Sequence[PixelCopy] | None, pictures: int) -> float:
    """Part of the pictures that hold a train photo's pixels."""
    return len({c.picture for c in copies or ()}) / max(1, pictures)
