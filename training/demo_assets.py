"""The demo checkpoint's files, apart from any host: config, weights set back to full size, and the subject."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..attractor.verdicts import verdict
from .photos import SubjectSet, read_photo, subject_set

ASSETS = Path(__file__).parents[1] / "assets" / "demo"
SIDE = 64  # of its pictures
EMBEDDING_TABLE = "text_model.embeddings.token_embedding.weight"


def config(folder: Path = ASSETS) -> dict:
    """What the three models are made of."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def weights(folder: Path = ASSETS) -> dict[str, dict[str, Tensor]]:
    """Float32 weights of "unet", "clip" and "vae"; all empty while there is no checkpoint file."""
    file = folder / "checkpoint.safetensors"
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "clip": {}, "vae": {}}
    if file.is_file():
        for key, value in load_file(file).items():
            part, name = key.split(".", 1)
            parts[part][name] = value.float() if value.is_floating_point() else value
        parts["clip"] = with_token_table(config(folder), parts["clip"])
    return parts


def with_token_table(settings: dict, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder's weights with its whole token table [49408, D].

    Only rows that the demo world's words use are stored; the others are seeded normal numbers of the same spread.
    """
    rest = dict(stored)
    rows, values = rest.pop("token_rows"), rest.pop("token_embedding")
    other = settings["clip_other_rows"]
    generator = torch.Generator().manual_seed(other["seed"])
    table = torch.randn(other["vocab_size"], values.shape[1], generator=generator) * other["std"]
    table[rows.long()] = values
    return {**rest, EMBEDDING_TABLE: table}


def padded(stored: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored, narrower layers in a corner of zero tensors of the full shapes.

    Zero channels of a network of convolutions and ReLUs stay zero, so the function is the same.
    """
    full = {}
    for name, target in like.items():
        value = stored.get(name)
        full[name] = torch.zeros(target.shape)
        if value is not None:
            full[name][tuple(slice(0, n) for n in value.shape)] = value
    return full


def subject(folder: Path = ASSETS) -> SubjectSet:
    """The demo subject's photos with their true masks."""
    pictures = folder / "subject"
    word = json.loads((pictures / "subject.json").read_text(encoding="utf-8"))["word"]
    photos = []
    for path in sorted(pictures.glob("*.png")):
        with Image.open(pictures / "masks" / path.name) as picture:
            grey = picture.convert("L")
            data = torch.frombuffer(bytearray(grey.tobytes()), dtype=torch.uint8)
        mask = data.view(grey.height, grey.width).float() / 255
        photos.append(replace(read_photo(path), mask=mask, verdict=verdict(mask)))
    return subject_set(photos, word)
