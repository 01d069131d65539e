"""The fixed losses of a run: the same photos, noise and timesteps each time, so that a loss that falls has fallen."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ..attractor.errors import AttractorError
from .device import is_out_of_memory
from .history import History
from .model import DiffusionModel, Embedding
from .objective import Draw, Part, Subject, fixed_draws, losses_in_turn
from .representations import Representation
from .running_mean import RunningMean
from .settings import TrainSettings
from .views import Views

SAMPLES = 24
_MOST, _FEWEST = 12, 6  # measurements in a phase, and in one that is soon over
_SHARE = 0.25  # of a phase's passes through the U-Net, for measuring


class Measuring:
    """Measures a run's subject, or its running mean where it has one, and its background tokens."""

    def __init__(self, model: DiffusionModel, settings: TrainSettings, own: Representation, mean: RunningMean):
        self._model, self._settings, self._own, self._mean = model, settings, own, mean
        self._is_short = False  # of memory: sample by sample

    def draws(self, views: Views, seed: int, count: int = SAMPLES) -> list[Draw]:
        """Draws to measure on; larger batches without gradients take no more memory than plain training does."""
        s = self._settings
        batch = min(count, s.batch_size * (1 if s.checkpointing else 3))
        return fixed_draws(self._model, views, count, batch, s.seed + seed)

    def every(self, steps: int, draws: Sequence[Draw]) -> int:
        """Steps from one measurement to the next. Fewer measurements where a step has few samples: one that is trained
        on costs two passes through the U-Net, one that is measured on costs one.
        """
        passes = sum(len(one.index) for one in draws)
        dear = math.ceil(passes / (2 * self._settings.batch_size * _SHARE))
        return max(1, min(max(steps // _MOST, dear), steps // _FEWEST))

    @torch.no_grad()
    def losses(
        self, views: Views, draws: Sequence[Draw], backgrounds: Sequence[Embedding], part: str, history: History,
        subject: Subject | None = None,
    ) -> Tensor:  # fmt: skip
        """Losses of the fixed samples: [N]. part: "background" or "subject". subject: in the place of the run's own.

        Raises AttractorError where they are no numbers.
        """
        self._own.eval()
        pieces = [piece for one in draws for piece in one.split(len(one.index) if self._is_short else 1)]
        parts = [Part(views, d, subject or self._own, backgrounds, self._settings.strength, part)
                 for d in pieces]  # fmt: skip
        try:
            with self._mean.in_place() if subject is None else nullcontext():
                values = losses_in_turn(self._model, parts).cpu()
        except RuntimeError as error:
            if self._is_short or not is_out_of_memory(error):
                raise
            self._is_short, values = True, None
        if values is None:  # sample by sample from here on
            gc.collect()
            return self.losses(views, draws, backgrounds, part, history, subject)
        if not torch.isfinite(values).all():
            raise AttractorError(
                f"The loss became nan at step {len(history.losses)}, measured on the {part}. Nothing was kept. "
                "Lower learning_rate, or look for NaN in the MODEL or the VAE."
            )
        return values
