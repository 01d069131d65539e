"""Attractor masks from the attention of the model that is trained on: no download, and it knows what a word means.

A photo's latent is noised, denoised once under "a photo of a <class word>", and the attention of the word's tokens is
gathered over the layers of the decoder (after Tang et al., "What the DAAM", arXiv 2210.04885). Each layer's map is
spread along the self-attention of the same layer, which knows what belongs together (after Nguyen et al., "Dataset
Diffusion", arXiv 2309.14303).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .cosegment import spread
from .errors import AttractorError

if TYPE_CHECKING:
    from ..training.model import DiffusionModel

PROMPT = "a photo of a"
NOISE = (0.1, 0.25)  # of the training timesteps, a forward for each
LARGEST = 1536  # cells of a layer whose self-attention is held: 32 x 32 and what a photo of other proportions has
_SPREADS = 2
_BATCH = 4
_SEED = 0


@dataclass(frozen=True)
class LayerAttention:
    """One layer's attention, mean over its heads.

    cross: [B, N, T], what each cell of the picture takes from each token. same: [B, N, N], what it takes from each
    cell. shape: height and width of the grid of N cells.
    """

    cross: Tensor
    same: Tensor
    shape: tuple[int, int]


class Gatherer:
    """Takes the projected queries and keys of every attention of a U-Net in turn; `layers` is what it gathered.

    shape: height and width of the latent. tokens: number T of the context's tokens. largest: cells of a layer that is
    still gathered. A block's self-attention comes before its cross-attention.
    """

    def __init__(self, shape: tuple[int, int], tokens: int, largest: int):
        self.layers: list[LayerAttention] = []
        self._shape, self._tokens, self._largest = shape, tokens, largest
        self._same: Tensor | None = None

    def take(self, q: Tensor, k: Tensor, heads: int) -> None:
        """Queries [B, N, D] and keys [B, M, D] of one attention."""
        if q.shape[1] > self._largest:
            return
        if k.shape[1] == self._tokens and q.shape[1] != k.shape[1]:
            if self._same is not None and self._same.shape[1] == q.shape[1]:
                grid = grid_shape(q.shape[1], *self._shape)
                self.layers.append(LayerAttention(shares(q, k, heads), self._same, grid))
        elif q.shape[1] == k.shape[1]:
            self._same = shares(q, k, heads)


def shares(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q k / sqrt(d)), mean over heads, float32 [B, N, M], from projected queries and keys [B, N or M, D]."""
    total = torch.zeros(len(q), q.shape[1], k.shape[1], device=q.device)
    width = q.shape[-1] // heads
    for one_q, one_k in zip(q.float().split(width, -1), k.float().split(width, -1), strict=True):
        total += (one_q @ one_k.transpose(1, 2) * width**-0.5).softmax(-1)
    return total / heads


def grid_shape(cells: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a grid of so many cells that a latent has after some halvings, rounded up."""
    rows, columns = height, width
    while rows * columns > cells and max(rows, columns) > 1:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != cells:
        raise AttractorError(
            f"This MODEL's attention has {cells} cells for a latent of {width} x {height}: not a U-Net of a kind that "
            "the back end 'attention' can read. Choose another back end."
        )
    return rows, columns


def attention_maps(
    model: DiffusionModel, photos: Sequence[Tensor], class_word: str, pulse: Callable[[], None] = lambda: None,
) -> list[tuple[np.ndarray, int]]:  # fmt: skip
    """Where the word is in each photo [3, H, W]: a map in [0, 1] of the latent's size, and its finest grid's side.

    Takes `len(NOISE)` forwards of the U-Net a photo. Raises AttractorError for a word that the tokenizer makes nothing
    of, and for a model without cross-attention.
    """
    prompt, tokens = f"{PROMPT} {class_word}", _tokens(model, class_word)
    found = []
    for start in range(0, len(photos), _BATCH):
        pulse()
        found += _maps(model, photos[start : start + _BATCH], prompt, tokens)
    return found


def _tokens(model: DiffusionModel, class_word: str) -> list[int]:
    """Where the word's tokens stand in the encoded prompt, after the start token and the words before it."""
    before, word = (next(iter(model.words(text).values())) for text in (PROMPT, class_word))
    return list(range(1 + len(before), 1 + len(before) + len(word)))


def _maps(
    model: DiffusionModel, photos: Sequence[Tensor], prompt: str, tokens: list[int]
) -> list[tuple[np.ndarray, int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for i, photo in enumerate(photos):
        groups.setdefault(_size(photo, model.side), []).append(i)
    found: dict[int, tuple[np.ndarray, int]] = {}
    for (height, width), members in groups.items():
        images = torch.stack([
            F.interpolate(photos[i][None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
            for i in members
        ])  # fmt: skip
        maps, side = _group(model, images, prompt, tokens)
        found |= {i: (maps[k], side) for k, i in enumerate(members)}
    return [found[i] for i in range(len(photos))]


@torch.no_grad()
def _group(
    model: DiffusionModel, images: Tensor, prompt: str, tokens: list[int]
) -> tuple[list[np.ndarray], int]:
    """Maps of pictures of one size [B, 3, H, W], and the side of their finest layer.

    All photos get the same noise, so that a photo's map does not depend on the photos beside it.
    """
    latents = torch.cat([model.encode_images(image[None], _SEED) for image in images]).float().to(model.device)
    generator = torch.Generator().manual_seed(_SEED)
    summed, finest = torch.zeros(len(images), *latents.shape[-2:]), 1
    for share in NOISE:
        timestep = torch.full((len(images),), int(share * model.timesteps), device=model.device)
        noise = torch.randn(1, *latents.shape[1:], generator=generator).to(model.device)
        sigma = model.sigma(timestep)
        noisy = latents + sigma.view(-1, 1, 1, 1) * noise
        layers = model.attention(noisy, sigma, prompt, LARGEST)
        if not layers:
            raise AttractorError(
                "No cross-attention of this MODEL could be read: a node before it replaces its attention. Connect the "
                "MODEL as it was before that node, or choose another back end."
            )
        for layer in layers[len(layers) // 2 :]:  # the decoder's, where places are sharp
            map_ = layer.cross[..., tokens].sum(-1, keepdim=True)
            for _ in range(_SPREADS):
                map_ = layer.same @ map_
            grid = map_[..., 0].float().cpu().view(-1, 1, *layer.shape)
            large = F.interpolate(grid, summed.shape[-2:], mode="bicubic")[:, 0]
            cells = layer.shape[0] * layer.shape[1]
            summed += torch.stack([torch.from_numpy(spread(one.numpy())) for one in large]).float() * cells
            finest = max(finest, *layer.shape)
    if not torch.isfinite(summed).all():
        raise AttractorError(
            "The MODEL's attention came out as NaN: VAE or MODEL overflow in half precision. Load them in another "
            "precision (--fp32-vae, --force-fp32), or choose another back end."
        )
    return [spread(one.numpy()) for one in summed], finest


def _size(photo: Tensor, side: int) -> tuple[int, int]:
    """Height and width near the photo's proportions, of about side x side pixels, in steps of an eighth of it."""
    height, width = photo.shape[-2:]
    step, scale = max(8, side // 8), side / (height * width) ** 0.5
    return tuple(max(4 * step, round(length * scale / step) * step) for length in (height, width))  # type: ignore[return-value]
