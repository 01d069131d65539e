"""Proposing settings for a set, from short pilot runs on the host's loaded models."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..attractor.propose import propose
from ..metrics.charts import loss_curve, proposal_chart
from ..metrics.generations import from_picture
from ..metrics.splits import check_disjoint
from ..training.settings import TrainSettings
from .host.model import HostModel
from .host.progress import HostWatcher
from .train import training_inputs
from .types import CATEGORY, CLIP_TIP, MODEL_TIP, VAE_TIP, SubjectSetType, schema, to_host


class Propose(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Propose",
            display_name="Propose Settings",
            search_aliases=["tune", "hyperparameters", "strength", "sweep"],
            category=CATEGORY,
            description="Try several attractor strengths at once in short pilot runs, compare them on pictures that "
            "they did not see, and say which one suits this set. Wire strength and steps into Train Concept.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                io.Clip.Input("clip", tooltip=CLIP_TIP),
                io.Vae.Input("vae", tooltip=VAE_TIP),
                SubjectSetType.Input("train_set", tooltip="The photos to learn from, with masks."),
                *training_inputs("strength"),
                io.Int.Input("pilot_steps", default=100, min=10, max=10000, tooltip="Steps of the pilots."),
                SubjectSetType.Input(
                    "held_out_set", optional=True,
                    tooltip="Photos with masks to compare the pilots on; without them, crops on swapped backgrounds. "
                    "They then have chosen settings: for the strictest score leave this empty.",
                ),
            ],
            outputs=[
                io.Float.Output("strength", display_name="strength"),
                io.Int.Output("proposed_steps", display_name="steps"),
                io.Float.Output("floor", display_name="floor"),
                io.Float.Output("feather", display_name="extra feather"),
                io.Image.Output("chart", display_name="evidence"),
                io.String.Output("sentence", display_name="why"),
                io.String.Output("data", display_name="evidence (JSON)"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, vae, train_set, pilot_steps, training_seed, held_out_set=None, **chosen):
        if held_out_set is not None:
            check_disjoint(train_set, held_out_set)
        settings = TrainSettings(**chosen, seed=training_seed)
        with HostWatcher(cls.hidden.unique_id, loss_curve) as watcher:
            found = propose(HostModel(model, clip, vae), train_set, settings, held_out_set, pilot_steps, watcher)
        chart = to_host(from_picture(proposal_chart(found))[None])
        data = json.dumps(found.as_dict(), indent=1)
        return io.NodeOutput(found.strength, found.steps, found.floor, found.feather, chart, found.sentence, data)
