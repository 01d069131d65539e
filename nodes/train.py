"""Training a concept on the host's loaded models."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io

from ..attractor.prompts import SUBJECT
from ..metrics.charts import loss_curve
from ..metrics.generations import from_picture, to_picture
from ..metrics.splits import check_disjoint
from ..training.loop import train
from ..training.resume import RunFolder
from ..training.settings import BACKGROUND_SCOPES, REPRESENTATIONS, TrainSettings
from .host import folders
from .host.model import HostModel
from .host.progress import HostWatcher
from .host.sampling import SamplerSettings, sample_grid
from .types import CATEGORY, ConceptType, SubjectSetType, to_host

_DEFAULT = TrainSettings()


def training_inputs(*without: str) -> list:
    """The inputs that TrainSettings is made of, in their order, but for those named."""
    inputs = [
        io.Int.Input("steps", default=_DEFAULT.steps, min=1, max=100000, tooltip="Steps for the subject."),
        io.Int.Input("batch_size", default=_DEFAULT.batch_size, min=1, max=256, tooltip="Views a step."),
        io.Float.Input(
            "learning_rate", default=_DEFAULT.learning_rate, min=1e-7, max=10, step=1e-4, round=1e-7,
            tooltip="As published for SD1.5 (0.005); it is rescaled to the text encoder at hand.",
        ),
        io.Int.Input(
            "vectors", default=_DEFAULT.vectors, min=1, max=32,
            tooltip="Vectors of the subject: more hold more detail and take more of the prompt's 75 tokens.",
        ),
        io.Int.Input(
            "resolution", default=_DEFAULT.resolution, min=64, max=2048, step=64,
            tooltip="Side of the training views in pixels: 512 for SD1.5, 1024 for SDXL, 64 for the demo.",
        ),
        io.Float.Input(
            "strength", default=_DEFAULT.strength, min=0, max=1, step=0.05,
            tooltip="Attractor strength: how far pixels outside the mask are kept out of the subject's loss. "
            "0 is plain training, 1 the mask alone.",
        ),
        io.Combo.Input(
            "background_scope", options=list(BACKGROUND_SCOPES), default=_DEFAULT.background_scope,
            tooltip="Background tokens, which soak up the background and are dropped afterwards: one set for "
            "all photos of a shoot, one for each photo, or none.",
        ),
        io.Int.Input(
            "background_vectors", default=_DEFAULT.background_vectors, min=1, max=32,
            tooltip="Tokens in each set of background tokens.",
        ),
        io.Int.Input(
            "background_steps", default=_DEFAULT.background_steps, min=0, max=100000,
            tooltip="At most so many steps for the background alone, first; it ends earlier once explained. "
            "0 trains both together.",
        ),
        io.Float.Input(
            "zoom", default=_DEFAULT.zoom, min=1, max=4, step=0.05, tooltip="Largest random magnification."
        ),
        io.Boolean.Input(
            "flip", default=_DEFAULT.flip, tooltip="Mirror half of the views; not for a subject with writing."
        ),
        io.Int.Input("views", default=_DEFAULT.views, min=1, max=256, tooltip="Views made of each photo."),
        io.Int.Input(
            "training_seed", default=_DEFAULT.seed, min=0, max=2**31 - 1,
            tooltip="Of everything random in training: the same graph gives the same embedding.",
        ),
    ]  # fmt: skip
    return [one for one in inputs if one.id not in without]


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Attractor_Train",
            display_name="Train Concept",
            category=CATEGORY,
            description="Learn an embedding of the subject on the loaded models (Textual Inversion with a background "
            "attractor). The models are left exactly as they were.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                SubjectSetType.Input("train_set", tooltip="The photos to learn from; with masks, if they have any."),
                *training_inputs(),
                io.Int.Input(
                    "preview_every", default=0, min=0, max=100000,
                    tooltip="Steps between previews painted with the concept so far; 0 shows the loss curve instead.",
                ),
                io.String.Input(
                    "preview_prompt", default=f"a photo of a {SUBJECT}", tooltip="Prompt of the previews."
                ),
                SubjectSetType.Input(
                    "held_out_set", optional=True,
                    tooltip="Photos to stop by: the last step at which their loss has not risen is kept.",
                ),
                io.Combo.Input(
                    "representation", options=list(REPRESENTATIONS), default=_DEFAULT.representation, optional=True,
                    tooltip="How the subject is stored. TI: vectors, for every program. XTI: vectors for each layer of "
                    "the U-Net. NeTI: a network of timestep and layer. The last two need Attractor's Concept Prompt; "
                    "other programs read their plain embedding.",
                ),
                io.Boolean.Input(
                    "checkpointing", default=_DEFAULT.checkpointing, optional=True,
                    tooltip="Gradient checkpointing: less memory, about a third more time. Where memory runs out it is "
                    "switched on by itself.",
                ),
            ],
            outputs=[
                ConceptType.Output("concept", display_name="concept"),
                io.Image.Output("curve", display_name="loss curve"),
                io.String.Output("run_card", display_name="run card"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip, vae, train_set, preview_every, preview_prompt, training_seed, held_out_set=None, **chosen
    ):
        settings = TrainSettings(**chosen, seed=training_seed)
        host = HostModel(model, clip, vae)
        runs = RunFolder.of(folders.report_folder("runs"), host, train_set, settings, held_out_set)
        side = settings.resolution

        def sample(step, concept):
            sampler = SamplerSettings(steps=12, cfg=5.0, width=side, height=side)
            with torch.inference_mode():
                grid = sample_grid(model, clip, vae, concept, "", [preview_prompt], [settings.seed], sampler, 1, False)
            picture = to_picture(grid.images[0])
            runs.add_picture(f"preview-{step:06d}.png", picture)
            return picture

        if held_out_set is not None:
            check_disjoint(train_set, held_out_set)
        watcher = HostWatcher(cls.hidden.unique_id, loss_curve, sample)
        concept, history = train(host, train_set, settings, held_out_set, watcher, preview_every, runs)
        watcher.finish(history)
        curve = loss_curve(history)
        runs.add_picture("curve.png", curve)
        return io.NodeOutput(concept, to_host(from_picture(curve)[None]), json.dumps(concept.run_card, indent=2))
