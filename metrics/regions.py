"""The subject alone and the background alone: the other is painted over in grey before an encoder sees the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attractor.errors import AttractorError
from ..training.photos import Photo

REGIONS = ("whole", "subject", "background")
Finder = Callable[[Tensor], Tensor]  # a picture [3, H, W] to the subject's soft mask [H, W] in [0, 1]
_GREY = 0.5
_ROOM = 0.03  # of the longer side by which the subject is grown before the background is looked at


def masks_of(images: Tensor, find: Finder) -> Tensor:
    """The subject's masks [B, H, W] of pictures [B, 3, H, W]."""
    return torch.stack([find(image) for image in images])


def mask_of(photo: Photo, find: Finder | None) -> Tensor:
    """A photo's own attractor mask, or what `find` sees where it has none. Raises AttractorError without either."""
    if photo.mask is not None:
        return photo.mask
    if find is None:
        raise AttractorError(
            f"{photo.name} has no mask, and the subject alone is to be scored: take its set through Attractor_Mask, or "
            "let saliency find it (regions)."
        )
    return find(photo.pixels)


def only(region: str, images: Tensor, masks: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] with all but the region in grey. masks: [B, H, W], 1 = subject."""
    if region == "whole":
        return images
    if region == "subject":
        weight = masks[:, None]
    else:
        room = max(1, round(_ROOM * max(images.shape[-2:])))
        grown = F.max_pool2d(masks[:, None], (2 * room + 1, 1), stride=1, padding=(room, 0))
        weight = 1 - F.max_pool2d(grown, (1, 2 * room + 1), stride=1, padding=(0, room))
    return images * weight + _GREY * (1 - weight)


def shift(pictures: Tensor, floor: Tensor, train: Tensor, prompts: Sequence[str]) -> Tensor | None:
    """How far each picture's background moved from the floor's toward the train photos': 0 not at all, 1 all the way.

    pictures, floor: features [B, D] of backgrounds, of the same prompts and seeds with and without the concept. train:
    features [N, D] of the train photos' backgrounds, t their mean. prompts: of the B pictures. <p - f, t - g> over the
    mean of <t - f, t - g>, g the mean of the *other* floor pictures of the prompt, and of all others for a prompt with
    one picture: with f on both sides of the product a concept that only draws backgrounds anew would leak by their
    variance. None for a single picture.
    """
    if len(pictures) < 2:
        return None
    target, others = train.mean(0), []
    for i, prompt in enumerate(prompts):
        rest = [k for k, other in enumerate(prompts) if k != i and other == prompt]
        others.append(floor[rest or [k for k in range(len(floor)) if k != i]].mean(0))
    way = target - torch.stack(others)
    along, length = ((pictures - floor) * way).sum(-1), ((target - floor) * way).sum(-1)
    return along / length.mean().clamp(min=1e-9)
