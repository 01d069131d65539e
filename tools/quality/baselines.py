"""The rivals, each after its paper or program, over the same model, photos, templates and loss as ours.

Textual Inversion: Gal et al., arXiv 2208.01618. Cross Initialization: Pang et al., arXiv 2312.15905 (the start is
the text encoder's output, with an L2 pull toward it). Directional Textual Inversion, arXiv 2512.13672 (the norm is
the vocabulary's mean, the direction is learnt on the sphere under a von Mises-Fisher prior). Soft masks as OneTrainer
has them: weights in [.1, 1], every tenth step without a mask, the loss divided by the weights' sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attractor.loss import weighted_error
from ...attractor.prompts import SUBJECT, templates
from ...training.concept import Concept
from ...training.device import deterministic
from ...training.model import DiffusionModel
from ...training.objective import Draw, draw
from ...training.photos import SubjectSet
from ...training.representations import SD15_TABLE_SCALE
from ...training.views import Views, make_views


@dataclass(frozen=True)
class Baseline:
    """How a rival trains.

    start: "word" (rows of the embedding table) or "output" (of the text encoder). optimiser: "adamw" or "sphere".
    learning_rate: AdamW's at SD1.5's embedding scale (for "output": of numbers of unit size), or the turn of a step in
    radians. pull: weight of the L2 distance to the start, or of the prior's mean direction on the sphere.
    soft_masks: OneTrainer's weights.
    """

    steps: int
    learning_rate: float
    batch_size: int = 4
    vectors: int = 3
    start: str = "word"
    optimiser: str = "adamw"
    pull: float = 0.0
    weight_decay: float = 0.0
    cosine: bool = True
    soft_masks: bool = False
    zoom: float = 1.2
    flip: bool = False
    resolution: int = 64


def train_baseline(model: DiffusionModel, subject: SubjectSet, how: Baseline, seed: int) -> Concept:
    """Learn a concept as the rival does; one text encoder only."""
    with torch.inference_mode(False), deterministic():
        views = make_views(model, subject, how.resolution, 8, how.zoom, how.flip, seed)
        with model.training(how.batch_size, how.resolution):
            vectors = _learn(model, views, subject, how, seed)
    return Concept(vectors, subject.class_word)


def _learn(model: DiffusionModel, views: Views, subject: SubjectSet, how: Baseline, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    (key, scale), start = *model.table_scale().items(), _start(model, subject.class_word, how, generator)
    vector = start.clone().requires_grad_(True)
    if how.start == "output":  # on the scale of its own start, not of the table
        scale = float(start.std()) * SD15_TABLE_SCALE
    rate = how.learning_rate * scale / SD15_TABLE_SCALE
    decay = how.weight_decay * how.learning_rate / rate  # of a step, as it was at SD1.5's scale
    optimiser = torch.optim.AdamW([vector], lr=rate, weight_decay=decay)
    for step in range(how.steps):
        share = step / how.steps
        factor = 0.1 + 0.45 * (1 + math.cos(math.pi * share)) if how.cosine else 1.0
        step_draw = draw(model, views, how.batch_size, generator)
        value = _loss(model, views, step_draw, {key: vector}, how.soft_masks and step % 10 != 9)
        if how.optimiser == "adamw" and how.pull:
            value = value + how.pull * (vector - start).norm()
        value.backward()
        if how.optimiser == "sphere":
            _turn(vector, start, how.pull, how.learning_rate * factor)
        else:
            optimiser.param_groups[0]["lr"] = rate * factor
            optimiser.step()
        vector.grad = None
    return {key: vector.detach().to("cpu", torch.float32, copy=True)}


def _start(model: DiffusionModel, word: str, how: Baseline, generator: torch.Generator) -> Tensor:
    """First vectors [n, D]."""
    (key, rows), scale = *model.words(word).items(), model.table_scale()
    with torch.no_grad():
        if how.start == "output":
            tokens = model.encode([f"a photo of a {SUBJECT}"], [{SUBJECT: {key: rows}}]).tokens
            rows = tokens[0, 5 : 5 + len(rows)].float()  # after <start> a photo of a
        start = rows[torch.arange(how.vectors) % len(rows)].clone()
        noise = torch.randn(start.shape, generator=generator) * 0.1 * scale[key]
        noise[: len(rows)] = 0
        start = start + noise.to(start.device)
        if how.optimiser == "sphere":
            start = start / start.norm(dim=-1, keepdim=True) * _mean_norm(model, key)
    return start


def _mean_norm(model: DiffusionModel, key: str) -> float:
    """Mean length of the vectors of the words that the demo model knows."""
    from ..pretrain.text import FUNCTION_WORDS
    from ..world import BACKGROUNDS, COLOUR_NAMES, KINDS, PATTERNS

    words = [*FUNCTION_WORDS, *KINDS, *COLOUR_NAMES, *PATTERNS, *BACKGROUNDS]
    return float(torch.cat([model.words(word)[key] for word in words]).norm(dim=-1).mean())


@torch.no_grad()
def _turn(vector: Tensor, mean: Tensor, kappa: float, angle: float) -> None:
    """One Riemannian step: along the tangent part of the gradient, scaled to its length, by `angle`."""
    if vector.grad is None:
        return
    length = vector.norm(dim=-1, keepdim=True)
    direction = vector / length
    gradient = vector.grad * length - kappa * mean / mean.norm(dim=-1, keepdim=True)
    gradient = gradient - (gradient * direction).sum(-1, keepdim=True) * direction
    gradient = gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    moved = direction - angle * gradient
    vector.copy_(moved / moved.norm(dim=-1, keepdim=True) * length)


def _loss(model: DiffusionModel, views: Views, step: Draw, subject: dict[str, Tensor], masked: bool) -> Tensor:
    latents, masks = views.latents[step.index], views.masks[step.index]
    sigma = model.sigma(step.timestep)
    prompt = templates(False)[step.template]
    context = model.encode([prompt], [{SUBJECT: subject}]).select(torch.zeros_like(step.index))
    denoised = model.denoise(latents + sigma.view(-1, 1, 1, 1) * step.noise, sigma, context)
    weight = masks.clamp(min=0.1) if masked else torch.ones_like(masks)
    return weighted_error(denoised, latents, model.output_scale(sigma), weight).mean()
