"""Variants of one training run in one batch of the shared U-Net: the same views, noise and timesteps for all."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .device import backward, is_out_of_memory
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
    """Subject vectors of several variants of a run, whose background tokens are learnt already and shared; where they
    are to be learnt beside the subject, each variant has its own.

    When memory runs out a step is done again with less: activations are computed anew, then fewer variants go through
    at once, and at last one after the other in halves of its batch. Each variant's gradient reaches its own vectors
    only, so that it learns what it would have learnt alone. `smooth` are their running means, for comparisons that a
    single step's noise would blur. To be used within the model's training().
    """

    def __init__(self, run: TrainingRun, variants: Sequence[Variant], steps: int):
        self.run, self.variants = run, list(variants)
        self.vectors: list[Embedding] = [{k: v.detach().clone().requires_grad_() for k, v in run.vectors.items()}
                                         for _ in variants]  # fmt: skip
        self.smooth: list[Embedding] = [{k: v.detach().clone() for k, v in own.items()} for own in self.vectors]
        self.backgrounds: list[list[Embedding]] = [
            run.backgrounds if run.apart else [{k: v.detach().clone().requires_grad_() for k, v in one.items()}
                                               for one in run.backgrounds] for _ in variants
        ]  # fmt: skip
        self._together, self._parts = len(variants), 1
        self._generator = torch.Generator().manual_seed(run.settings.seed + 4)
        learnt = [*self.vectors, *([] if run.apart else [one for own in self.backgrounds for one in own])]
        groups = [{"params": [v], "lr": run.rate_of(k)} for own in learnt for k, v in own.items()]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda i: min(1.0, (i + 1) / (0.1 * steps)))
        half = run.model.compute_dtype == torch.float16
        self._scaler = torch.amp.GradScaler(run.model.device.type, enabled=half)

    def step(self) -> list[float]:
        """One optimiser step of all variants; their losses."""
        before = self._generator.get_state()
        while True:
            try:
                values = self._gradients()
                break
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self._make_room():
                    raise
            gc.collect()  # what the failed step held
            self._generator.set_state(before)
            self._optimiser.zero_grad(set_to_none=True)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad(set_to_none=True)
        self._schedule.step()
        for mean, own in zip(self.smooth, self.vectors, strict=True):
            for key, value in own.items():
                mean[key].lerp_(value.detach(), _NEW)
        return values

    def _gradients(self) -> list[float]:
        """Add up the gradients of one random batch for all variants; their losses."""
        run = self.run
        random = draw(run.model, run.views, run.settings.batch_size, self._generator, run.settings.timestep_sampling)
        values = [0.0] * len(self.variants)
        for chosen in self._groups(len(self.variants), run.views, len(random.index)):
            for samples in random.split(self._parts):
                parts = [Part(replace(run.views, masks=self.variants[i].masks), samples, self.vectors[i],
                              self.backgrounds[i], self.variants[i].strength, "subject") for i in chosen]  # fmt: skip
                found = [each.sum() / len(random.index) for each in losses(run.model, parts)]
                backward(self._scaler.scale(torch.stack(found).sum()))
                for i, value in zip(chosen, found, strict=True):
                    values[i] += float(value.detach())
        return values

    def _make_room(self) -> bool:
        """Take the next measure against running out of memory; False when there is none left."""
        if self.run.model.save_memory():
            return True
        together = min(self._together, _fit(self.run.views, self.run.settings.batch_size))
        if together > 1:
            self._together = together // 2
            return True
        self._parts *= 2
        return self._parts == 2 and self.run.settings.batch_size > 1

    def keep(self, wanted: Sequence[int]) -> None:
        """Go on with these variants only."""
        gone = [i for i in range(len(self.vectors)) if i not in wanted]
        dropped = {id(v) for i in gone for own in (self.vectors[i], *self.backgrounds[i]) for v in own.values()}
        for group in self._optimiser.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in dropped]
        self.vectors, self.variants = [self.vectors[i] for i in wanted], [self.variants[i] for i in wanted]
        self.backgrounds = [self.backgrounds[i] for i in wanted]
        self.smooth = [self.smooth[i] for i in wanted]

    @torch.no_grad()
    def measure(self, views: Views, draws: Sequence[Draw], vectors: Sequence[Embedding]) -> Tensor:
        """Errors inside and outside the views' own masks, under prompts without a background: [variants, 2, N]."""
        found = []
        for one in draws:
            masks = views.masks[one.index]
            groups = self._groups(len(vectors), views, len(one.index))
            parts = [[Part(views, one, vectors[i], (), 1.0, "all") for i in group] for group in groups]
            seen = [own for group in parts for own in predict(self.run.model, group)]
            found.append(torch.stack([torch.stack([own.error(masks), own.error(1 - masks)]) for own in seen]))
        return torch.cat(found, -1).cpu()

    @staticmethod
    def batch_of(run: TrainingRun, variants: int) -> int:
        """How many samples go through the U-Net at once in a step of so many variants of a run."""
        batch = run.settings.batch_size
        return batch * min(variants, _fit(run.views, batch))

    def _groups(self, count: int, views: Views, samples: int) -> Iterator[range]:
        """Which variants go through at once: as many as the device is likely to hold, all of them at the demo's size,
        one at SD1.5's with the usual batch, so that the peak is that of training one.
        """
        together = min(self._together, _fit(views, samples))
        for start in range(0, count, together):
            yield range(start, min(count, start + together))


def _fit(views: Views, samples: int) -> int:
    """How many variants with so many samples each a batch is likely to hold."""
    return max(1, _CELLS // (samples * views.latents.shape[-2] * views.latents.shape[-1]))
