"""Attractor masks: checking, cleaning, and the weight that a pixel gets in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, grey_dilation, grey_erosion, label
from torch import Tensor

from .errors import AttractorError

_EDGE_CONTRAST = 1e-3  # variance of a window above which the guided filter keeps its edge
_BY_DISTANCE = 8  # pixels of growth above which a mask's outline is moved, for discs of that size are slow
_EMPTY = 0.01  # highest value of a mask that shows nothing
_LARGEST_HOLE = 0.25  # of the mask's area
UNITS = ("per mille", "per cent", "pixels")


@dataclass(frozen=True)
class Refinement:
    """How a raw mask is refined. grow: how far it grows, below 0 shrinks. feather: standard deviation of the blur.

    unit: of both, "pixels" of the photo, or "per mille" or "per cent" of its longer side. fill_holes: holes inside
    the subject become subject, if they are at most a quarter of its size, and what is more likely subject than not
    becomes so. edges: radius of the guided filter that draws the mask to the photo's edges, per mille of the longer
    side; 0 leaves it out.
    """

    grow: float = 0.0
    feather: float = 4.0
    fill_holes: bool = True
    unit: str = "per mille"
    edges: float = 0.0

    def __post_init__(self) -> None:
        """Raise AttractorError for a value that cannot be."""
        if self.unit not in UNITS:
            raise AttractorError(f"unit is {self.unit!r}: one of {', '.join(UNITS)}.")
        if self.feather < 0 or self.edges < 0:
            raise AttractorError("feather and edges are 0 or more.")


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
    if float(mask.max()) < _EMPTY:
        raise AttractorError(f"{name}: its mask is all zero, so no pixel would be learnt. Paint the subject white.")
    width, height = size
    if abs(mask.shape[1] * height - mask.shape[0] * width) > max(width, height) * max(mask.shape) * 0.02:
        raise AttractorError(
            f"{name}: its mask is {mask.shape[1]} x {mask.shape[0]}, the photo {width} x {height}: other proportions. "
            "Make the mask from this very photo (output 'photos' of Attractor_LoadSubject)."
        )
    return F.interpolate(mask[None, None], (height, width), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def refine(mask: Tensor, how: Refinement, pixels: Tensor | None = None) -> Tensor:
    """Draw a mask [H, W] in [0, 1] to the edges of its photo [3, H, W], fill holes, grow or shrink, and feather."""
    return feathered(shaped(mask, how, pixels), how)


def shaped(mask: Tensor, how: Refinement, pixels: Tensor | None = None) -> Tensor:
    """As `refine`, all but the feather."""
    longer = max(mask.shape)
    if how.edges > 0 and pixels is not None:
        mask = to_edges(mask, pixels, max(1, round(how.edges * longer / 1000)))
    array = mask.numpy()
    if how.fill_holes:
        array = np.maximum(array, _filled(array > 0.5))
    radius = min(longer, round(abs(how.grow) * _pixels(how.unit, longer)))
    if radius > _BY_DISTANCE:
        array = _moved(array > 0.5, radius if how.grow > 0 else -radius)
    elif radius:
        change = grey_dilation if how.grow > 0 else grey_erosion
        array = change(array, footprint=_disc(radius))
    return torch.from_numpy(np.clip(array, 0, 1).astype(np.float32))


def feathered(mask: Tensor, how: Refinement) -> Tensor:
    """A mask [H, W] with its edge softened."""
    if how.feather <= 0:
        return mask
    soft = gaussian_filter(mask.numpy(), how.feather * _pixels(how.unit, max(mask.shape)))
    return torch.from_numpy(np.clip(soft, 0, 1).astype(np.float32))


def _pixels(unit: str, longer: int) -> float:
    """One of a unit in pixels of a photo whose longer side has so many."""
    return {"per mille": longer / 1000, "per cent": longer / 100, "pixels": 1.0}[unit]


def to_edges(mask: Tensor, pixels: Tensor, radius: int) -> Tensor:
    """The guided filter (He et al., "Guided Image Filtering", TPAMI 2013) of a mask [H, W] by its photo [3, H, W]."""
    try:
        from kornia.filters import guided_blur
    except ImportError as error:
        raise AttractorError("edges needs kornia, which comes with ComfyUI: pip install kornia, or set 0.") from error
    kernel, coarse = 2 * radius + 1, max(1, radius // 4)
    filtered = guided_blur(pixels[None], mask[None, None], kernel, _EDGE_CONTRAST, subsample=coarse)
    return filtered[0, 0].clamp(0, 1)


def _moved(inside: np.ndarray, by: float) -> np.ndarray:
    """A hard mask whose outline is moved outward by so many pixels, or inward below 0, in linear time."""
    if not inside.any() or inside.all():
        return inside.astype(np.float32)
    outward = np.asarray(distance_transform_edt(~inside)) - np.asarray(distance_transform_edt(inside))
    return (outward <= by).astype(np.float32)


def _filled(inside: np.ndarray) -> np.ndarray:
    """A mask [H, W] with its holes filled, but none so large that it is the scene seen through a frame."""
    labels = np.zeros(inside.shape, dtype=np.int32)
    label(np.asarray(binary_fill_holes(inside)) & ~inside, output=labels)
    sizes = np.bincount(labels.ravel())
    small = np.flatnonzero(sizes <= _LARGEST_HOLE * inside.sum())
    return (inside | np.isin(labels, small[small > 0])).astype(np.float32)


def _disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius
