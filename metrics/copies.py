"""Whether pictures copy train photos: nearest neighbours by an encoder, and the photo's very pixels found again.

After Somepalli et al., "Diffusion Art or Digital Forgery?", CVPR 2023: the similarity of each picture to its nearest
train photo, looked at in its upper percentiles and beside what the photos reach among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..training.photos import SubjectSet, photo_from_tensor
from .duplicates import Thresholds, compare

SSCD_THRESHOLD = 0.75  # Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022: precision .9
SMALLEST = 128  # pixels of the shorter side from which on local features can tell
_LOOKED_AT = 24  # pictures, the nearest ones, that are compared by local features


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
    photos of the subject, of which the highest is the threshold; for SSCD it is .75. None without either.
    """
    if encoder.startswith("SSCD"):
        threshold, basis = SSCD_THRESHOLD, "SSCD's own for a precision of .9"
    elif len(real):
        threshold, basis = float(real.max()), f"the nearest two of {len(real)} pairs of different photos of the subject"
    else:
        return None
    values = nearest.numpy()
    return Copies(
        threshold, basis, float((values > threshold).mean()), float(values.mean()), float(np.quantile(values, 0.95)),
        float(values.max()),
    )  # fmt: skip


def real_pairs(train: SubjectSet, seen: Tensor, unseen: Tensor) -> Tensor:
    """Similarities [P] of pairs of different photos: train with train, near-duplicates left out, and with held-out.

    seen, unseen: features [N, D] of train and held-out photos.
    """
    groups = train.certificate.groups if train.certificate else ()
    together = {(a, b) for group in groups for a in group for b in group}
    hashes = [photo.sha256 for photo in train.photos]
    similar = seen @ seen.T
    pairs = [similar[i, j] for i in range(len(hashes)) for j in range(i) if hashes[i] != hashes[j]
             and (hashes[i], hashes[j]) not in together]  # fmt: skip
    return torch.cat([torch.stack(pairs) if pairs else similar.new_zeros(0), (seen @ unseen.T).flatten()])


def pixel_copies(images: Tensor, to_train: Tensor, train: SubjectSet) -> list[PixelCopy] | None:
    """The pictures [B, 3, H, W] that local features lay over their nearest train photo, as splits find duplicates.

    to_train: similarities [B, N], by which the nearest pictures and photos are chosen. None for pictures of fewer than
    128 pixels, on which different pictures of one thing look alike to local features.
    """
    if min(images.shape[-2:]) < SMALLEST:
        return None
    found, limits = [], Thresholds()
    for i in to_train.max(1).values.argsort(descending=True)[:_LOOKED_AT].tolist():
        photo = train.photos[int(to_train[i].argmax())]
        match = compare(photo_from_tensor(images[i].movedim(0, -1), "picture"), photo, limits)
        if match.kind == "duplicate":
            found.append(PixelCopy(i, photo.sha256, match.inliers, round(match.correlation, 4)))
    return found


def share_of(copies: Sequence[PixelCopy] | None, pictures: int) -> float:
    """Part of the pictures that hold a train photo's pixels."""
    return len({c.picture for c in copies or ()}) / max(1, pictures)
