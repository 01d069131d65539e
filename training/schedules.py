"""How a training's numbers run over its steps and over the noise: learning rate, timesteps, weights, running means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SCHEDULES = ("cosine", "constant")
TIMESTEPS = ("uniform", "toward noise")
_WARM = 20  # the first so-manieth part of the steps
_LEAN = 0.5  # of "toward noise"


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """Factor of the learning rate in step `step` of `steps`, counted from 0: warm-up, then a cosine down to a tenth,
    or constant.
    """
    warm = max(1, steps // _WARM)
    if step < warm:
        return (step + 1) / warm
    if schedule == "constant":
        return 1.0
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def draw_timesteps(how: str, timesteps: int, count: int, generator: torch.Generator) -> Tensor:
    """Timesteps [count] below `timesteps`: "uniform", or "toward noise", where the picture's layout is decided.

    The second has the density (1 - a cos(pi t / T)) / T with a = .5, the importance sampling of ReVersion (Huang et
    al., arXiv 2303.13495, section 4.3).
    """
    if how == "uniform":
        return torch.randint(timesteps, (count,), generator=generator)
    density = 1 - _LEAN * torch.cos(math.pi * (torch.arange(timesteps) + 0.5) / timesteps)
    return torch.multinomial(density, count, replacement=True, generator=generator)


def snr_weight(sigma: Tensor, gamma: float, prediction: str) -> Tensor:
    """min(SNR, gamma) / SNR where the model predicts noise, / (SNR + 1) where it predicts velocity: [B].

    Hang et al., arXiv 2303.09556, section 3.4. SNR = 1 / sigma^2, for sigma [B] is in units of the clean latent.
    """
    ratio = sigma.clamp(min=1e-6) ** -2
    return ratio.clamp(max=gamma) / (ratio + 1 if prediction == "v" else ratio)


def mean_weight(decay: float, step: int) -> float:
    """Weight of the newest numbers in their running mean after step `step`, counted from 1; less decay at first."""
    return 1 - min(decay, (1 + step) / (10 + step))
