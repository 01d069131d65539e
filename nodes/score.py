"""Scores on photos that nothing was learnt from."""

from __future__ import annotations

from contextlib import nullcontext

from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..attractor.saliency import FILE_NAME, SaliencyModel, missing
from ..metrics.charts import score_chart
from ..metrics.encoders import EFFICIENTNET, available, load_encoder, no_text, not_here, not_installed
from ..metrics.generations import from_picture
from ..metrics.page import folder_for, write_report
from ..metrics.scores import score
from ..metrics.weights import KNOWN, fetch
from ..training.concept import check_name
from ..training.photos import photo_from_tensor
from .host import folders, panels
from .host.progress import watcher
from .host.vision import HostVision, on_device
from .types import CATEGORY, GenerationsType, ReportType, SubjectSetType, absent, rare, schema, to_host

_NONE = "none"
_REGIONS = ("whole pictures", "subject and background too")


class Score(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        encoders = sorted({*available(folders.model_folders()), *KNOWN})
        return schema(
            node_id="Attractor_Score",
            display_name="Score Concept",
            search_aliases=["evaluate", "CLIP score", "CLIP-I", "DINO", "memorisation", "overfitting", "similarity"],
            category=CATEGORY,
            description="Similarity to held-out photos between floor and ceiling, with the train photos beside it, the "
            "memorisation gap, and how well the prompt is followed. Refuses held-out photos that were trained on.",
            is_output_node=True,
            inputs=[
                GenerationsType.Input("generations", tooltip="Pictures of the concept."),
                SubjectSetType.Input("train_set", tooltip="The photos that the concept learnt from."),
                SubjectSetType.Input(
                    "held_out_set", tooltip="Photos that nothing was learnt from: what is scored against."
                ),
                io.Combo.Input(
                    "image_encoder", options=[*encoders, _NONE], default=EFFICIENTNET,
                    tooltip="Compares pictures with photos. Whatever lies in models/attractor is listed, and what "
                    "can be fetched: see download.",
                ),
                io.Combo.Input(
                    "text_encoder", options=[_NONE, *encoders], default=_NONE,
                    tooltip="A CLIP from models/attractor, to score how well pictures follow their prompts.",
                ),
                io.String.Input(
                    "report_name", default="", tooltip="Writes output/attractor/<name>/report.html, "
                    "<name>-2 where a report of other photos lies already; empty writes none.",
                ),
                GenerationsType.Input(
                    "base_generations", optional=True,
                    tooltip="The same prompts and seeds without the concept: gives floor and memorisation gap.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="One more image encoder, from the host."),
                io.Combo.Input(
                    "regions", options=list(_REGIONS), default=_REGIONS[0], optional=True,
                    tooltip="Also score the subject alone and the background alone, found by saliency (u2netp.onnx in "
                    "models/attractor, and onnxruntime): gives the leak of backgrounds.",
                ),
                io.Image.Input(
                    "look_alikes", optional=True,
                    tooltip="Photos of other things that look like the subject: is it recognised among them?",
                ),
                io.Mask.Input(
                    "picture_masks", optional=True,
                    tooltip="The subject in each picture of generations, in their order, from any node: scores subject "
                    "and background too, by these in the place of saliency.",
                ),
                io.Mask.Input(
                    "base_masks", optional=True, tooltip="The same for the pictures of base_generations."
                ),
                rare(io.Boolean.Input(
                    "download", default=False, optional=True,
                    tooltip="Fetch chosen encoders that are not here from huggingface.co into models/attractor. While "
                    "this is off, queueing says their size and licence.",
                )),
            ],
            outputs=[
                ReportType.Output("report", display_name="report"),
                io.Image.Output("chart", display_name="chart"),
                io.String.Output("text", display_name="text"),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, image_encoder=None, text_encoder=None, download=False, regions=None):
        """Said when the graph is queued, and not after its training."""
        there = [*available(folders.model_folders()), *KNOWN, _NONE]
        what = f"Put it into {folders.model_folders()[0]}, or choose another."
        chosen = (("image_encoder", image_encoder), ("text_encoder", text_encoder))
        said = [absent(name, value, there, what) for name, value in chosen]
        if isinstance(text_encoder, str) and text_encoder != _NONE:
            said.append(no_text(text_encoder, folders.model_folders()))
        said.append(absent("regions", regions, _REGIONS, "Choose another."))
        if regions == _REGIONS[1] and (said_of := missing(folders.find_model(FILE_NAME))):
            said.append(f"regions: {said_of} Or set regions to {_REGIONS[0]!r}.")
        names = [value for _, value in chosen if isinstance(value, str)]
        needs = [not_installed(name, folders.model_folders()) for name in names]
        if download is False:  # None where it comes by a link
            needs += [_offer(name) for name in names]
        return next((one for one in [*said, *needs] if one), True)

    @classmethod
    def execute(
        cls, generations, train_set, held_out_set, image_encoder, text_encoder, report_name,
        base_generations=None, clip_vision=None, regions=_REGIONS[0], look_alikes=None,
        picture_masks=None, base_masks=None, download=False,
    ):  # fmt: skip
        generations = generations.with_masks(picture_masks, "picture_masks")
        if base_generations is not None:
            base_generations = base_generations.with_masks(base_masks, "base_masks")
        folder = folders.report_folder(check_name(report_name.strip())) if report_name.strip() else None
        names = dict.fromkeys(name for name in (image_encoder, text_encoder) if name != _NONE)
        others = [photo_from_tensor(image, f"look_alikes {i}") for i, image in enumerate(
            () if look_alikes is None else look_alikes)]  # fmt: skip
        find = SaliencyModel(folders.find_model(FILE_NAME)).mask if regions == _REGIONS[1] else None
        if text_encoder != _NONE and (said := no_text(text_encoder, folders.model_folders())):
            raise AttractorError(said)
        for name in names:
            if (said := _offer(name)) and not download:
                raise AttractorError(said)
            if said:
                fetch(KNOWN[name], folders.model_folders()[0], watcher())
        loaded = [load_encoder(name, folders.model_folders()) for name in names]
        with on_device(loaded) if loaded else nullcontext():
            encoders = [*loaded, *([HostVision(clip_vision)] if clip_vision is not None else [])]
            report = score(generations, base_generations, train_set, held_out_set, encoders, find, others, watcher())
        text, page = report.text, None
        if folder is not None:
            _, page = write_report(report, folder_for(report, folder))
            text += f"\npage: {page}"
        return io.NodeOutput(report, to_host(from_picture(score_chart(report))[None]), text,
                             ui={"text": (text,), **panels.verdicts([("", report.verdict)], page)})  # fmt: skip


def _offer(name: str) -> str:
    """What is said of an encoder that is not here and can be fetched; empty for all others."""
    said = not_here(name, folders.model_folders())
    return said and f"{said} Switch download on to fetch it, or put it there."
