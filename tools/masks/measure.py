"""Masks against the truth: overlap, boundaries, and whether the verdict noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from ...attractor.clicks import overlap
from ...attractor.verdicts import GOOD

BAD, FINE = 0.5, 0.85  # overlap below which a mask is wrong, and above which it is right
_BOUNDARY = 0.008  # of the diagonal: how far a boundary may be off (Perazzi et al., DAVIS, CVPR 2016)


@dataclass(frozen=True)
class Scored:
    """One mask: where it comes from, its overlap (IoU) and boundary F with the truth, and its verdict."""

    group: str
    name: str
    iou: float
    boundary: float
    verdict: str
    confidence: float


def scored(group: str, name: str, mask: Tensor, truth: np.ndarray, verdict: str, confidence: float) -> Scored:
    """Compare a mask [H, W] with the true one."""
    return Scored(group, name, overlap(mask.numpy(), truth), boundary_f(mask.numpy(), truth), verdict, confidence)


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F of precision and recall of the boundaries' pixels, within .8% of the diagonal (at least one pixel)."""
    mine, true = _edge(mask > 0.5), _edge(truth > 0.5)
    reach = max(1, round(_BOUNDARY * float(np.hypot(*mask.shape))))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= reach**2 if reach > 1 else np.ones((3, 3), dtype=bool)
    precision = (mine & binary_dilation(true, disc)).sum() / max(1, mine.sum())
    recall = (true & binary_dilation(mine, disc)).sum() / max(1, true.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


def mean(rows: Sequence[Scored], group: str, what: str = "iou") -> float:
    """Mean over a group."""
    return float(np.mean([getattr(row, what) for row in rows if row.group == group]))


def verdict_figures(rows: Sequence[Scored]) -> dict[str, float]:
    """Share of wrong masks that are not called good, and of right ones that are called anything else."""
    bad = [row.verdict != GOOD for row in rows if row.iou < BAD]
    fine = [row.verdict != GOOD for row in rows if row.iou > FINE]
    return {
        "verdict.bad_flagged": float(np.mean(bad)) if bad else 1.0, "verdict.bad": len(bad),
        "verdict.good_flagged": float(np.mean(fine)) if fine else 0.0, "verdict.good": len(fine),
    }  # fmt: skip


def _edge(mask: np.ndarray) -> np.ndarray:
    return mask & ~binary_erosion(mask, border_value=1)
