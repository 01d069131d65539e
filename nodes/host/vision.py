"""The host's CLIP_VISION and its memory management for the encoders that scores are measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
import torch.nn.functional as F
from torch import Tensor

from ...attractor.errors import AttractorError

_BATCH = 16


class HostVision:
    """The CLIP_VISION that is wired in the graph, as an encoder of pictures."""

    has_text = False

    def __init__(self, clip_vision: Any):
        self._vision = clip_vision
        digest = hashlib.sha256()
        for name, tensor in sorted(clip_vision.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
        self.stamp = {
            "encoder": f"CLIP_VISION {type(clip_vision.model).__name__}",
            "weights": f"sample of the loaded weights {digest.hexdigest()}",
            "preprocessing": f"the host's, {getattr(clip_vision, 'image_size', 224)} px, centre crop",
            "scale": "cosine",
        }

    def images(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        batches = images.movedim(1, -1).split(_BATCH)
        features = [self._vision.encode_image(batch, crop=True)["image_embeds"].float().cpu() for batch in batches]
        return F.normalize(torch.cat(features), dim=-1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """CLIP_VISION has no text side."""
        raise AttractorError("CLIP_VISION has no text encoder: choose a CLIP to score prompts with.")


class _Held(torch.nn.Module):
    """The host sets `device` on what it loads, which is a read-only property of transformers' models."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module = module


@contextmanager
def on_device(encoders: Sequence[Any]) -> Iterator[None]:
    """Put encoders' modules where the host runs models, in patchers that it can push out; and off again."""
    device = comfy.model_management.get_torch_device()
    offload = torch.device("cpu")
    patchers = [comfy.model_patcher.ModelPatcher(_Held(e.module), device, offload) for e in encoders]
    try:
        comfy.model_management.load_models_gpu(patchers)
        yield
    finally:
        for patcher in patchers:
            patcher.detach()
