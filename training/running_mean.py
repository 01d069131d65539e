"""The running mean of a representation's numbers, which is what is measured and kept when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from .representations import Representation
from .schedules import mean_weight


class RunningMean:
    """numbers: the mean of the representation's state so far; empty before the first step, and where ema is 0."""

    def __init__(self, representation: Representation, ema: float):
        self.numbers: dict[str, Tensor] = {}
        self._of, self._ema = representation, ema

    def draw(self, step: int) -> None:
        """Draw the newest numbers into the mean."""
        if not self._ema:
            return
        for key, value in self._of.state_dict().items():
            if key not in self.numbers or not value.is_floating_point():
                self.numbers[key] = value.detach().clone()
            else:
                self.numbers[key].lerp_(value.detach(), mean_weight(self._ema, step))
        if self._of.norms_held:  # a mean of vectors of one length is shorter
            with self.in_place():
                self._of.hold_norms()
                held = _copied(self._of.state_dict())
            self.numbers = held

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The representation has the mean for its numbers within the block, if there is one."""
        newest = _copied(self._of.state_dict()) if self.numbers else {}
        if newest:
            self._of.load_state_dict(self.numbers)
        try:
            yield
        finally:
            if newest:
                self._of.load_state_dict(newest)

    def load(self, numbers: Mapping[str, Tensor], device: torch.device) -> None:
        """Go on from a saved mean."""
        self.numbers = {key: value.to(device) for key, value in numbers.items()}

    def forget(self) -> None:
        """As before the first step."""
        self.numbers = {}


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in state.items()}
