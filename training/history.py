"""What a training run measured, and what follows from it: when the background is learnt, which step is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

_PLATEAU = 0.01  # the background is explained when its loss falls by less than this part ...
_PATIENCE = 3  # ... over so many measurements


@dataclass
class History:
    """What was measured. losses: (step, value) of every step, background steps counted below zero.

    background, train, held_out: (step, loss) on fixed noise and timesteps. best_step: the one that was kept.
    stopped: why that one, in words. notes: what happened on the way that a user should know.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    background: list[tuple[int, float]] = field(default_factory=list)
    train: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    background_steps: int = 0
    stopped: str = ""
    notes: list[str] = field(default_factory=list)


def has_settled(values: Sequence[float]) -> bool:
    """Whether the best of the last measurements is hardly better than the best before them."""
    if len(values) <= _PATIENCE + 2:
        return False
    before, after = min(values[:-_PATIENCE]), min(values[-_PATIENCE:])
    return after > before * (1 - _PLATEAU)


def latest_as_good(losses: Sequence[Tensor]) -> int:
    """Index of the last measurement whose loss is at most one standard error above the lowest.

    losses: one [N] a measurement, on the same N samples with the same noise, so that the standard error is that of
    the paired differences. The one-standard-error rule of Breiman et al., "Classification and Regression Trees",
    1984, with the latest in the place of the simplest.
    """
    lowest = min(losses, key=lambda values: float(values.mean()))
    for index in range(len(losses) - 1, -1, -1):
        difference = losses[index] - lowest
        error = float(difference.std()) / math.sqrt(max(1, len(difference))) if len(difference) > 1 else 0.0
        if float(difference.mean()) <= error:
            return index
    return 0
