"""Photos with known copies: what phones, chats and editors make of one shot, and pairs that are no copies."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from ...training.photos import Photo, photo_from_tensor, read_folder

SAME_SHOT = {("cat/02.jpg", "cat/03.jpg")}  # of the DreamBooth photos: one shot, shifted and cropped


def as_photo(image: Image.Image, name: str) -> Photo:
    """A photo from a picture."""
    return photo_from_tensor(torch.from_numpy(np.array(image.convert("RGB"))).float() / 255, name)


def copies(image: Image.Image) -> dict[str, Image.Image]:
    """Copies of one shot, by what was done to it."""
    return {name: make(image) for name, make in _MAKERS.items()}


def read_all(folder: Path) -> list[Photo]:
    """The photos of every subject in a folder of folders, named subject/file."""
    return [
        replace(photo, name=f"{subject.name}/{photo.name}")
        for subject in sorted(folder.iterdir()) if subject.is_dir()
        for photo in read_folder(subject, "thing").photos
    ]  # fmt: skip


def _part(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def cut(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((int(width * left), int(height * top), int(width * right), int(height * bottom)))

    return cut


def _recompressed(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=20)
    return Image.open(data)


def _framed(image: Image.Image) -> Image.Image:
    width, height = image.size
    framed = Image.new("RGB", (int(width * 1.3), int(height * 1.3)), "white")
    framed.paste(image, (int(width * 0.15), int(height * 0.15)))
    return framed


def _watermarked(image: Image.Image) -> Image.Image:
    marked, (width, height) = image.copy(), image.size
    draw = ImageDraw.Draw(marked, "RGBA")
    for row in range(3):
        draw.text((width * 0.08, height * (0.15 + 0.3 * row)), "SAMPLE PHOTO", fill=(255, 255, 255, 140),
                  font_size=max(12, width // 8))  # fmt: skip
    return marked


def _recoloured(image: Image.Image) -> Image.Image:
    red, green, blue = image.split()
    return Image.merge("RGB", (red.point(lambda v: min(255, int(v * 1.15))), green, blue.point(lambda v: int(v * 0.8))))


_MAKERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "recompressed": _recompressed,
    "resized": lambda image: image.resize((image.width // 3, image.height // 3)),
    "shifted": _part(0.15, 0.1, 1, 1),
    "cropped": _part(0.2, 0.2, 0.8, 0.8),
    "mirrored and cropped": lambda image: ImageOps.mirror(_part(0, 0.2, 0.8, 1)(image)),
    "rotated": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    "framed": _framed,
    "brighter": lambda image: Image.eval(image, lambda v: min(255, int(v * 1.3))),
    "recoloured": _recoloured,
    "watermarked": _watermarked,
}
