"""One training step's loss: views, noise, timesteps, prompts with subject and background in them, and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attractor.loss import weighted_error
from ..attractor.masks import pixel_weight
from ..attractor.prompts import BACKGROUND, templates
from .contexts import encode_words
from .model import Context, DiffusionModel, Embedding
from .representations import Words
from .views import Views

Subject = Embedding | Callable[[Tensor], Words]
"""What the subject's word stands for: vectors, or a representation, which gives them for timesteps."""


@dataclass(frozen=True)
class Draw:
    """What is random in a step: view indices [B], timesteps [B], noise [B, C, h, w], and which template."""

    index: Tensor
    timestep: Tensor
    noise: Tensor
    template: int

    def split(self, parts: int) -> list[Draw]:
        """The same samples in so many parts."""
        cut = zip(self.index.chunk(parts), self.timestep.chunk(parts), self.noise.chunk(parts), strict=True)
        return [Draw(index, timestep, noise, self.template) for index, timestep, noise in cut]


def draw(model: DiffusionModel, views: Views, batch_size: int, generator: torch.Generator) -> Draw:
    """Draw a step from a CPU generator, so that every device gets the same numbers."""
    index = torch.randint(len(views.latents), (batch_size,), generator=generator)
    timestep = torch.randint(model.timesteps, (batch_size,), generator=generator)
    noise = torch.randn(batch_size, *views.latents.shape[1:], generator=generator)
    template = int(torch.randint(len(templates(False)), (1,), generator=generator))
    return Draw(index.to(model.device), timestep.to(model.device), noise.to(model.device), template)


def fixed_draws(model: DiffusionModel, views: Views, count: int, batch_size: int, seed: int) -> list[Draw]:
    """Draws for measuring: the photos in turn, timesteps spread evenly over the schedule and shuffled, fixed noise.

    With the noise and timesteps fixed a loss that falls has fallen (DVAR, Voronov et al., arXiv 2302.04841).
    """
    generator = torch.Generator().manual_seed(seed)
    spread = ((torch.arange(count) + 0.5) / count * model.timesteps).long()[torch.randperm(count, generator=generator)]
    views_of = [torch.nonzero(views.photo.cpu() == i).flatten() for i in views.photo.unique().cpu()]
    index = torch.stack([of[(row // len(views_of)) % len(of)] for row in range(count)
                         for of in [views_of[row % len(views_of)]]])  # fmt: skip
    draws = []
    for rows in torch.arange(count).split(batch_size):
        noise = torch.randn(len(rows), *views.latents.shape[1:], generator=generator)
        draws.append(
            Draw(index[rows].to(model.device), spread[rows].to(model.device), noise.to(model.device), 0)
        )
    return draws


def loss(
    model: DiffusionModel, views: Views, step: Draw, subject: Subject, backgrounds: Sequence[Embedding],
    strength: float, part: str, context: Context | None = None,
) -> Tensor:  # fmt: skip
    """Weighted error of each sample of a step: [B].

    backgrounds: none, one shared by all photos, or one for each photo. part: "subject" weighs pixels by
    m + (1 - s)(1 - m), "background" by 1 - m, "all" equally. context: the prompt's, if it is encoded already.
    """
    latents, masks, photo = views.latents[step.index], views.masks[step.index], views.photo[step.index]
    sigma = model.sigma(step.timestep)
    noisy = latents + sigma.view(-1, 1, 1, 1) * step.noise
    context = context or _context(model, step, photo, subject, backgrounds)
    denoised = model.denoise(noisy, sigma, context)
    weight = {
        "subject": lambda: pixel_weight(masks, strength),
        "background": lambda: 1 - masks,
        "all": lambda: torch.ones_like(masks),
    }[part]()
    return weighted_error(denoised, latents, model.output_scale(sigma), weight)


def contexts_of(
    model: DiffusionModel, views: Views, draws: Sequence[Draw], subject: Subject, backgrounds: Sequence[Embedding]
) -> list[Context | None]:
    """The contexts of fixed draws, each distinct prompt encoded once; None where they differ by timestep."""
    words = subject(draws[0].timestep) if callable(subject) else Words.same(subject)
    if len(next(iter(words.vectors.values()))) > 1 or len({one.template for one in draws}) > 1:
        return [None] * len(draws)
    index = torch.cat([one.index for one in draws])
    every = replace(draws[0], index=index)
    context = _context(model, every, views.photo[index], lambda _: words, backgrounds)
    parts = torch.arange(len(index), device=index.device).split([len(one.index) for one in draws])
    return [context.select(part) for part in parts]


def _context(
    model: DiffusionModel, step: Draw, photo: Tensor, subject: Subject, backgrounds: Sequence[Embedding]
) -> Context:
    """Encode each distinct prompt once and give it to the samples that it belongs to."""
    prompt = templates(bool(backgrounds))[step.template]
    words = subject(step.timestep) if callable(subject) else Words.same(subject)
    same_at_all_timesteps = len(next(iter(words.vectors.values()))) == 1
    if not same_at_all_timesteps:
        beside = [{BACKGROUND: backgrounds[int(i) % len(backgrounds)]} if backgrounds else {} for i in photo]
        return encode_words(model.encode, prompt, words, beside)
    if len(backgrounds) <= 1:
        beside, which = [{BACKGROUND: one} for one in backgrounds] or [{}], torch.zeros_like(photo)
    else:
        used, which = torch.unique(photo, return_inverse=True)
        beside = [{BACKGROUND: backgrounds[int(i)]} for i in used]
    return encode_words(model.encode, prompt, words, beside).select(which)
