"""Pictures of many prompts and seeds, through the host's samplers."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..attractor.prompts import SUBJECT
from ..metrics.generations import contact_sheet, read_prompts
from .host import panels
from .host.sampling import SamplerSettings, sample_grid
from .types import CATEGORY, CLIP_TIP, MODEL_TIP, VAE_TIP, ConceptType, GenerationsType, schema, to_host

_PROMPTS = f"a photo of a {SUBJECT} on a beach\na photo of a {SUBJECT} on a wooden table\na {SUBJECT} in the snow"


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
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.Image.Output("sheet", display_name="contact sheet"),
                GenerationsType.Output("generations", display_name="generations"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, prompts, first_seed, seeds, batch_size, class_word, concept=None, **sampler
    ):
        chosen = range(first_seed, first_seed + seeds)
        settings = SamplerSettings(**sampler)
        made = sample_grid(model, clip, vae, concept, class_word, read_prompts(prompts), chosen, settings, batch_size)
        return io.NodeOutput(to_host(made.images), to_host(contact_sheet(made)[None]), made,
                             ui=panels.pictures(made))  # fmt: skip
