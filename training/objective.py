"""One training step's loss: views, noise, timesteps, prompts with subject and background in them, and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attractor.loss import context_drift, weighted_error
from ..attractor.masks import pixel_weight
from ..attractor.prompts import BACKGROUND, SUBJECT, templates
from .contexts import Row, encode_together
from .model import Context, DiffusionModel, Embedding, joined
from .representations import Words
from .schedules import draw_timesteps, snr_weight
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


def draw(
    model: DiffusionModel, views: Views, batch_size: int, generator: torch.Generator, timesteps: str = "uniform"
) -> Draw:
    """Draw a step from a CPU generator, so that every device gets the same numbers. timesteps: see draw_timesteps."""
    index = torch.randint(len(views.latents), (batch_size,), generator=generator)
    timestep = draw_timesteps(timesteps, model.timesteps, batch_size, generator)
    noise = torch.randn(batch_size, *views.latents.shape[1:], generator=generator)
    template = int(torch.randint(len(templates(False)), (1,), generator=generator))
    return Draw(index.to(model.device), timestep.to(model.device), noise.to(model.device), template)


def fixed_draws(model: DiffusionModel, views: Views, count: int, batch_size: int, seed: int) -> list[Draw]:
    """Draws for measuring: the photos in turn, timesteps spread evenly over the schedule and shuffled, fixed noise.

    Views with another background than their photo's are left out.
    With the noise and timesteps fixed a loss that falls has fallen (DVAR, Voronov et al., arXiv 2302.04841).
    """
    generator = torch.Generator().manual_seed(seed)
    spread = ((torch.arange(count) + 0.5) / count * model.timesteps).long()[torch.randperm(count, generator=generator)]
    photo = views.photo.where(~views.changed, -1).cpu()
    views_of = [torch.nonzero(photo == i).flatten() for i in photo.unique() if i >= 0]
    index = torch.stack([of[(row // len(views_of)) % len(of)] for row in range(count)
                         for of in [views_of[row % len(views_of)]]])  # fmt: skip
    draws = []
    for rows in torch.arange(count).split(batch_size):
        noise = torch.randn(len(rows), *views.latents.shape[1:], generator=generator)
        draws.append(
            Draw(index[rows].to(model.device), spread[rows].to(model.device), noise.to(model.device), 0)
        )
    return draws


@dataclass(frozen=True)
class Part:
    """A training's part in a batch: its views, what is random, what its prompt holds, and what counts.

    backgrounds: none, one shared by all photos, or one for each photo or shoot. phase: "subject" weighs pixels by
    m + (1 - s)(1 - m), "background" by 1 - m, "all" equally. min_snr: gamma of the weights of noise levels, 0 for none.
    keeps_context: weight of the rest of the prompt's drift from what it is beside `word`, the class word's vectors.
    """

    views: Views
    draw: Draw
    subject: Subject
    backgrounds: Sequence[Embedding]
    strength: float
    phase: str
    min_snr: float = 0.0
    keeps_context: float = 0.0
    word: Embedding | None = None


@dataclass(frozen=True)
class Prediction:
    """What the model sees in noisy latents: denoised, clean [B, C, h, w], and its output's scale [B]."""

    denoised: Tensor
    clean: Tensor
    scale: Tensor

    def error(self, weight: Tensor) -> Tensor:
        """Weighted error of each sample: [B]."""
        return weighted_error(self.denoised, self.clean, self.scale, weight)


def predict(
    model: DiffusionModel, parts: Sequence[Part], contexts: Sequence[Context] | None = None
) -> list[Prediction]:
    """All parts in one batch of the U-Net. contexts: the parts' prompts, where they are encoded already."""
    contexts = contexts or contexts_of(model, parts)
    clean = [part.views.latents[part.draw.index] for part in parts]
    sigmas = [model.sigma(part.draw.timestep) for part in parts]
    noisy = [latents + sigma.view(-1, 1, 1, 1) * part.draw.noise
             for latents, sigma, part in zip(clean, sigmas, parts, strict=True)]  # fmt: skip
    denoised = model.denoise(torch.cat(noisy), torch.cat(sigmas), joined(contexts))
    each = denoised.split([len(latents) for latents in clean])
    return [Prediction(seen, latents, model.output_scale(sigma))
            for seen, latents, sigma in zip(each, clean, sigmas, strict=True)]  # fmt: skip


def losses(
    model: DiffusionModel, parts: Sequence[Part], contexts: Sequence[Context] | None = None
) -> list[Tensor]:
    """Weighted errors of the samples of each part: [B] each."""
    contexts = contexts or contexts_of(model, parts)
    found = []
    for part, seen, context in zip(parts, predict(model, parts, contexts), contexts, strict=True):
        masks = part.views.masks[part.draw.index]
        weight = {
            "subject": lambda masks=masks, part=part: pixel_weight(masks, part.strength),
            "background": lambda masks=masks: 1 - masks,
            "all": lambda masks=masks: torch.ones_like(masks),
        }[part.phase]()
        value = seen.error(weight)
        if part.min_snr:
            value = value * snr_weight(model.sigma(part.draw.timestep), part.min_snr, model.prediction)
        if part.keeps_context and part.word is not None:
            value = value + part.keeps_context * _drift(model, part, part.word, context)
        found.append(value)
    return found


def loss(model: DiffusionModel, part: Part) -> Tensor:
    """Losses of one part's samples: [B]."""
    return losses(model, [part])[0]


def losses_in_turn(model: DiffusionModel, parts: Sequence[Part]) -> Tensor:
    """Losses [N] of parts of one training that differ in their draws alone, batch by batch, prompts encoded once."""
    first, draws = parts[0], [part.draw for part in parts]
    every = replace(first.draw, index=torch.cat([one.index for one in draws]),
                    timestep=torch.cat([one.timestep for one in draws]))  # fmt: skip
    words = _words(replace(first, draw=every))
    if len(next(iter(words.vectors.values()))) > 1 or len({one.template for one in draws}) > 1:
        return torch.cat([loss(model, part) for part in parts])
    context = contexts_of(model, [replace(first, draw=every, subject=lambda _: words)])[0]
    rows = torch.arange(len(every.index), device=every.index.device).split([len(one.index) for one in draws])
    return torch.cat([losses(model, [part], [context.select(own)])[0] for part, own in zip(parts, rows, strict=True)])


def contexts_of(model: DiffusionModel, parts: Sequence[Part]) -> list[Context]:
    """The parts' contexts, a row for each sample: each distinct prompt is encoded once, all of them in one batch."""
    words = [_words(part) for part in parts]
    spelt = [_rows(part, own) for part, own in zip(parts, words, strict=True)]
    encoded = encode_together(model.encode, [(rows, own) for (rows, _), own in zip(spelt, words, strict=True)])
    return [found.select(which) for found, (_, which) in zip(encoded, spelt, strict=True)]


def _words(part: Part) -> Words:
    return part.subject(part.draw.timestep) if callable(part.subject) else Words.same(part.subject)


def _rows(part: Part, words: Words) -> tuple[list[Row], Tensor]:
    """The distinct prompts of a part's samples, and which of them each sample has: [B].

    Where a view's background has been changed, the tokens of the photo's own do not belong in its prompt.
    """
    views, index, backgrounds = part.views, part.draw.index, part.backgrounds
    shoot = views.shoot[index]
    none = torch.full_like(shoot, -1)
    group = (shoot % len(backgrounds)).where(~views.changed[index], none) if backgrounds else none

    def row(number: int) -> Row:
        prompt = templates(number >= 0)[part.draw.template]
        return Row(prompt, {BACKGROUND: backgrounds[number]} if number >= 0 else {})

    if len(next(iter(words.vectors.values()))) > 1:  # other words at each timestep
        return [row(int(number)) for number in group], torch.arange(len(group), device=group.device)
    used, which = torch.unique(group, return_inverse=True)
    return [row(int(number)) for number in used], which


def _drift(model: DiffusionModel, part: Part, word: Embedding, context: Context) -> Tensor:
    """How far the words around the subject have moved from where they stand beside the class word: [B]."""
    with torch.no_grad():
        plain = contexts_of(model, [replace(part, subject=word)])[0]
    before = templates(False)[part.draw.template].split(SUBJECT)[0]
    first = 1 + len(next(iter(model.words(before).values())))  # after the token of the beginning
    return context_drift(context.tokens, plain.tokens, slice(first, first + len(next(iter(word.values())))))
