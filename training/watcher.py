"""Who is told about every step of a training, and may end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .concept import Concept
from .history import History
from .settings import TrainSettings


class Watcher(Protocol):
    """Is told about every step, and before the first about the views that are encoded; whatever it raises, such as the
    host's Cancel, ends the training.
    """

    def encoding(self, done: int, total: int) -> None: ...
    def step(self, done: int, total: int, value: float, phase: str) -> None: ...
    def measured(self, history: History) -> None: ...
    def preview(self, done: int, concept: Concept) -> None: ...


class Silent:
    """A watcher that looks away."""

    def encoding(self, done: int, total: int) -> None:
        """Nothing."""

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """Nothing."""

    def measured(self, history: History) -> None:
        """Nothing."""

    def preview(self, done: int, concept: Concept) -> None:
        """Nothing."""


class Among(Silent):
    """A training's part in a watcher that several share: steps are added up, curve and previews are the first's."""

    def __init__(self, watcher: Watcher, number: int, done: list[int], total: int):
        self._watcher, self._number, self._done, self._total = watcher, number, done, total

    @classmethod
    def all(cls, watcher: Watcher, settings: Sequence[TrainSettings]) -> list[Among]:
        """One for each training."""
        done, total = [0] * len(settings), sum(s.background_steps + s.steps for s in settings)
        return [cls(watcher, i, done, total) for i in range(len(settings))]

    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """Of all trainings."""
        self._done[self._number] = done
        self._watcher.step(sum(self._done), self._total, value, f"{len(self._done)} trainings")

    def encoding(self, done: int, total: int) -> None:
        """Of one after the other."""
        self._watcher.encoding(done, total)

    def measured(self, history: History) -> None:
        """The first's."""
        if self._number == 0:
            self._watcher.measured(history)

    def preview(self, done: int, concept: Concept) -> None:
        """The first's."""
        if self._number == 0:
            self._watcher.preview(done, concept)
