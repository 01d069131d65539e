"""Attractor masks for a subject set."""

from __future__ import annotations

from comfy_api.latest import io

from ..attractor.masks import Refinement, overlay, verdict_text
from ..attractor.photo_masks import BACK_ENDS, mask_set
from ..attractor.saliency import FILE_NAME, SaliencyModel
from .host import folders
from .types import CATEGORY, SubjectSetType, single, to_host


class Mask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Attractor_Mask",
            display_name="Attractor Mask",
            category=CATEGORY,
            description="Say which pixels of each photo belong to the subject. The rest is kept out of the embedding.",
            is_input_list=True,
            inputs=[
                SubjectSetType.Input("subject"),
                io.Combo.Input(
                    "back_end", options=list(BACK_ENDS), default="saliency",
                    tooltip="saliency: the object that stands out (U2-NetP). external: the MASK input, or the photos' "
                    "own transparency. none: whole photos.",
                ),
                io.Float.Input(
                    "grow", default=0.0, min=-100, max=100, step=0.5,
                    tooltip="Grow (or shrink, below 0) the mask, in thousandths of the photo's longer side.",
                ),
                io.Float.Input(
                    "feather", default=4.0, min=0, max=100, step=0.5,
                    tooltip="Soften the mask's edge, in thousandths of the photo's longer side.",
                ),
                io.Boolean.Input("fill_holes", default=True, tooltip="Holes inside the subject belong to it."),
                io.Mask.Input(
                    "masks", optional=True, tooltip="One mask a photo, white on the subject, for back end 'external'."
                ),
            ],
            outputs=[
                SubjectSetType.Output("masked", display_name="subject"),
                io.Mask.Output("mask", display_name="masks", is_output_list=True),
                io.Image.Output("overlay", display_name="overlay", is_output_list=True),
                io.String.Output("verdict", display_name="verdict"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, subject, back_end, grow, feather, fill_holes, masks=None):
        subject, back_end = single(subject), single(back_end)
        given = [m for batch in masks for m in (batch if batch.ndim == 3 else batch[None])] if masks else None
        how = Refinement(single(grow), single(feather), single(fill_holes))
        saliency = SaliencyModel(folders.find_model(FILE_NAME)) if back_end == "saliency" else None
        masked = mask_set(subject, back_end, how, given, saliency)
        photos = masked.photos
        shown = [to_host(overlay(p.pixels, p.mask)[None]) for p in photos]
        text = verdict_text([p.name for p in photos], [p.verdict for p in photos], [p.mask for p in photos])
        return io.NodeOutput(masked, [p.mask[None] for p in photos], shown, text)
