"""Changes to a training picture that the subject survives: another background by its mask, slightly other colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attractor.errors import AttractorError

_COARSE = 1 / 16  # side of a blurred background's cells, of the picture's


def swapped(pixels: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """The subject on a colour that fades into another, with a little grain: [3, H, W]."""
    height, width = mask.shape
    corners = torch.rand(1, 3, 2, 2, generator=generator) * 0.5 + torch.rand(1, 3, 1, 1, generator=generator) * 0.5
    ground = F.interpolate(corners, (height, width), mode="bilinear", align_corners=True)[0]
    ground = (ground + 0.02 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)
    return pixels * mask + ground * (1 - mask)


def blurred(pixels: Tensor, mask: Tensor) -> Tensor:
    """The subject on its own background out of focus, into which none of its colours run: [3, H, W]."""
    height, width = mask.shape
    small = max(2, round(height * _COARSE)), max(2, round(width * _COARSE))
    outside = (1 - mask)[None]
    stack = torch.cat([pixels * outside, outside])[None]
    coarse = F.interpolate(stack, small, mode="area")
    weight = coarse[:, 3:]
    overall = stack[:, :3].mean((2, 3), keepdim=True) / stack[:, 3:].mean().clamp(min=1e-6)
    coarse = torch.where(weight > 0.02, coarse[:, :3] / weight.clamp(min=1e-6), overall)
    ground = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)
    return pixels * mask + ground * (1 - mask)


def change_background(how: str, pixels: Tensor, mask: Tensor | None, generator: torch.Generator) -> Tensor:
    """A picture [3, H, W] with another background: "swap" or "blur". Raises AttractorError when there is no mask."""
    if mask is None:
        raise AttractorError(
            f"background_change {how!r} needs masks, and a photo of the train set has none: wire the set through "
            "Attractor Mask first, or set background_change to none."
        )
    return swapped(pixels, mask, generator) if how == "swap" else blurred(pixels, mask)


def shift_colours(pixels: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Slightly other brightness, contrast, saturation and cast: [3, H, W]. most: at 1 contrast and saturation
    change by up to 30%, brightness by 15%, the channels by 9% more.
    """
    draw = (torch.rand(6, generator=generator) * 2 - 1) * 0.3 * most
    grey = pixels.mean(0, keepdim=True)
    out = grey + (pixels - grey) * (1 + draw[0])
    out = (out - out.mean()) * (1 + draw[1]) + out.mean()
    return (out * (1 + 0.5 * draw[2] + 0.3 * draw[3:6].view(3, 1, 1))).clamp(0, 1)
