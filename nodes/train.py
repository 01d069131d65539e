"""Training a concept on the host's loaded models."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..attractor.prompts import SUBJECT
from ..metrics.charts import loss_curve
from ..metrics.generations import from_picture, to_picture
from ..metrics.splits import check_disjoint
from ..training.loop import train
from ..training.resume import RunFolder
from ..training.schedules import SCHEDULES, TIMESTEPS
from ..training.settings import BACKGROUND_CHANGES, BACKGROUND_SCOPES, REPRESENTATIONS, TrainSettings
from ..training.starts import NORMS, STARTS
from ..training.together import Job, most_together, train_together
from ..training.watcher import Among
from .host import folders, panels
from .host.model import HostModel
from .host.progress import HostWatcher
from .host.sampling import SamplerSettings, sample_grid
from .types import CATEGORY, CLIP_TIP, MODEL_TIP, VAE_TIP, ConceptType, SubjectSetType, rare, schema, single, to_host

_DEFAULT = TrainSettings()


def training_inputs(*without: str) -> list:
    """The inputs that TrainSettings is made of, in their order, but for those named."""
    inputs = [
        io.Int.Input("steps", default=_DEFAULT.steps, min=1, max=100000,
                     tooltip="Steps for the subject. With a held-out set the best one is kept: more cost time only."),
        io.Int.Input("batch_size", default=_DEFAULT.batch_size, min=1, max=256,
                     tooltip="Views of the photos in each step. More are steadier and take more memory."),
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
            tooltip="Attractor strength: how far pixels outside the mask are kept out of the subject's loss. At 0 they "
            "count as much as the subject, as in plain training, at 1 not at all. Begin with 1.",
        ),
        io.Combo.Input(
            "background_scope", options=list(BACKGROUND_SCOPES), default=_DEFAULT.background_scope,
            tooltip="Background tokens, which soak up the background and are dropped afterwards: one set for "
            "all photos, one for each photo or each shoot (found by their backgrounds), or none.",
        ),
        rare(io.Int.Input(
            "background_vectors", default=_DEFAULT.background_vectors, min=1, max=32,
            tooltip="Tokens in each set of background tokens.",
        )),
        rare(io.Int.Input(
            "background_steps", default=_DEFAULT.background_steps, min=0, max=100000,
            tooltip="At most so many steps for the background alone, first; it ends earlier once explained. "
            "0 trains both together.",
        )),
        rare(io.Float.Input(
            "zoom", default=_DEFAULT.zoom, min=1, max=4, step=0.05,
            tooltip="Largest random magnification. Where a mask shows that the subject is small, counted from where it "
            "takes .6 of the view's side. 1 for none.",
        )),
        io.Boolean.Input(
            "flip", default=_DEFAULT.flip, tooltip="Mirror half of the views; not for a subject with writing."
        ),
        rare(io.Int.Input(
            "views", default=_DEFAULT.views, min=1, max=256, tooltip="Views made of each photo."
        )),
        io.Int.Input(
            "training_seed", default=_DEFAULT.seed, min=0, max=2**31 - 1,
            tooltip="Of everything random in training: the same graph gives the same embedding.",
        ),
    ]  # fmt: skip
    return [one for one in inputs if one.id not in without]


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Train",
            display_name="Train Concept",
            search_aliases=["textual inversion", "train embedding", "dreambooth", "learn subject", "NeTI", "P+"],
            category=CATEGORY,
            description="Learn an embedding of the subject on the loaded models (Textual Inversion with a background "
            "attractor). The models are left exactly as they were. Lists of sets or settings are trained side by side.",
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                io.Clip.Input("clip", tooltip=CLIP_TIP),
                io.Vae.Input("vae", tooltip=VAE_TIP),
                SubjectSetType.Input("train_set", tooltip="The photos to learn from; with masks, if they have any."),
                *training_inputs(),
                io.Int.Input(
                    "preview_every", default=0, min=0, max=100000,
                    tooltip="Steps between previews painted with the concept so far; 0 shows the loss curve instead.",
                ),
                rare(io.String.Input(
                    "preview_prompt", default=f"a photo of a {SUBJECT}", tooltip="Prompt of the previews.",
                )),
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
                    tooltip="Gradient checkpointing: less memory, about a third more time. Where a step finds no "
                    "room it is switched on by itself.",
                ),
                *map(rare, _finer_inputs()),
                ConceptType.Input(
                    "start_concept", optional=True,
                    tooltip="A concept to go on from, in the place of the class word; it says how many vectors there "
                    "are.",
                ),
            ],
            outputs=[
                ConceptType.Output("concept", display_name="concept", is_output_list=True),
                io.Image.Output("curve", display_name="loss curve", is_output_list=True),
                io.String.Output("run_card", display_name="run card", is_output_list=True),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, vae, **lists):
        if empty := [name for name, values in lists.items() if not values]:
            raise AttractorError(f"{empty[0]} is an empty list: the node before it gave nothing.")
        count = max(len(values) for values in lists.values())
        each = [{name: values[min(i, len(values) - 1)] for name, values in lists.items()} for i in range(count)]
        for name, values in (("model", model), ("clip", clip), ("vae", vae)):
            if len(values) != 1:
                raise AttractorError(f"{name} is a list of {len(values)}: connect one, all trainings share it.")
        sets = {name: len(lists[name]) for name in ("train_set", "held_out_set") if len(lists.get(name) or ()) > 1}
        if any(number != count for number in sets.values()) or (sets and "held_out_set" in lists and len(sets) < 2):
            raise AttractorError(
                f"train_set and held_out_set are lists of different lengths ({len(lists['train_set'])} and "
                f"{len(lists.get('held_out_set') or ())}): give each train set the held-out set of its own subject."
            )
        shown = each[0]["preview_prompt"]
        if each[0]["preview_every"] and SUBJECT not in shown:
            raise AttractorError(
                f"preview_prompt {shown!r} has no {SUBJECT} in it, so previews would not show the concept: write "
                f"{SUBJECT} where it belongs, or set preview_every to 0."
            )
        host = HostModel(single(model), single(clip), single(vae))
        for one in each:
            if one.get("held_out_set") is not None:
                check_disjoint(one["train_set"], one["held_out_set"])
        jobs = [_job(host, **chosen) for chosen in each]
        runs = [job.runs for job in jobs if job.runs is not None]

        def sample(step, concept):
            job, side = jobs[0], jobs[0].settings.resolution
            sampler = SamplerSettings(steps=12, cfg=5.0, width=side, height=side)
            prompt, seed = each[0]["preview_prompt"], job.settings.seed
            with torch.inference_mode():
                grid = sample_grid(host.patcher, host.clip, host.vae, concept, "", [prompt], [seed], sampler, 1, False)
            picture = to_picture(grid.images[0])
            runs[0].add_picture(f"preview-{step:06d}.png", picture)
            return picture

        with HostWatcher(cls.hidden.unique_id, loss_curve, sample) as watcher:
            watcher.say(_memory(host, [job.settings for job in jobs]))
            if count == 1:
                job = jobs[0]
                found = [train(host, job.subject, job.settings, job.held_out, watcher, job.preview_every, job.runs,
                               job.start_from)]  # fmt: skip
            else:
                for job, own in zip(jobs, Among.all(watcher, [one.settings for one in jobs]), strict=True):
                    job.watcher = own
                found = train_together(host, jobs)
            watcher.finish(found[0][1])
        curves = [loss_curve(history) for _, history in found]
        for run, curve in zip(runs, curves, strict=True):
            run.add_picture("curve.png", curve)
        cards = [json.dumps(concept.run_card, indent=2) for concept, _ in found]
        shown = [to_host(from_picture(curve)[None]) for curve in curves]
        panel = panels.panel_of_training([(concept.class_word, history) for concept, history in found])
        return io.NodeOutput([concept for concept, _ in found], shown, cards, ui=panel)


def _memory(host, settings) -> str:
    """The estimate that is shown before the first step."""
    samples = min(sum(s.batch_size for s in settings), most_together(settings[0].resolution))
    samples, side = max(samples, settings[0].batch_size), settings[0].resolution
    anew = any(s.checkpointing for s in settings) or not host.has_room(max(s.batch_size for s in settings), side)
    needed, free = host.memory_of_a_step(samples, side, anew) / 2**30, host.memory_free() / 2**30
    text = f"A step takes about {needed:.1f} GiB beyond the models; {free:.1f} GiB are free on {host.device} now."
    if needed > free and not anew:
        text += " If that is not enough, checkpointing or a smaller batch_size or resolution takes less."
    return text


def _job(
    host, train_set, preview_every, preview_prompt, training_seed, held_out_set=None, start_concept=None, **chosen
) -> Job:
    settings = TrainSettings(**chosen, seed=training_seed)
    if start_concept is not None:
        start_concept.check_fits(host.widths, None, "this CLIP")
    folder = folders.report_folder("runs")
    runs = RunFolder.of(folder, host, train_set, settings, held_out_set, start_from=start_concept)
    return Job(train_set, settings, held_out_set, None, preview_every, runs, start_concept)


def _finer_inputs() -> list:
    """Inputs that most users leave alone."""
    return [
        io.Combo.Input(
            "schedule", options=list(SCHEDULES), default=_DEFAULT.schedule, optional=True,
            tooltip="Of the learning rate after its warm-up: falling to a tenth along a cosine, or constant.",
        ),
        io.Float.Input(
            "ema", default=_DEFAULT.ema, min=0, max=0.9999, step=0.01, round=1e-4, optional=True,
            tooltip="Decay of a running mean of the embedding, kept in its place: .98 smooths 50 steps. 0: off.",
        ),
        io.Float.Input(
            "min_snr", default=_DEFAULT.min_snr, min=0, max=1000, step=0.5, optional=True,
            tooltip="Gamma of min-SNR weights, 5 in its paper: nearly clean pictures count less. 0: off.",
        ),
        io.Combo.Input(
            "timestep_sampling", options=list(TIMESTEPS), default=_DEFAULT.timestep_sampling, optional=True,
            tooltip="Which noise levels are trained on: all alike, or strong noise more often, where layout is set.",
        ),
        io.Float.Input(
            "colour", default=_DEFAULT.colour, min=0, max=1, step=0.05, optional=True,
            tooltip="Random change of the views' colours: 1 is up to 30% of contrast and saturation. "
            "Not for a subject that is known by its colour.",
        ),
        io.Combo.Input(
            "background_change", options=list(BACKGROUND_CHANGES), default=_DEFAULT.background_change, optional=True,
            tooltip="Give half of the views another background by their masks: blurred, or swapped for plain colours.",
        ),
        io.Float.Input(
            "keeps_context", default=_DEFAULT.keeps_context, min=0, max=1000, step=0.01, optional=True,
            tooltip="Weight of a loss that holds the other words where they stand beside the class word. 0: off.",
        ),
        io.Combo.Input(
            "start", options=list(STARTS), default=_DEFAULT.start, optional=True,
            tooltip="Where the vectors start: at the class word, or at what the text encoder makes of it (Cross "
            "Initialization).",
        ),
        io.Combo.Input(
            "norm", options=list(NORMS), default=_DEFAULT.norm, optional=True,
            tooltip="Length of the vectors: free, held at the start's, or held at the vocabulary's, so that only their "
            "direction is learnt (Directional Textual Inversion).",
        ),
    ]  # fmt: skip
