"""Sampling through the host's own samplers and schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...attractor.errors import AttractorError
from ...attractor.prompts import SUBJECT, spoken
from ...metrics.generations import Generated, Generations
from ...training.concept import Concept
from .identity import identity_of, prediction_type
from .layered import layered
from .text import encoders, table, tokenise

# samplers that draw noise while they run: the noise depends on the batch, so a picture is sampled by itself
_STOCHASTIC = ("ancestral", "sde", "lcm", "ddpm", "sa_solver", "seeds", "restart", "_cfg_pp_a", "dpm_adaptive")


@dataclass(frozen=True)
class SamplerSettings:
    """Settings of the host's sampler, kept with every picture."""

    steps: int = 20
    cfg: float = 7.0
    sampler_name: str = "euler"
    scheduler: str = "normal"
    width: int = 512
    height: int = 512
    negative: str = ""


def conditioning(clip: Any, prompt: str, concept: Concept | None, class_word: str = "") -> list:
    """CONDITIONING of a prompt, as the host's CLIPTextEncode gives it, with the concept where `<subject>` stands."""
    if concept is None:
        if SUBJECT in prompt and not class_word.strip():
            raise AttractorError(
                f"The prompt has {SUBJECT} in it, but there is no CONCEPT and class_word is empty. Connect a concept "
                "or say in a word what the subject is."
            )
        return clip.encode_from_tokens_scheduled(clip.tokenize(spoken(prompt, class_word) if class_word else prompt))
    widths = {key: table(encoder).shape[-1] for key, encoder in encoders(clip).items()}
    concept.check_fits(widths, None, "this CLIP")
    return clip.encode_from_tokens_scheduled(tokenise(clip, prompt, {SUBJECT: concept.vectors}))


def prompted(
    model: Any, clip: Any, prompt: str, concept: Concept | None, class_word: str = "", truncation: int = 0
) -> tuple[Any, list]:
    """MODEL and CONDITIONING of a prompt with a concept of any representation; see layered and conditioning."""
    plain = conditioning(clip, prompt, concept, class_word)
    return (model, plain) if concept is None else layered(model, clip, prompt, concept, plain, truncation)


def sample_grid(
    model: Any, clip: Any, vae: Any, concept: Concept | None, class_word: str, prompts: Sequence[str],
    seeds: Sequence[int], settings: SamplerSettings, batch_size: int, shows_progress: bool = True,
) -> Generations:  # fmt: skip
    """Every prompt with every seed. The same seed gives the same picture whatever the batch size."""
    word = class_word.strip() or (concept.class_word if concept else "")
    if concept is not None and not any(SUBJECT in prompt for prompt in prompts):
        raise AttractorError(
            f"prompts: none has {SUBJECT} in it, so the concept would do nothing. Write {SUBJECT} where it belongs."
        )
    bar = comfy.utils.ProgressBar(len(prompts) * len(seeds)) if shows_progress else None
    negative = conditioning(clip, settings.negative, concept, word)
    images, items = [], []
    size = 1 if any(part in settings.sampler_name for part in _STOCHASTIC) else max(1, batch_size)
    for prompt in prompts:
        patched, positive = prompted(model, clip, prompt, concept, word)
        for start in range(0, len(seeds), size):
            chosen = list(seeds[start : start + size])
            latents = _sample(patched, positive, negative, chosen, settings)
            images.append(_decode(vae, latents))
            items += [Generated(prompt, seed, asdict(settings)) for seed in chosen]
            if bar is not None:
                bar.update(len(chosen))
    identity = {"prediction": prediction_type(model), **identity_of(model, clip, vae)}
    return Generations(torch.cat(images), tuple(items), word, concept, identity)


def _sample(model: Any, positive: list, negative: list, seeds: Sequence[int], settings: SamplerSettings) -> Tensor:
    comfy.model_management.throw_exception_if_processing_interrupted()
    channels = model.get_model_object("latent_format").latent_channels
    latent = torch.zeros(len(seeds), channels, settings.height // 8, settings.width // 8)
    noise = torch.cat([comfy.sample.prepare_noise(latent[:1], seed) for seed in seeds])
    return comfy.sample.sample(
        model, noise, settings.steps, settings.cfg, settings.sampler_name, settings.scheduler, positive, negative,
        latent, seed=seeds[0], disable_pbar=True,
    )  # fmt: skip


def _decode(vae: Any, latents: Tensor) -> Tensor:
    """[B, 3, H, W] in [0, 1]."""
    decoded = vae.decode(latents)
    return decoded.reshape(-1, *decoded.shape[-3:]).movedim(-1, 1).float().cpu().clamp(0, 1)
