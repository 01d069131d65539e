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
    """Encoded prompts: tokens [B, T, D], and the pooled output [B, P] of models that have one."""

    tokens: Tensor
    pooled: Tensor | None = None

    def select(self, index: Tensor) -> Context:
        """The contexts at these positions [N]."""
        pooled = None if self.pooled is None else self.pooled[index]
        return Context(self.tokens[index], pooled)


class DiffusionModel(Protocol):
    """A denoiser with its text encoders and its autoencoder.

    identity: hashes that tell which model it is. widths: text-encoder key to the width D of its embeddings.
    prediction: "eps" or "v", for the run card. timesteps: number of training timesteps.
    device: where latents and vectors of the training live. compute_dtype: in which the U-Net computes.
    side: of the square pictures that the model was trained on, in pixels.
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
    def state_key(self) -> tuple:
        """Equal as long as the model gives the same attention: its weights and all that is patched on top of them."""
        ...

    def training(self, batch_size: int, resolution: int) -> AbstractContextManager[None]:
        """Load the models and let gradients reach embeddings; puts everything back as it was."""
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

    def encode(self, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]]) -> Context:
        """Encode prompts in which each marker (such as "<subject>") stands for its vectors.

        embedded: for each prompt, marker to vectors. The gradient reaches the vectors.
        """
        ...

    def encode_images(self, images: Tensor, seed: int) -> Tensor:
        """Latents [B, C, h, w] in the model's own scale from images [B, 3, H, W] in [0, 1]."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """Noise level [B] at integer timesteps [B], in units of the latent."""
        ...

    def denoise(self, noisy: Tensor, sigma: Tensor, context: Context) -> Tensor:
        """Clean latents [B, C, h, w] that the model sees in clean + sigma * noise."""
        ...

    def attention(self, noisy: Tensor, sigma: Tensor, prompt: str, largest: int) -> list[LayerAttention]:
        """Attention of the layers of at most `largest` cells, in the U-Net's order, as it denoises under a prompt."""
        ...

    def output_scale(self, sigma: Tensor) -> Tensor:
        """c_out [B]: how strongly the raw output enters the denoised latent; see attractor.loss."""
        ...


def fingerprint(module: torch.nn.Module) -> str:
    """Hash over names, shapes and sampled numbers of all weights: fast, and the same on every machine."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]
