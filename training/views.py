"""Photos to latents: seeded views of each photo, with the mask carried along, encoded once before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attractor.masks import to_latent_grid
from .augment import change_background, shift_colours
from .model import DiffusionModel
from .photos import Photo, SubjectSet

VERSION = 2  # of the way that views are made: a training goes on with views of the same kind only
FILLS = 0.6  # of a view's side, up to which a subject is brought that is smaller in its photo
_AT_ONCE = 8  # views that are drawn and encoded together
_ENLARGED = 2  # times, at most, that a photo's pixels are for it


@dataclass(frozen=True)
class Views:
    """Encoded views of a set: latents [V, C, h, w], masks [V, 1, h, w] in [0, 1], photo index [V], which of them
    have another background than their photo [V], and the index of the shoot whose background tokens they have [V].
    """

    latents: Tensor
    masks: Tensor
    photo: Tensor
    changed: Tensor = field(default=None)  # type: ignore[assignment]
    shoot: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """None is changed, and each photo is a shoot of its own, unless it is said."""
        if self.shoot is None:
            object.__setattr__(self, "shoot", self.photo)
        if self.changed is None:
            object.__setattr__(self, "changed", torch.zeros_like(self.photo, dtype=torch.bool))

    def unchanged(self) -> Views:
        """Those with their photo's own background."""
        keep = ~self.changed
        parts = (self.latents, self.masks, self.photo, self.changed, self.shoot)
        return self if keep.all() else Views(*(one[keep] for one in parts))


def make_views(
    model: DiffusionModel, subject: SubjectSet, resolution: int, per_photo: int, zoom: float, flip: bool, seed: int,
    colour: float = 0.0, background_change: str = "none", nearer: str = "random",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Views:  # fmt: skip
    """Encode `per_photo` square views of each photo; the first is the plain centre view.

    resolution: side in pixels. zoom: largest random magnification (1 = none). flip: mirror half of the views. colour:
    largest change of all others' colours. background_change: of half of them, "none", "blur" or "swap". nearer: to
    subjects that are small by their masks, in "random" windows, "half" of the way in all views, or "no".
    watch: told before each batch how many of how many views are encoded; may raise. No more than a batch of pictures
    is held at a time.
    Raises AttractorError when a background is to be changed and there are no masks.
    """
    generator = torch.Generator().manual_seed(seed + 7)
    drawn, total = _views(subject, resolution, per_photo, zoom, flip, seed, nearer), len(subject) * per_photo
    latents, grids, index, changed = [], [], [], []
    for start in range(0, total, _AT_ONCE):
        watch(start, total)
        images, masks = [], []
        for image, mask, i in islice(drawn, _AT_ONCE):
            number = len(index)
            changed.append(background_change != "none" and number % per_photo % 4 in (1, 2))
            if changed[-1]:
                own = mask if subject.photos[i].mask is not None else None
                image = change_background(background_change, image, own, generator)
            if colour and number % per_photo:
                image = shift_colours(image, colour, generator)
            images.append(image)
            masks.append(mask)
            index.append(i)
        latents.append(model.encode_images(torch.stack(images), seed + start).float().cpu())
        grids.append(to_latent_grid(torch.stack(masks), *latents[-1].shape[-2:]))
    photo, other = torch.tensor(index), torch.tensor(changed)
    return Views(*(one.to(model.device) for one in (torch.cat(latents), torch.cat(grids), photo, other)))


def view_masks(
    subject: SubjectSet, resolution: int, per_photo: int, zoom: float, flip: bool, seed: int, nearer: str,
    placed_by: SubjectSet,
) -> Tensor:
    """Masks [V, R, R] of the views that make_views draws of `placed_by`, the same photos with other masks."""
    moved = [replace(own, pixels=own.mask.expand(3, -1, -1), mask=other.mask)
             for own, other in zip(subject.photos, placed_by.photos, strict=True) if own.mask is not None]  # fmt: skip
    drawn = _views(subject.with_photos(moved), resolution, per_photo, zoom, flip, seed, nearer)
    return torch.stack([image[0] for image, _, _ in drawn])


def _views(
    subject: SubjectSet, resolution: int, per_photo: int, zoom: float, flip: bool, seed: int, nearer: str
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Image, mask and photo index of each view."""
    generator = torch.Generator().manual_seed(seed)
    for i, photo in enumerate(subject.photos):
        for k in range(per_photo):
            yield *view(photo, resolution, zoom if k else 1.0, flip and k % 2 == 1, generator, nearer), i


def view(
    photo: Photo, resolution: int, zoom: float, flip: bool, generator: torch.Generator, nearer: str = "random"
) -> tuple[Tensor, Tensor]:
    """One square view [3, R, R] of a photo and its mask [R, R] (all ones where the photo has none).

    The window is as large as the photo's shorter side allows, up to `zoom` times smaller, and placed at random
    where it keeps as much of the subject as fits. Where the mask says that the subject is small, windows of a zoom go
    on to those in which it fills FILLS of the side, and `zoom` counts from there, as far as all of it is kept.
    """
    width, height = photo.size
    draw = torch.rand(3, generator=generator)
    mask = torch.ones(height, width) if photo.mask is None else photo.mask
    near, whole = _nearness(mask, resolution)
    if nearer == "random" and zoom > 1 and near > 1:
        zoom = max(zoom, min(zoom * near, whole))
    times = _half(near) if nearer == "half" else 1 + (zoom - 1) * float(draw[0])
    side = max(8, round(min(width, height) / times))
    left = _place(mask.amax(0), side, width, float(draw[1]) if zoom > 1 else 0.5)
    top = _place(mask.amax(1), side, height, float(draw[2]) if zoom > 1 else 0.5)
    stack = torch.cat([photo.pixels, mask[None]])[None, :, top : top + side, left : left + side]
    stack = F.interpolate(stack, (resolution, resolution), mode="bilinear", antialias=True)[0].clamp(0, 1)
    if flip:
        stack = stack.flip(-1)
    return stack[:3].contiguous(), stack[3].contiguous()


def _nearness(mask: Tensor, resolution: int = 1) -> tuple[float, float]:
    """How much nearer to go to a subject that is small in its photo's window, and how near all of it is still seen."""
    window = min(mask.shape)
    seen = [torch.nonzero(mask.amax(d) > 0.5).flatten() for d in (0, 1)]
    subject = max((int(rows[-1] - rows[0]) + 1 for rows in seen if len(rows)), default=window)
    return max(1.0, min(FILLS * window / subject, _ENLARGED * window / resolution)), window / subject


def _half(near: float) -> float:
    return (1 + near) / 2


def centre_view(mask: Tensor) -> Tensor:
    """The part [s, s] of a mask [H, W] that a view in the middle of its photo's views shows."""
    height, width = mask.shape
    side = max(1, round(min(height, width) / _half(_nearness(mask)[0])))
    left, top = (_place(mask.amax(d), side, n, 0.5) for d, n in ((0, width), (1, height)))
    return mask[top : top + side, left : left + side]


def _place(profile: Tensor, side: int, length: int, draw: float) -> int:
    """Start of a window of `side` in `length`, anywhere that keeps the subject inside if it fits."""
    room = length - side
    if room <= 0:
        return 0
    inside = torch.nonzero(profile > 0.5).flatten()
    first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, length)
    if last - first >= side:  # the subject is larger than the window: stay within it
        low, high = first, last - side
    else:
        low, high = max(0, last - side), min(room, first)
    return round(low + (high - low) * draw)
