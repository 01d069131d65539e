"""Loading the photos of a subject, and splitting them."""

from __future__ import annotations

import hashlib
import math

import torch
from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..metrics.splits import split_set
from ..training.photos import SUFFIXES, photo_from_tensor, read_folder, subject_set
from .host import folders
from .types import CATEGORY, SubjectSetType, single, to_host


class LoadSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Attractor_LoadSubject",
            display_name="Load Subject",
            category=CATEGORY,
            description="Read the photos of one subject from a folder, or take them from an IMAGE. Photos of any "
            "size, format and orientation go together; none is resized to fit another.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "folder", default="",
                    tooltip="Folder of photos of one subject: a full path, or a folder inside ComfyUI's input folder.",
                ),
                io.String.Input(
                    "class_word", default="dog",
                    tooltip="What the subject is, in a word or two, such as 'dog'. Training starts from this word.",
                ),
                io.Image.Input("images", optional=True, tooltip="Photos from the graph, in the place of a folder."),
            ],
            outputs=[
                SubjectSetType.Output("subject", display_name="subject"),
                io.Image.Output("photos", display_name="photos", is_output_list=True),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder, class_word, images=None):
        folder = single(folder)
        if not folder:  # photos from the graph, or a folder that another node names
            return str(single(class_word))
        try:
            path = folders.subject_folder(folder)
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            state = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        except (OSError, AttractorError):
            return math.nan
        return hashlib.sha256(repr((state, single(class_word))).encode()).hexdigest()

    @classmethod
    def execute(cls, folder, class_word, images=None):
        word = single(class_word) or ""
        if images:
            flat = [image for batch in images for image in batch]
            subject = subject_set([photo_from_tensor(x, f"image_{i:02d}") for i, x in enumerate(flat)], word)
        else:
            subject = read_folder(folders.subject_folder(single(folder) or ""), word)
        return io.NodeOutput(subject, [to_host(photo.pixels[None]) for photo in subject.photos])


class Split(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Attractor_Split",
            display_name="Split Subject",
            category=CATEGORY,
            description="Put some photos aside for scoring. Near-duplicates (mirrored, shifted, cropped, resized or "
            "recompressed copies) always stay on one side; the certificate says so.",
            inputs=[
                SubjectSetType.Input("subject"),
                io.Float.Input(
                    "held_out", default=0.3, min=0.01, max=1000, step=0.01,
                    tooltip="Photos to hold out: a count (1 or more) or a fraction of all photos (below 1).",
                ),
                io.Int.Input("split_seed", default=0, min=0, max=2**31 - 1, tooltip="Which photos are held out."),
            ],
            outputs=[
                SubjectSetType.Output("train", display_name="train"),
                SubjectSetType.Output("held_out_set", display_name="held_out"),
                io.String.Output("certificate", display_name="certificate"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, subject, held_out, split_seed):
        with torch.inference_mode(False):
            split = split_set(subject, held_out, split_seed)
        return io.NodeOutput(split.train, split.held_out, f"{split.text}\n\n{split.certificate.to_json()}")
