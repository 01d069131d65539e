"""Variants of one training run in one batch of the shared U-Net: the same views, noise and timesteps for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attractor.loss import weighted_error
from ..attractor.masks import pixel_weight
from ..attractor.prompts import BACKGROUND, SUBJECT, templates
from .loop import TrainingRun
from .model import Embedding
from .objective import Draw, draw
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
            losses = self._losses(run.views, random, vectors, run.backgrounds)
            variants = self.variants[start : start + len(vectors)]
            weights = [pixel_weight(one.masks[random.index], one.strength) for one in variants]
            found = [weighted_error(*own, w).mean() for own, w in zip(losses, weights, strict=True)]
            self._scaler.scale(torch.stack(found).sum()).backward()
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
            parts = [part for _, group in groups for part in self._losses(views, one, group, ())]
            found.append(torch.stack([torch.stack([weighted_error(*own, masks), weighted_error(*own, 1 - masks)])
                                      for own in parts]))  # fmt: skip
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

    def _losses(
        self, views: Views, random: Draw, vectors: Sequence[Embedding], backgrounds: Sequence[Embedding]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each variant, what it sees, what is there and the output's scale, from one forward of the U-Net."""
        model, count, size = self.run.model, len(vectors), len(random.index)
        latents = views.latents[random.index]
        sigma = model.sigma(random.timestep)
        noisy = latents + sigma.view(-1, 1, 1, 1) * random.noise
        prompt = templates(bool(backgrounds))[random.template]
        photo = views.photo[random.index] if len(backgrounds) > 1 else torch.zeros_like(random.index)
        used, which = torch.unique(photo, return_inverse=True)
        embedded = [{SUBJECT: own, **({BACKGROUND: backgrounds[int(i)]} if backgrounds else {})}
                    for own in vectors for i in used]  # fmt: skip
        context = model.encode([prompt] * len(embedded), embedded)
        index = torch.cat([which + k * len(used) for k in range(count)])
        denoised = model.denoise(noisy.repeat(count, 1, 1, 1), sigma.repeat(count), context.select(index))
        scale = model.output_scale(sigma)
        return [(part, latents, scale) for part in denoised.split(size)]
