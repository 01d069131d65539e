"""The demo checkpoint and its subject: everything works at once, on a CPU, without a download."""

from __future__ import annotations

from comfy_api.latest import io

from ..training import demo_assets
from .host import demo
from .types import CATEGORY, SubjectSetType, schema


class LoadDemo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_LoadDemo",
            display_name="Load Demo",
            search_aliases=["example", "checkpoint", "try attractor"],
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
        return io.NodeOutput(*demo.load(), demo_assets.subject())
