"""Whether a picture is recognised as the subject among look-alikes.

After Kilrain et al., "Finer-Personalization Rank", arXiv 2512.19026 (2025): each picture is a query, the gallery holds
the subject's held-out photos among photos of other things that look alike, and the ranks of the subject's own are
scored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """average_precision: mean over pictures, 1 when all held-out photos come first; first: share of pictures whose
    nearest photo is the subject; chance: the average precision of a shuffled gallery; gallery: its photos.
    """

    average_precision: float
    first: float
    chance: float
    gallery: int


def retrieve(pictures: Tensor, own: Tensor, others: Tensor) -> Retrieval:
    """pictures [B, D], own [N, D] (the subject's held-out photos), others [M, D]: features of length one."""
    similar = torch.cat([pictures @ own.T, pictures @ others.T], 1)
    hits = similar.argsort(dim=1, descending=True, stable=True) < len(own)
    places = torch.arange(1, hits.shape[1] + 1)
    precision = ((hits.cumsum(1) / places) * hits).sum(1) / len(own)
    return Retrieval(float(precision.mean()), float(hits[:, 0].float().mean()), _chance(len(own), len(others)),
                     len(own) + len(others))  # fmt: skip


def _chance(own: int, others: int) -> float:
    """Expected average precision of a random order (Bestgen, "Exact Expected Average Precision of the Random Baseline
    for System Evaluation", 2015).
    """
    total = own + others
    if total == 1:
        return 1.0
    harmonic = sum(1 / k for k in range(1, total + 1))
    return (1 / total) * ((own - 1) / (total - 1) * (total - harmonic) + harmonic)
