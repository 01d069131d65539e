"""The demo checkpoint and its subject: everything works at once, on a CPU, without a download."""

from __future__ import annotations

import json
from dataclasses import replace

from comfy_api.latest import io
from PIL import Image

from ..attractor.masks import verdict
from ..metrics.generations import from_picture
from ..training.photos import read_photo, subject_set
from .host import demo
from .types import CATEGORY, SubjectSetType


class LoadDemo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Attractor_LoadDemo",
            display_name="Load Demo",
            category=CATEGORY,
            description="A small checkpoint that comes with the pack (64 pixels, a world of simple things), and the "
            "photos of one subject from that world, with true masks. For trying the graph on any machine.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model"),
                io.Clip.Output("clip", display_name="clip"),
                io.Vae.Output("vae", display_name="vae"),
                SubjectSetType.Output("subject", display_name="subject"),
            ],
        )

    @classmethod
    def execute(cls):
        return io.NodeOutput(*demo.load(), demo_subject())


def demo_subject():
    """The demo subject with its true masks."""
    folder = demo.ASSETS / "subject"
    word = json.loads((folder / "subject.json").read_text(encoding="utf-8"))["word"]
    photos = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(folder / "masks" / path.name) as picture:
            mask = from_picture(picture)[0]
        photos.append(replace(read_photo(path), mask=mask, verdict=verdict(mask)))
    return subject_set(photos, word)

