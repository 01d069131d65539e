"""Attractor masks for a subject set."""

from __future__ import annotations

import json
from typing import Any, cast

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from ..attractor.clicks import Click, click_on, parse_clicks
from ..attractor.clipseg import FOLDER_NAME, TextSegmenter
from ..attractor.errors import AttractorError
from ..attractor.masks import UNITS, Refinement
from ..attractor.overlay import effective_weight, mask_picture
from ..attractor.photo_masks import BACK_ENDS, mask_set
from ..attractor.raw_masks import Sources, gather
from ..attractor.saliency import KINDS, SaliencyModel, missing
from ..attractor.verdicts import ADVICE, left_out, verdict_text
from ..training.views import centre_view
from .host import folders, panels
from .host.model import HostModel
from .host.vision import on_device
from .types import CATEGORY, SubjectSetType, rare, schema, single, to_host


class Mask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Mask",
            display_name="Attractor Mask",
            search_aliases=["segment", "background removal", "subject mask", "saliency", "clipseg"],
            category=CATEGORY,
            description="Say which pixels of each photo belong to the subject. The rest is kept out of the embedding.",
            is_input_list=True,
            inputs=[
                SubjectSetType.Input("subject", tooltip="The photos to mask."),
                io.Combo.Input(
                    "back_end", options=list(BACK_ENDS), default="auto",
                    tooltip="auto: all that are available, compared with one another and across the photos. saliency: "
                    "the object that stands out. attention: what the MODEL itself attends to for the class word. text: "
                    "CLIPSeg. external: the masks input, or the photos' own transparency. none: whole photos.",
                ),
                io.Float.Input(
                    "grow", default=0.0, min=-500, max=500, step=0.5,
                    tooltip="Grow (or shrink, below 0) the mask, in the unit below.",
                ),
                io.Float.Input(
                    "feather", default=4.0, min=0, max=500, step=0.5,
                    tooltip="Soften the mask's edge, in the unit below.",
                ),
                io.Boolean.Input("fill_holes", default=True, tooltip="Holes inside the subject belong to it."),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="For 'external', one mask a photo, white on the subject. For the others a mark painted on "
                    "the subject, one a photo: it says which object is meant; an empty one says nothing.",
                ),
                io.Model.Input("model", optional=True, tooltip="For 'attention', and for 'auto' the better."),
                io.Clip.Input("clip", optional=True, tooltip="With model: its text encoder."),
                io.Vae.Input("vae", optional=True, tooltip="With model: its VAE."),
                io.String.Input(
                    "clicks", default="", multiline=True, optional=True,
                    tooltip="Which object is meant: 'x, y' on it or a box 'left, top, right, bottom', in pixels or "
                    "fractions; a line for each photo in order, or 'photo name: x, y'.",
                ),
                io.String.Input(
                    "word", default="", optional=True,
                    tooltip="What 'attention' and 'text' look for; empty: the class word.",
                ),
                rare(io.Combo.Input(
                    "saliency_model", options=list(KINDS), default="u2netp", optional=True,
                    tooltip="Which salient-object model; its .onnx file lies in models/attractor.",
                )),
                rare(io.Combo.Input(
                    "unit", options=list(UNITS), default=UNITS[0], optional=True,
                    tooltip="Of grow and feather: of the photo's longer side, or pixels.",
                )),
                rare(io.Float.Input(
                    "edges", default=0.0, min=0, max=50, step=0.5, optional=True,
                    tooltip="Draw the mask to edges of the photo within so many thousandths of its longer side. 0: off",
                )),
                io.Float.Input(
                    "strength", default=1.0, min=0, max=1, step=0.05, optional=True,
                    tooltip="Attractor strength that the picture shows the loss weight for; training has its own.",
                ),
                rare(io.Int.Input(
                    "cells", default=64, min=4, max=256, optional=True,
                    tooltip="Side of the latent grid in that picture: 64 for SD1.5 at 512, 128 for SDXL, 8 for the "
                    "demo.",
                )),
            ],
            outputs=[
                SubjectSetType.Output("masked", display_name="subject", is_output_list=True),
                io.Mask.Output("mask", display_name="masks", is_output_list=True),
                io.Image.Output("overlay", display_name="overlay", is_output_list=True),
                io.String.Output("verdict", display_name="verdict", is_output_list=True),
                io.String.Output("verdicts", display_name="verdicts (JSON)", is_output_list=True),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, saliency_model=("u2netp",), **_others):
        """A model file that is put in its place, or replaced, makes the node run again."""
        kind = KINDS.get(single(saliency_model) or "u2netp", KINDS["u2netp"])
        files = (folders.find_model(kind.file), folders.find_model(FOLDER_NAME) / "model.safetensors")
        return str([(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in files if p.is_file()])

    @classmethod
    def execute(
        cls, subject, back_end, grow, feather, fill_holes, masks=None, model=None, clip=None, vae=None, clicks=("",),
        word=("",), saliency_model=("u2netp",), unit=(UNITS[0],), edges=(0.0,), strength=(1.0,), cells=(64,),
    ):  # fmt: skip
        back_end = single(back_end)
        given = [m for batch in masks for m in (batch if batch.ndim == 3 else batch[None])] if masks else None
        how = Refinement(single(grow), single(feather), single(fill_holes), single(unit), single(edges))
        text, several = single(clicks) or "", len(subject) > 1
        if several and (text.strip() or given is not None):
            raise AttractorError("masks and clicks are for one subject: mask several subjects in a node each.")
        sources = _sources(back_end, single(model), single(clip), single(vae), single(saliency_model))
        sets, masks_out, shown, texts, data = [], [], [], [], []
        for one in subject:
            pointed = parse_clicks(text, one.names, [p.shown_size for p in one.photos])
            if given is not None and back_end not in ("external", "none"):
                pointed = {**_marks(one, given), **pointed}
            masked = mask_set(one, back_end, how, given, sources, pointed, single(word) or "")
            found = [cast(Tensor, photo.mask) for photo in masked.photos]
            for photo, mask in zip(masked.photos, found, strict=True):
                weight, share = effective_weight(centre_view(mask), single(strength), single(cells))
                picture = mask_picture(photo.pixels, mask, photo.verdict, weight, share, name=photo.name)
                shown.append(to_host(picture[None]))
            sets.append(masked)
            masks_out += [mask[None] for mask in found]
            notes = left_out({photo.name: photo.evidence for photo in masked.photos})
            notes += [f"auto did without {k}: {v}" for k, v in sources.missing.items()] if back_end == "auto" else []
            texts.append(verdict_text(masked.names, [p.verdict for p in masked.photos], found, notes))
            data.append(json.dumps({photo.name: photo.judgement() for photo in masked.photos}, indent=1))
        panel = panels.masks(sets, single(strength), single(cells), ADVICE)
        return io.NodeOutput(sets, masks_out, shown, texts, data, ui=panel)


def _marks(subject: Any, given: list) -> dict[str, Click]:
    """The clicks that painted marks stand for."""
    if len(given) != len(subject):
        raise AttractorError(
            f"masks: {len(given)} marks for {len(subject)} photos. Give one for each photo in order, an empty one "
            "where there is none, or write clicks instead."
        )
    found = {name: click_on(mark.cpu().float()) for name, mark in zip(subject.names, given, strict=True)}
    return {name: click for name, click in found.items() if click is not None}


def _sources(back_end: str, model: Any, clip: Any, vae: Any, saliency: str) -> Sources:
    makers = {
        "saliency": lambda: _saliency(back_end, saliency),
        "attention": lambda: _host_model(model, clip, vae),
        "text": lambda: TextSegmenter(folders.find_model(FOLDER_NAME)),
    }
    pulse = comfy.model_management.throw_exception_if_processing_interrupted
    return gather(back_end, makers, pulse=pulse, lend=lambda segmenter: on_device([segmenter]))


def _saliency(back_end: str, kind: str) -> SaliencyModel:
    path = folders.find_model(KINDS[kind].file)
    said = missing(path, kind)
    if said and back_end == "saliency":
        raise AttractorError(f"{said} Or choose the back end 'auto' or 'attention', which need no file.")
    return SaliencyModel(path, kind)


def _host_model(model: Any, clip: Any, vae: Any) -> HostModel:
    absent = [name for name, value in (("model", model), ("clip", clip), ("vae", vae)) if value is None]
    if absent:
        raise AttractorError(
            f"The back end 'attention' needs {', '.join(absent)}: connect MODEL, CLIP and VAE of the checkpoint that "
            "is trained on."
        )
    return HostModel(model, clip, vae)
