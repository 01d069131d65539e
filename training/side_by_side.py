"""Variants of one training run in one batch of the shared U-Net: the same views, noise and timesteps for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .device import backward
from .model import Embedding
from .objective import Draw, Part, draw, losses, predict
from .run import TrainingRun
from .views import Views

_CELLS = 4 * 64 * 64  # latent cells in one batch: a batch of 4 at 512 pixels
_NEW = 0.08  # weight of the newest vectors in their running mean


@dataclass(frozen=True)
class Variant:
    """What differs: attractor strength, and the masks of the run's views [V, 1, h, w]."""

    strength: float
    masks: Tensor


class SideBySide:
    """Subject vectors of several variants of a run, whose background tokens are learnt already and shared.

    Each variant's gradient reaches its own vectors only, so that it learns what it would have learnt alone. `smooth`
    are their running means, for comparisons that a single step's noise would blur. To be used within the model's
    training().
    """

    def __init__(self, run: TrainingRun, variants: Sequence[Variant], steps: int):
        self.run, self.variants = run, list(variants)
        self.vectors: list[Embedding] = [{k: v.detach().clone().requires_grad_() for k, v in run.vectors.items()}
                                         for _ in variants]  # fmt: skip
        self.smooth: list[Embedding] = [{k: v.detach().clone() for k, v in own.items()} for own in self.vectors]
        self._generator = torch.Generator().manual_seed(run.settings.seed + 4)
        groups = [{"params": [v], "lr": run.rate_of(k)} for own in self.vectors for k, v in own.items()]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda i: min(1.0, (i + 1) / (0.1 * steps)))
        half = run.model.compute_dtype == torch.float16
        self._scaler = torch.amp.GradScaler(run.model.device.type, enabled=half)

    def step(self) -> list[float]:
        """One optimiser step of all variants; their losses."""
        run = self.run
        random = draw(run.model, run.views, run.settings.batch_size, self._generator)
        values: list[Tensor] = []
        for start, vectors in self._groups(self.vectors, run.views, len(random.index)):
            variants = self.variants[start : start + len(vectors)]
            parts = [Part(replace(run.views, masks=one.masks), random, own, run.backgrounds, one.strength, "subject")
                     for one, own in zip(variants, vectors, strict=True)]  # fmt: skip
            found = [each.mean() for each in losses(run.model, parts)]
            backward(self._scaler.scale(torch.stack(found).sum()))
            values += [value.detach() for value in found]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self._schedule.step()
        for mean, own in zip(self.smooth, self.vectors, strict=True):
            for key, value in own.items():
                mean[key].lerp_(value.detach(), _NEW)
        return [float(value) for value in values]

    def keep(self, wanted: Sequence[int]) -> None:
        """Go on with these variants only."""
        kept = [self.vectors[i] for i in wanted]
        dropped = {id(v) for i, own in enumerate(self.vectors) if i not in wanted for v in own.values()}
        for group in self._optimiser.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in dropped]
        self.vectors, self.variants = kept, [self.variants[i] for i in wanted]
        self.smooth = [self.smooth[i] for i in wanted]

    @torch.no_grad()
    def measure(self, views: Views, draws: Sequence[Draw], vectors: Sequence[Embedding]) -> Tensor:
        """Errors inside and outside the views' own masks, under prompts without a background: [variants, 2, N]."""
        found = []
        for one in draws:
            masks = views.masks[one.index]
            groups = self._groups(vectors, views, len(one.index))
            parts = [[Part(views, one, own, (), 1.0, "all") for own in group] for _, group in groups]
            seen = [own for group in parts for own in predict(self.run.model, group)]
            found.append(torch.stack([torch.stack([own.error(masks), own.error(1 - masks)]) for own in seen]))
        return torch.cat(found, -1).cpu()

    @staticmethod
    def _groups(
        vectors: Sequence[Embedding], views: Views, samples: int
    ) -> Iterator[tuple[int, Sequence[Embedding]]]:
        """As many variants at once as the device is likely to hold, with the index of the first: all of them at the
        demo's size, one at SD1.5's with the usual batch, so that the peak is that of training one.
        """
        cells = samples * views.latents.shape[-2] * views.latents.shape[-1]
        together = max(1, _CELLS // cells)
        for start in range(0, len(vectors), together):
            yield start, vectors[start : start + together]
