"""Which pairs of photos of a large set are worth a close look as near-duplicates, without looking at all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .duplicates import Features, Thresholds

Pair = tuple[int, int]

ALL_PAIRS = 14  # up to so many photos every pair is looked at
_PER_PHOTO = 5  # pairs that a photo's own votes may name
_VOTES = 4
_NEAR = 0.6  # of a descriptor's length: how far a vote may reach
_STRONGEST = 200  # descriptors of a photo that vote
_HASH_BITS_BARE = 20  # hash distance up to which a photo without features is compared
_ROWS = 4096  # queries at once


def candidates(
    features: Sequence[Features], hashes: Sequence[Pair], limits: Thresholds
) -> dict[Pair, tuple[bool, ...]]:
    """Pairs i < j that may show one shot, and as what: (False,) as they lie, (True,) mirrored, or both.

    features: of the photos as they lie. hashes: perceptual hashes of each photo and of its mirror image.
    Every descriptor votes for the photo that holds its nearest neighbour, looked for in the two nearest of about
    sqrt(N) cells (an inverted file, Sivic and Zisserman, "Video Google", 2003); a photo's most voted-for partners are
    candidates, and so are pairs whose hashes are near. Time grows with N sqrt(N) of the number of descriptors.
    """
    count = len(features)
    both = (False, True)
    if count <= ALL_PAIRS:
        return dict.fromkeys(combinations(range(count), 2), both)
    found: dict[Pair, set[bool]] = {}
    for mirrored in both:
        for pair in _voted(features, mirrored):
            found.setdefault(pair, set()).add(mirrored)
    bare = np.array([len(one.points) < limits.inliers for one in features])
    for pair in _near_hashes(hashes, bare, limits.hash_bits):
        found.setdefault(pair, set()).update(both)
    return {pair: tuple(sorted(ways)) for pair, ways in sorted(found.items())}


def mirror_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """SIFT descriptors [n, 128] of the mirror image: 4 x 4 cells of 8 directions, columns and directions reversed."""
    cells = descriptors.reshape(-1, 4, 4, 8)[:, :, ::-1][..., (-np.arange(8)) % 8]
    return np.ascontiguousarray(cells).reshape(len(descriptors), 128)


def _voted(features: Sequence[Features], mirrored: bool) -> Iterator[Pair]:
    """Each photo's most voted-for partners."""
    chosen = [one.descriptors[:_STRONGEST] for one in features]
    owner = torch.from_numpy(np.repeat(np.arange(len(chosen)), [len(one) for one in chosen]))
    if len(owner) < 2:
        return
    known = torch.from_numpy(np.concatenate(chosen)).float()
    asked = torch.from_numpy(np.concatenate([mirror_descriptors(one) for one in chosen])).float() if mirrored else known
    partner = _nearest_owner(known, owner, asked)
    voters = partner >= 0
    pairs = torch.stack([owner[voters], partner[voters]]).numpy()
    votes = np.zeros((0, 3), dtype=np.int64)
    if pairs.size:
        (first, second), tally = np.unique(np.sort(pairs, axis=0), axis=1, return_counts=True)
        votes = np.stack([first, second, tally], axis=1)
    votes = votes[votes[:, 2] >= _VOTES]
    taken = np.zeros(len(chosen), dtype=int)
    for i, j, _ in votes[np.argsort(-votes[:, 2], kind="stable")].tolist():
        if taken[i] < _PER_PHOTO or taken[j] < _PER_PHOTO:
            taken[[i, j]] += 1
            yield i, j


def _nearest_owner(known: Tensor, owner: Tensor, asked: Tensor) -> Tensor:
    """For each query the photo, other than its own, that holds the nearest descriptor; -1 where none is near: [N]."""
    cells = max(1, round(len(known) ** 0.5))
    rows = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:cells]
    centres = known[rows]
    home = _closest(known, centres, 1)[:, 0]
    near = _closest(asked, centres, min(2, cells))
    best, partner = torch.full((len(asked),), torch.inf), torch.full((len(asked),), -1)
    for cell in range(cells):
        members = (home == cell).nonzero()[:, 0]
        queries = (near == cell).any(1).nonzero()[:, 0]
        for part in queries.split(_ROWS):
            if not len(members):
                break
            distance = torch.cdist(asked[part], known[members])
            distance[owner[part][:, None] == owner[members][None]] = torch.inf
            value, index = distance.min(1)
            closer = value < best[part]
            best[part[closer]] = value[closer]
            partner[part[closer]] = owner[members[index[closer]]]
    return partner.where(best < _NEAR * asked.norm(dim=1), -1)


def _closest(points: Tensor, centres: Tensor, count: int) -> Tensor:
    parts = [torch.cdist(part, centres).topk(count, largest=False).indices for part in points.split(_ROWS)]
    return torch.cat(parts)


def _bits(numbers: np.ndarray) -> np.ndarray:
    """How many bits are set in each of these 64-bit numbers."""
    return np.unpackbits(numbers.view(np.uint8).reshape(-1, 8), axis=1).sum(1)


def _near_hashes(hashes: Sequence[Pair], bare: np.ndarray, bits: int) -> Iterator[Pair]:
    """Pairs within so many bits of one another or of a mirror image; within more where one has no features."""
    plain, mirrored = (np.array([one[k] for one in hashes], dtype=np.uint64) for k in (0, 1))
    for i in range(len(hashes) - 1):
        rest = plain[i + 1 :]
        distance = np.minimum(_bits(rest ^ plain[i]), _bits(rest ^ mirrored[i]))
        limit = np.where(bare[i + 1 :] | bare[i], _HASH_BITS_BARE, bits)
        for j in np.nonzero(distance <= limit)[0].tolist():
            yield i, i + 1 + j
