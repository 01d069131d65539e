"""Variants of our training that are tried in the ablation and are not in the product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attractor.attention import LARGEST, Gatherer
from ...attractor.loss import weighted_error
from ...attractor.masks import pixel_weight
from ...attractor.prompts import BACKGROUND, SUBJECT, templates
from ...training.concept import Concept
from ...training.device import deterministic
from ...training.history import History
from ...training.model import Context, DiffusionModel, Embedding
from ...training.objective import Draw, contexts_of, losses
from ...training.photos import SubjectSet
from ...training.run import TrainingRun
from ...training.settings import TrainSettings
from ...training.watcher import Silent


@contextmanager
def _seen_by(gatherer: Gatherer, model: Any) -> Iterator[None]:
    """Within it, the host's model shows the gatherer every attention of its denoising, gradients included."""

    def attention(_chosen: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        from comfy.ldm.modules.attention import attention_pytorch

        gatherer.take(q, k, heads)
        return attention_pytorch(q, k, v, heads, *args, **kwargs)

    def denoise(noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        return model._denoise(noisy, sigma, context, attention, (model.side, model.side))

    model.denoise = denoise
    try:
        yield
    finally:
        del model.denoise


@dataclass(frozen=True)
class Trial:
    """What is added to our training; one at a time.

    routing: from the start, a random half of each batch plays the subject's part (its pixels, background tokens
    detached), the other half the background's. contrast: weight of a contrastive term (InfoNCE, temperature .1)
    that holds the subject's vectors to the class word and away from the background's tokens. norm: keep the length
    of each vector at its start's. first_phase: "settles" (the product's rule), "fixed" (all its steps).
    stop_on: this many training photos are held out to choose the step by. nearer: views go nearer to small subjects, as
    the product's do; without, zoom counts from the whole window. attention: weight of the cross-attention
    loss of Break-A-Scene (Avrahami et al., arXiv 2305.16311, eq. 3). exclusion: weight by which residual tokens, which
    are those of the backgrounds, are kept from saying anything of other photos, after ConceptPrism (arXiv 2602.19575).
    """

    routing: bool = False
    contrast: float = 0.0
    norm: bool = False
    first_phase: str = "settles"
    stop_on: int = 0
    nearer: bool = True
    attention: float = 0.0
    exclusion: float = 0.0


def train_trial(
    model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, trial: Trial
) -> tuple[Concept, History]:
    """As `training.loop.train`, with a trial's change."""
    held_out = None
    if not trial.nearer:
        settings = _FromAfar(**settings.card())
    if trial.stop_on:
        held_out = replace(subject, photos=subject.photos[: trial.stop_on])
        subject = replace(subject, photos=subject.photos[trial.stop_on :])
    with torch.inference_mode(False), deterministic():
        run = _TrialRun(model, subject, settings, held_out, trial)
        with model.training(settings.batch_size, settings.resolution):
            run.learn_background()
            run.learn_subject(0)
    return run.concept(), run.history


class _FromAfar(TrainSettings):
    """Settings whose views stay as far from small subjects as the photo is."""

    @property
    def nearer(self) -> str:
        return "no"


class _TrialRun(TrainingRun):
    def __init__(self, model: DiffusionModel, subject: SubjectSet, settings: TrainSettings,
                 held_out: SubjectSet | None, trial: Trial):  # fmt: skip
        super().__init__(model, subject, settings, held_out, Silent())
        self.trial = trial
        self.lengths = {key: v.norm(dim=-1, keepdim=True) for key, v in self.vectors.items()}
        (self.key, self.word), *_ = model.words(subject.class_word).items()

    @property
    def apart(self) -> bool:
        """Routing learns both at once."""
        return not self.trial.routing and super().apart

    def has_settled(self, values: list[float]) -> bool:  # type: ignore[override]
        """The product's rule, unless the trial takes all steps."""
        return self.trial.first_phase == "settles" and super().has_settled(values)

    def step_losses(self, phase: str, random: Draw) -> Tensor:
        """The product's loss with the trial's change."""
        if self.trial.norm and phase == "subject":
            with torch.no_grad():
                for key, vector in self.vectors.items():
                    vector.mul_(self.lengths[key] / vector.norm(dim=-1, keepdim=True))
        if self.trial.routing:
            value = self._routed(random)
        elif self.trial.attention and phase == "subject":
            value = self._attended(random)
        else:
            value = super().step_losses(phase, random)
        if self.trial.exclusion and phase == "subject":
            value = value + self.trial.exclusion * self._exclusion(random)
        if self.trial.contrast and phase == "subject":
            value = value + self.trial.contrast * self._contrast()
        return value

    def _contrast(self) -> Tensor:
        subject = F.normalize(self.vectors[self.key], dim=-1)
        word = F.normalize(self.word.to(subject.device), dim=-1).mean(0)
        others = F.normalize(torch.cat([b[self.key].detach() for b in self.backgrounds]), dim=-1)
        logits = torch.cat([(subject @ word)[:, None], subject @ others.T], dim=1) / 0.1
        return F.cross_entropy(logits, torch.zeros(len(subject), dtype=torch.long, device=subject.device))

    def _routed(self, step: Draw) -> Tensor:
        latents, masks = self.views.latents[step.index], self.views.masks[step.index]
        part = torch.arange(len(step.index), device=masks.device) % 2
        shared = self.backgrounds[0]

        def still(embedding: Embedding) -> Embedding:
            return {key: value.detach() for key, value in embedding.items()}

        embedded = [{SUBJECT: self.vectors, BACKGROUND: still(shared)},
                    {SUBJECT: still(self.vectors), BACKGROUND: shared}]  # fmt: skip
        prompt = templates(True)[step.template]
        context = self.model.encode([prompt, prompt], embedded).select(part)
        sigma = self.model.sigma(step.timestep)
        denoised = self.model.denoise(latents + sigma.view(-1, 1, 1, 1) * step.noise, sigma, context)
        own = pixel_weight(masks, self.settings.strength)
        weight = torch.where(part.view(-1, 1, 1, 1) == 0, own, 1 - masks)
        return weighted_error(denoised, latents, self.model.output_scale(sigma), weight)

    def _attended(self, random: Draw) -> Tensor:
        """The product's loss, and how far the subject's cross-attention is from its mask.

        Mean of (A / max A - m)^2 over the finest grid of the U-Net's attention: A is the share of all the subject's
        tokens, mean over heads and layers.
        """
        part = self.part("subject", random)
        context = contexts_of(self.model, [part])[0]
        gatherer = Gatherer(part.views.latents.shape[-2:], context.tokens.shape[-2], LARGEST)
        with _seen_by(gatherer, self.model):
            value = losses(self.model, [part], [context])[0]
        finest = max(layer.shape for layer in gatherer.layers)
        before = templates(False)[random.template].split(SUBJECT)[0]
        first = 1 + len(next(iter(self.model.words(before).values())))
        own = slice(first, first + len(next(iter(self.vectors.values()))))
        shares = [layer.cross[..., own].sum(-1) for layer in gatherer.layers if layer.shape == finest]
        maps = torch.stack(shares).mean(0)
        maps = (maps / maps.amax(1, keepdim=True).clamp(min=1e-6)).view(len(maps), 1, *finest)
        masks = F.adaptive_avg_pool2d(part.views.masks[random.index], finest)
        return value + self.trial.attention * (maps - masks).square().mean((1, 2, 3))

    def _exclusion(self, random: Draw) -> Tensor:
        """|eps(z_j, residual_i) - eps(z_j, nothing)|^2 with photos j other than i: [B], of the mean over those.

        "Nothing" is the same prompt without the residual, so that the words around it count on neither side.
        """
        views, model = self.views, self.model
        photo, other = views.shoot[random.index], random.index.roll(1)
        used, which = torch.unique(photo, return_inverse=True)
        context = model.encode([f"a photo of a {BACKGROUND}"] * len(used),
                               [{BACKGROUND: self.backgrounds[int(i)]} for i in used])  # fmt: skip
        sigma = model.sigma(random.timestep)
        noisy = views.latents[other] + sigma.view(-1, 1, 1, 1) * random.noise
        with torch.no_grad():
            nothing = model.encode(["a photo of a"], [{}]).select(torch.zeros_like(which))
            plain = model.denoise(noisy, sigma, nothing)
        seen = model.denoise(noisy, sigma, context.select(which))
        apart = ((seen - plain) / model.output_scale(sigma).view(-1, 1, 1, 1)).square().mean((1, 2, 3))
        counts = (views.shoot[other] != photo).float()
        return apart * counts / counts.mean().clamp(min=1e-6)
