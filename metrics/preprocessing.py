"""Pictures as an encoder was taught to see them: through Pillow in 8 bits, as the literature's figures were made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop to crop x crop, then (x - mean) / std.

    whole: both sides to `resize` in the place of the shorter one, and no crop. rounds: where the crop lies when an odd
    number of pixels is cut off: rounded as torchvision does, or down as transformers does.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    whole: bool = False
    rounds: bool = False
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to [B, 3, crop, crop]."""
        eight_bit = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        seen = torch.from_numpy(np.stack([self._see(Image.fromarray(image)) for image in eight_bit]))
        mean, std = torch.tensor(self.mean).view(1, 3, 1, 1), torch.tensor(self.std).view(1, 3, 1, 1)
        return (seen.permute(0, 3, 1, 2).float() / 255 - mean) / std

    def _see(self, picture: Image.Image) -> np.ndarray:
        width, height = picture.size
        if self.whole:
            return np.asarray(picture.resize((self.resize, self.resize), self.resample))
        short, long = min(width, height), max(width, height)
        longer = int(self.resize * long / short)
        size = (self.resize, longer) if width <= height else (longer, self.resize)
        picture = picture if size == picture.size else picture.resize(size, self.resample)
        left, top = (self._half(side - self.crop) for side in picture.size)
        return np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))

    def _half(self, excess: int) -> int:
        return round(excess / 2) if self.rounds else excess // 2

    def __str__(self) -> str:
        cut = "stretched to a square" if self.whole else f"centre crop {self.crop}"
        return f"{self.resample.name.lower()} {self.resize}, {cut}, mean {self.mean}, std {self.std}"


def of_folder(path: Path, model: Any) -> Preprocessing:
    """What a folder in transformers' layout says in preprocessor_config.json, else what its kind is known for.

    Raises OSError or ValueError for a file that cannot be read.
    """
    side = getattr(model.config, "vision_config", model.config).image_size
    file = path / "preprocessor_config.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    is_clip = hasattr(model, "get_text_features")
    size: Any = stored.get("size", {"shortest_edge": side})
    crop = stored.get("crop_size", side)
    crop = crop.get("height", side) if isinstance(crop, dict) else crop
    if isinstance(size, int):  # older files: of CLIP the shorter side, of ViT both
        size = {"shortest_edge": size} if is_clip else {"height": size}
    whole = "shortest_edge" not in size and not stored.get("do_center_crop", False)
    resize = size["shortest_edge"] if "shortest_edge" in size else size.get("height", side)
    mean, std = _CLIP if is_clip else IMAGENET
    return Preprocessing(
        int(resize), int(resize if whole else crop), tuple(stored.get("image_mean", mean)),
        tuple(stored.get("image_std", std)), whole, resample=Image.Resampling(stored.get("resample", 3)),
    )  # fmt: skip
