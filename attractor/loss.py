"""The loss that looks at the subject only or at the background only, and what keeps the rest of a prompt as it is."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_error(denoised: Tensor, clean: Tensor, output_scale: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of the model's own output under a weight: [B], one value a sample.

    denoised, clean: [B, C, h, w] latents. weight: [B, 1, h, w], non-negative. output_scale: [B], the factor c_out by
    which the model's raw output enters the denoised latent (Karras et al., arXiv 2206.00364, eq. 7), so that
    (denoised - clean) / c_out is the error in the model's own prediction type: noise for eps, velocity for v.
    Each sample is divided by the sum of its weights: a small subject counts as much as a large one.
    """
    error = ((denoised - clean) / output_scale.view(-1, 1, 1, 1)).square().mean(1, keepdim=True)
    total = weight.sum((1, 2, 3)).clamp(min=1e-3)
    return (error * weight).sum((1, 2, 3)) / total


def context_drift(own: Tensor, plain: Tensor, subject: slice) -> Tensor:
    """How far a prompt's other words have moved because of the subject's: [B].

    own: encoded prompts [B, T, D], or [B, L, T, D] for each layer. plain: the same [B, T, D] with the class word in the
    subject's place, equally many vectors. subject: the places of those, which do not count. The mean of |h - h'|^2 over
    the other places, over the mean of |h'|^2: in the manner of the context regularisation of CoRe (Wu et al., arXiv
    2408.15914), made free of the encoder's scale.
    """
    other = torch.ones(plain.shape[-2], dtype=torch.bool, device=plain.device)
    other[subject] = False
    plain = plain if own.ndim == plain.ndim else plain[:, None]
    moved = (own - plain).square().sum(-1)[..., other].flatten(1).mean(1)
    return moved / plain.square().sum(-1)[..., other].flatten(1).mean(1).clamp(min=1e-8)
