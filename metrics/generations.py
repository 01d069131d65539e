"""Pictures that were sampled, each with the prompt, seed and settings that made it."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..attractor.errors import AttractorError
from ..training.concept import Concept

PNG_TEXT = "attractor"


@dataclass(frozen=True)
class Generated:
    """One picture's prompt (with `<subject>` in it), seed and sampler settings."""

    prompt: str
    seed: int
    settings: dict


@dataclass(frozen=True)
class Generations:
    """images: [B, 3, H, W] in [0, 1]; items: what made each of them; concept: None for the base model alone.

    masks: of the subject in each picture, [B, H, W] in [0, 1], where somebody has made some. trained_on: SHA-256 of
    photos that what painted them was trained on, as far as no concept says so.
    """

    images: Tensor
    items: tuple[Generated, ...]
    class_word: str
    concept: Concept | None = None
    base_model: dict = field(default_factory=dict)
    masks: Tensor | None = None
    trained_on: tuple[str, ...] = ()

    def _comfy_cache_tensors(self) -> list[Tensor]:
        """What ComfyUI's cache counts when memory is short; without this hook, pictures would weigh nothing there."""
        return [self.images] if self.masks is None else [self.images, self.masks]

    def png(self, index: int, also: Mapping[str, str] | None = None) -> bytes:
        """A picture as a PNG file that says in its text `attractor` (JSON) how it was made, with the run card.

        also: more text by its key.
        """
        made = {"format": 1, **asdict(self.items[index]), "class_word": self.class_word,
                "concept_sha256": self.concept.sha256 if self.concept else None,
                "run_card": self.concept.run_card if self.concept else None}  # fmt: skip
        text, data = PngInfo(), io.BytesIO()
        for key, value in (also or {}).items():
            text.add_text(key, value)
        text.add_itxt(PNG_TEXT, json.dumps(made, sort_keys=True, ensure_ascii=False))
        to_picture(self.images[index]).save(data, "PNG", pnginfo=text)
        return data.getvalue()

    def with_masks(self, masks: Tensor | None, what: str) -> Generations:
        """With masks of the subject. Raises AttractorError, naming `what`, unless each picture has one of its size."""
        if masks is None:
            return self
        masks = masks.reshape(-1, *masks.shape[-2:]).float().cpu()
        wanted = (len(self.images), *self.images.shape[-2:])
        if tuple(masks.shape) != wanted:
            raise AttractorError(
                f"{what}: {len(masks)} masks of {masks.shape[-1]} x {masks.shape[-2]} pixels came in for {wanted[0]} "
                f"pictures of {wanted[2]} x {wanted[1]}. Make one of each picture that Attractor_SampleGrid gives."
            )
        if not torch.isfinite(masks).all():
            raise AttractorError(f"{what}: holds NaN or infinity. Look at the node that makes these masks.")
        return replace(self, masks=masks.clamp(0, 1))

    @property
    def keys(self) -> list[tuple[str, int]]:
        """(prompt, seed) of each picture, by which two sets are paired."""
        return [(item.prompt, item.seed) for item in self.items]


def eight_bit(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] as they come back from files of 8 bits."""
    return (images.clamp(0, 1) * 255).round() / 255


def read_prompts(text: str) -> list[str]:
    """One prompt a line. Raises AttractorError when there is none."""
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise AttractorError("prompts is empty: write one prompt a line, with <subject> where the subject belongs.")
    return prompts


def contact_sheet(generations: Generations, cell: int = 256) -> Tensor:
    """All pictures on one sheet [3, H, W]: a row a prompt, a column a seed, each with its caption."""
    prompts = list(dict.fromkeys(item.prompt for item in generations.items))
    seeds = list(dict.fromkeys(item.seed for item in generations.items))
    font = ImageFont.load_default(size=max(11, cell // 19))
    margin, top = cell, round(cell * 0.12)
    sheet = Image.new("RGB", (margin + len(seeds) * (cell + 6), top + len(prompts) * (cell + 6)), "#16191d")
    pen = ImageDraw.Draw(sheet)
    for j, seed in enumerate(seeds):
        pen.text((margin + j * (cell + 6) + 4, 4), f"seed {seed}", font=font, fill="#c9d1d9")
    for i, prompt in enumerate(prompts):
        lines = "\n".join(textwrap.wrap(prompt, 24))
        pen.multiline_text((8, top + i * (cell + 6) + 6), lines, font=font, fill="#f0f3f6", spacing=4)
    for image, item in zip(generations.images, generations.items, strict=True):
        small = to_picture(F.interpolate(image[None], (cell, cell), mode="bicubic", antialias=True)[0])
        x = margin + seeds.index(item.seed) * (cell + 6)
        sheet.paste(small, (x, top + prompts.index(item.prompt) * (cell + 6)))
    return from_picture(sheet)


def from_picture(picture: Image.Image) -> Tensor:
    """A PIL picture as [3, H, W] in [0, 1]."""
    data = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def to_picture(image: Tensor) -> Image.Image:
    """[3, H, W] in [0, 1] as a PIL picture."""
    eight_bit = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(eight_bit.permute(1, 2, 0).contiguous().numpy())
