"""The loss that looks at the subject only, or at the background only."""

from __future__ import annotations

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
