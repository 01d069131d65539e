"""What the library needs of a diffusion model. ComfyUI and diffusers each implement it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..attractor.attention import LayerAttention

Embedding = dict[str, Tensor]
"""Vectors in the place of one word: text-encoder key ("l", "g" or "h") to [n, D]."""


@dataclass(frozen=True)
class Context:
    """Encoded prompts: tokens [B, T, D], and the pooled output [B, P] of models that have one.

    Where the U-Net's L layers of cross-attention get different ones, tokens are [B, L, T, D] in the layers' order.
    values: of the same shape, what the attention's values are made of where that is something else than the keys.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    values: Tensor | None = None

    def select(self, index: Tensor) -> Context:
        """The contexts at these positions [N]."""
        pooled, values = (None if one is None else one[index] for one in (self.pooled, self.values))
        return Context(self.tokens[index], pooled, values)

    def to(self, device: torch.device | str) -> Context:
        """The same on a device."""
        pooled, values = (None if one is None else one.to(device) for one in (self.pooled, self.values))
        return Context(self.tokens.to(device), pooled, values)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """What keys and values of a layer are made of, [B, T, D] each."""
        values = self.tokens if self.values is None else self.values
        return (self.tokens[:, index], values[:, index]) if self.tokens.ndim == 4 else (self.tokens, values)


def joined(contexts: Sequence[Context]) -> Context:
    """Contexts of the same prompt lengths, one after the other; those for all layers are repeated for each if need be.
    """
    if len(contexts) == 1:
        return contexts[0]
    layers = max((one.tokens.shape[1] for one in contexts if one.tokens.ndim == 4), default=0)

    def together(parts: list[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat([_for_layers(part, layers) for part in there]) if there else None

    tokens = torch.cat([_for_layers(one.tokens, layers) for one in contexts])
    return Context(tokens, together([c.pooled for c in contexts]), together([c.values for c in contexts]))


def _for_layers(tokens: Tensor, layers: int) -> Tensor:
    return tokens[:, None].expand(-1, layers, -1, -1) if layers and tokens.ndim == 3 else tokens


class DiffusionModel(Protocol):
    """A denoiser with its text encoders and its autoencoder.

    identity: hashes that tell which model it is. widths: text-encoder key to the width D of its embeddings.
    prediction: "eps" or "v", for the run card. timesteps: number of training timesteps.
    device: where latents and vectors of the training live. compute_dtype: in which the U-Net computes.
    side: of the square pictures that the model was trained on, in pixels. layers: of cross-attention in the U-Net;
    transformer blocks that follow on one another without a convolution between them count as one.
    """

    @property
    def identity(self) -> dict[str, str]: ...
    @property
    def widths(self) -> dict[str, int]: ...
    @property
    def prediction(self) -> str: ...
    @property
    def timesteps(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def compute_dtype(self) -> torch.dtype: ...
    @property
    def side(self) -> int: ...
    @property
    def layers(self) -> int: ...

    @property
    def state_key(self) -> tuple:
        """Equal as long as the model gives the same attention: its weights and all that is patched on top of them."""
        ...

    def training(
        self, batch_size: int, resolution: int, checkpointing: bool = False
    ) -> AbstractContextManager[bool]:  # fmt: skip
        """Load the models and let gradients reach embeddings; puts everything back as it was.

        Gives whether activations are computed anew in backward: when asked, and where memory is short for a step.
        """
        ...

    def has_room(self, batch_size: int, resolution: int) -> bool:
        """Whether a step is likely to find room beside the models without computing activations anew."""
        ...

    def save_memory(self) -> bool:
        """Within training: compute activations anew in backward, where that is not done yet; whether it was changed."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Within training: put the models back for a while, so that a preview can be painted with them."""
        ...

    def words(self, text: str) -> Embedding:
        """Rows of the embedding tables for a text: key to [n, D], float32, where n differs by text."""
        ...

    def table_scale(self) -> dict[str, float]:
        """Standard deviation of the numbers in each embedding table."""
        ...

    def encode(
        self, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]],
        bypass: Sequence[Embedding] | None = None,
    ) -> Context:  # fmt: skip
        """Encode prompts in which each marker (such as "<subject>") stands for its vectors.

        embedded: for each prompt, marker to vectors. bypass: for each prompt, key to what is added [D] to the output
        at the subject's place, for the attention's values (see contexts.add_bypass). The gradient reaches them all.
        """
        ...

    def encode_images(self, images: Tensor, seed: int) -> Tensor:
        """Latents [B, C, h, w] in the model's own scale from images [B, 3, H, W] in [0, 1]."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level [B] at integer timesteps [B], in units of the latent."""
        ...

    def denoise(self, noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Clean latents [B, C, h, w] that the model sees in clean + sigma * noise, under one context or one a layer."""
        ...

    def attention(self, noisy: Tensor, sigma: Tensor, prompt: str, largest: int) -> list[LayerAttention]:
        """Attention of the layers of at most `largest` cells, in the U-Net's order, as it denoises under a prompt."""
        ...

    def output_scale(self, sigma: Tensor) -> Tensor:
        """c_out [B]: how strongly the raw output enters the denoised latent; see attractor.loss."""
        ...


def fingerprint(module: torch.nn.Module, instead: Mapping[str, Tensor] | None = None) -> str:
    """Hash over names, shapes and sampled numbers of all weights: fast, and the same on every machine.

    instead: weights that count in the place of those of the same names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted({**module.state_dict(), **(instead or {})}.items()):
        digest.update(name.encode() + sampled(tensor))
    return digest.hexdigest()[:16]


def sampled(tensor: Tensor) -> bytes:
    """A tensor's shape and some 64 of its numbers, spread over it: what tells it from others."""
    flat = tensor.detach().flatten()
    sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
    return f"{tuple(tensor.shape)}".encode() + sample.numpy().tobytes()
