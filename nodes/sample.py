"""Pictures of many prompts and seeds, through the host's samplers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import comfy.samplers
from comfy.cli_args import args
from comfy_api.latest import io

from ..attractor.prompts import SUBJECT
from ..metrics.generations import contact_sheet, read_prompts
from ..metrics.pictures import write_pictures
from ..training.concept import check_name
from .host import folders, panels
from .host.sampling import SamplerSettings, sample_grid
from .types import CATEGORY, CLIP_TIP, MODEL_TIP, VAE_TIP, ConceptType, GenerationsType, schema, to_host

_PROMPTS = "\n".join(
    f"a photo of a {SUBJECT} {place}"
    for place in ("on a beach", "on a wooden table", "in the snow", "in a forest", "on a city street at night",
                  "in a kitchen", "on green grass", "on a plain white background")
)  # fmt: skip  # eight: with fewer a score can hardly say how sure it is


class SampleGrid(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_SampleGrid",
            display_name="Sample Grid",
            search_aliases=["contact sheet", "XY plot", "prompt grid", "samples"],
            category=CATEGORY,
            description="Paint every prompt with every seed. Without a concept the class word stands in its place: "
            "that is the floor to compare with.",
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                io.Clip.Input("clip", tooltip=CLIP_TIP),
                io.Vae.Input("vae", tooltip=VAE_TIP),
                io.String.Input(
                    "prompts", multiline=True, default=_PROMPTS, tooltip=f"One prompt a line, with {SUBJECT} in it."
                ),
                io.String.Input("negative", multiline=True, default="", tooltip="What to avoid, for all prompts."),
                io.Int.Input(
                    "first_seed", default=0, min=0, max=2**53, tooltip="The seeds are this one and those after it."
                ),
                io.Int.Input("seeds", default=2, min=1, max=256, tooltip="Pictures of each prompt."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Sampler steps."),
                io.Float.Input("cfg", default=7.0, min=0, max=100, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                               tooltip="Of the host's samplers."),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="normal",
                               tooltip="Of the host's schedules of noise levels."),
                io.Int.Input("width", default=512, min=16, max=8192, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=512, min=16, max=8192, step=8, tooltip="Height in pixels."),
                io.Int.Input(
                    "batch_size", default=4, min=1, max=64,
                    tooltip="Pictures painted at once; it changes the speed and the memory, not the pictures.",
                ),
                io.String.Input(
                    "class_word", default="",
                    tooltip=f"What stands for {SUBJECT} when no concept is connected, such as 'dog'.",
                ),
                ConceptType.Input(
                    "concept", optional=True, tooltip="What stands for <subject>; without one, the class word does."
                ),
                io.String.Input(
                    "save_name", default="", optional=True,
                    tooltip="Keeps the pictures as PNG in output/attractor/<name>/pictures_0001 (the next time in "
                    "pictures_0002), each with prompt, seed, concept and its photos in its text; empty keeps none.",
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.Image.Output("sheet", display_name="contact sheet"),
                GenerationsType.Output("generations", display_name="generations"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, prompts, first_seed, seeds, batch_size, class_word, concept=None, save_name="", **sampler
    ):
        folder = folders.new_pictures_folder(check_name(save_name.strip())) if save_name.strip() else None
        chosen = range(first_seed, first_seed + seeds)
        settings = SamplerSettings(**sampler)
        with folders.kept_if_filled(folder):
            made = sample_grid(model, clip, vae, concept, class_word, read_prompts(prompts), chosen, settings,
                               batch_size)  # fmt: skip
            if folder is not None:
                write_pictures(made, folder, _graph_text(cls.hidden.prompt, cls.hidden.extra_pnginfo))
        return io.NodeOutput(to_host(made.images), to_host(contact_sheet(made)[None]), made,
                             ui=panels.pictures(made))  # fmt: skip


def _graph_text(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """The graph as the host's own Save Image writes it into a PNG, unless the host was started without that."""
    if args.disable_metadata:
        return {}
    found = {**({"prompt": prompt} if prompt is not None else {}), **(extra or {})}
    return {key: json.dumps(value) for key, value in found.items()}
