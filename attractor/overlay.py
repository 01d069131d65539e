"""The picture that shows a mask: what it keeps, its verdict, and what the loss will see of it on the latent grid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .masks import pixel_weight, to_latent_grid
from .verdicts import GOOD

_OUTLINE, _DOUBT = (1.0, 0.55, 0.1), (255, 140, 60)


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
    return (shown * (1 - edge) + torch.tensor(_OUTLINE)[:, None, None] * edge).clamp(0, 1)


def effective_weight(mask: Tensor, strength: float, cells: int) -> tuple[Tensor, float]:
    """What the subject's loss sees of a square view's mask [R, R]: weight of each latent cell [cells, cells] over their
    mean, and the share of the weight that lies on the subject, which is its share of the gradient where all err alike.
    """
    grid = to_latent_grid(mask[None], cells, cells)[0, 0]
    weight = pixel_weight(grid, strength)
    total = weight.sum().clamp(min=1e-6)
    return weight / weight.mean().clamp(min=1e-6), float((weight * grid).sum() / total)


def mask_picture(
    pixels: Tensor, mask: Tensor, verdict: str, weight: Tensor, share: float, side: int = 512, name: str = ""
) -> Tensor:
    """Photo with its mask, beside the weight on the latent grid, and a line of words below: [3, H, W].

    weight: [h, w] of the training view. share: of the gradient that goes to the subject. name: of the photo.
    """
    height, width = pixels.shape[-2:]
    scale = side / max(height, width)
    tall, wide = max(8, round(height * scale)), max(8, round(width * scale))
    large = overlay(pixels, mask)[None]
    shown = F.interpolate(large, (tall, wide), mode="bilinear", antialias=scale < 1)[0].clamp(0, 1)
    heat = F.interpolate((weight / weight.max().clamp(min=1e-6))[None, None], (tall, tall), mode="nearest")[0, 0]
    coloured = torch.stack([heat, heat * 0.75, 0.25 * (1 - heat)])
    line = max(20, side // 18)
    canvas = torch.full((3, tall + line, wide + 8 + tall), 0.11)
    canvas[:, :tall, :wide], canvas[:, :tall, wide + 8 :] = shown, coloured
    picture = Image.fromarray((canvas.movedim(0, -1).numpy() * 255).round().astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, round(line * 0.6)))
    label = f"{name}: {verdict}" if name else verdict
    draw.text((6, tall + line // 6), label, (235, 235, 235) if verdict == GOOD else _DOUBT, font=font)
    words = f"loss weight, {share:.0%} on the subject"
    draw.text((wide + 14, tall + line // 6), words, (235, 235, 235), font=font)
    return torch.from_numpy(np.array(picture)).float().div(255).movedim(-1, 0)
