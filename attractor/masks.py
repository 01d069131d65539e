"""Attractor masks: checking, cleaning, the weight a pixel gets in the loss, and the picture that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes, gaussian_filter, grey_dilation, grey_erosion, label
from torch import Tensor

from .errors import AttractorError


@dataclass(frozen=True)
class Refinement:
    """How a raw mask is refined. grow: pixels per 1000 of the longer side, negative shrinks. feather: blur, likewise.

    fill_holes: holes inside the subject become subject.
    """

    grow: float = 0.0
    feather: float = 4.0
    fill_holes: bool = True


def pixel_weight(mask: Tensor, strength: float) -> Tensor:
    """Weight of each pixel in the subject's loss, m + (1 - s)(1 - m): s = 0 is plain training, s = 1 the mask.

    mask: any shape, in [0, 1]. strength: s in [0, 1]; AttractorError outside it.
    """
    if not 0 <= strength <= 1:
        raise AttractorError(f"strength is {strength:g}: the attractor strength lies between 0 and 1.")
    return mask + (1 - strength) * (1 - mask)


def to_latent_grid(mask: Tensor, height: int, width: int) -> Tensor:
    """Mean of the mask over each latent cell: [B, H, W] to [B, 1, height, width]. H, W: any multiple or not."""
    return F.adaptive_avg_pool2d(mask[:, None], (height, width))


def check_mask(mask: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """An external mask for the photo `name` of size (width, height), as float32 [H, W] in [0, 1].

    A mask of the photo's proportions is resized. Raises AttractorError for other proportions, NaN, or all zero.
    """
    mask = mask.detach().to("cpu", torch.float32, copy=True).squeeze()
    if mask.ndim != 2:
        raise AttractorError(f"{name}: a mask of shape {tuple(mask.shape)} came in; one [height, width] is needed.")
    if not torch.isfinite(mask).all():
        raise AttractorError(f"{name}: its mask has NaN or infinite values. Check the node that the mask comes from.")
    width, height = size
    if abs(mask.shape[1] * height - mask.shape[0] * width) > max(width, height) * max(mask.shape) * 0.02:
        raise AttractorError(
            f"{name}: its mask is {mask.shape[1]} x {mask.shape[0]}, the photo {width} x {height}: other proportions. "
            "Make the mask from this very photo (output 'photos' of Attractor_LoadSubject)."
        )
    mask = F.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    if float(mask.max()) < 0.01:
        raise AttractorError(f"{name}: its mask is all zero, so no pixel would be learnt. Paint the subject white.")
    return mask


def refine(mask: Tensor, how: Refinement) -> Tensor:
    """Grow or shrink, fill holes and feather a mask [H, W] in [0, 1]."""
    array = mask.numpy()
    unit = max(array.shape) / 1000
    if how.fill_holes:
        array = np.maximum(array, np.asarray(binary_fill_holes(array > 0.5), dtype=np.float32))
    radius = round(abs(how.grow) * unit)
    if radius:
        change = grey_dilation if how.grow > 0 else grey_erosion
        array = change(array, footprint=_disc(radius))
    if how.feather > 0:
        array = gaussian_filter(array, how.feather * unit)
    return torch.from_numpy(np.clip(array, 0, 1).astype(np.float32))


def verdict(mask: Tensor) -> str:
    """What a mask [H, W] looks like: "good", or what is doubtful about it, in a few words."""
    inside = mask > 0.5
    share = float(inside.float().mean())
    if share < 0.005:
        return "no subject found"
    if share < 0.02:
        return "subject too small"
    if share > 0.9:
        return "covers nearly everything"
    border = torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).float().mean()
    if border > 0.25:
        return "touches the border"
    labels = np.zeros(inside.shape, dtype=np.int32)
    label(inside.numpy(), output=labels)
    sizes = np.sort(np.bincount(labels.ravel())[1:])[::-1]
    if len(sizes) > 1 and sizes[1] > 0.4 * sizes[0]:
        return "several objects"
    if float(((mask - 0.5).abs() < 0.25).float().mean()) > 0.15:
        return "uncertain"
    return "good"


ADVICE = {
    "no subject found": "paint a mask by hand and connect it (back end 'external')",
    "subject too small": "crop the photo closer to the subject",
    "covers nearly everything": "right for a close-up; otherwise paint a mask (back end 'external')",
    "touches the border": "right when the photo cuts the subject off; otherwise check the overlay",
    "several objects": "keep one of them: paint a mask (back end 'external') or crop the photo",
    "uncertain": "check the overlay; a sharper photo or a painted mask helps",
    "good": "",
}


def overlay(pixels: Tensor, mask: Tensor | None) -> Tensor:
    """The photo [3, H, W] with everything but the subject dimmed and tinted, and the outline drawn."""
    if mask is None:
        return pixels
    grey = pixels.mean(0, keepdim=True) * 0.35
    tinted = grey * torch.tensor([0.6, 0.75, 1.3])[:, None, None]
    shown = pixels * mask + tinted * (1 - mask)
    width = max(1, max(mask.shape) // 250)
    dilated = F.max_pool2d(mask[None, None], 2 * width + 1, 1, width)[0, 0]
    edge = ((dilated > 0.5) & (mask <= 0.5)).float()
    return (shown * (1 - edge) + torch.tensor([1.0, 0.55, 0.1])[:, None, None] * edge).clamp(0, 1)


def verdict_text(names: Sequence[str], verdicts: Sequence[str], masks: Sequence[Tensor]) -> str:
    """One line a photo: its verdict, how much of the frame the subject covers, and what to do."""
    lines = []
    for name, found, mask in zip(names, verdicts, masks, strict=True):
        advice = f" - {ADVICE[found]}" if ADVICE.get(found) else ""
        lines.append(f"{name}: {found} (subject covers {float(mask.mean()):.0%}){advice}")
    return "\n".join(lines)


def _disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius
