"""A run's losses as TensorBoard events, where the package tensorboard is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from .history import History

_SCALARS = {"losses": "loss/step", "background": "loss/background", "train": "loss/train", "held_out": "loss/held_out"}

log = logging.getLogger(__name__)


class Events:
    """Writes what a history has more than the last time; background steps are counted below zero, as in the curve."""

    def __init__(self, folder: Path):
        self._folder, self._writer, self._missing = folder, None, False
        self._written = dict.fromkeys(_SCALARS, 0)

    def skip(self, history: History) -> None:
        """What is in a history that was saved has been written."""
        self._written = {name: len(getattr(history, name)) for name in _SCALARS}

    def add(self, history: History) -> None:
        """Write the new points."""
        writer = self._open()
        if writer is None:
            return
        try:
            for name, label in _SCALARS.items():
                points = getattr(history, name)
                for step, value in points[self._written[name] :]:
                    writer.add_scalar(label, value, step)
                self._written[name] = len(points)
            writer.flush()
        except OSError as error:
            log.warning("TensorBoard's events cannot be written: %s", error)
            self._missing = True

    def close(self) -> None:
        """Nothing more comes."""
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> Any:
        if self._writer is None and not self._missing:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder))
            except (ImportError, OSError):
                self._missing = True
        return None if self._missing else self._writer
