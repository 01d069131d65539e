"""Loading the photos of a subject, and splitting them."""

from __future__ import annotations

import hashlib

import torch
from comfy_api.latest import io

from ..attractor.errors import AttractorError
from ..metrics.splits import split_set
from ..training.photos import SUFFIXES, photo_from_tensor, read_folder, subject_set
from ..training.rights import FILES as MANIFESTS
from .host import folders
from .types import CATEGORY, SubjectSetType, schema, single, to_host


class LoadSubject(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_LoadSubject",
            display_name="Load Subject",
            search_aliases=["photos", "load photos", "dataset", "training images", "folder of images"],
            category=CATEGORY,
            description="Read the photos of one subject from a folder, or take them from an IMAGE. Photos of any "
            "size, format and orientation go together; none is resized to fit another. Several folders, one a line, "
            "give a list of subjects, which the next nodes take in turn and Train Concept trains side by side.",
            is_input_list=True,
            inputs=[
                io.String.Input(
                    "folder", default="", multiline=True,
                    tooltip="Folder of photos of one subject: a full path, or a folder inside ComfyUI's input folder. "
                    "One a line for several subjects. Where it comes by a wire, changed photos are not noticed.",
                ),
                io.String.Input(
                    "class_word", default="dog",
                    multiline=True,
                    tooltip="What the subject is, in a word or two, such as 'dog'. Training starts from this word. "
                    "For several folders one for all, or one a line.",
                ),
                io.Image.Input("images", optional=True, tooltip="Photos from the graph, in the place of a folder."),
            ],
            outputs=[
                SubjectSetType.Output("subject", display_name="subject", is_output_list=True),
                io.Image.Output("photos", display_name="photos", is_output_list=True),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder, class_word, images=None):
        if images is not None or not single(folder):  # photos from the graph, or a folder that another node names
            return str(class_word)
        try:
            files = [p for line in _lines(folder) for p in sorted(folders.subject_folder(line).iterdir())]
            read = [p for p in files if p.suffix.lower() in SUFFIXES or p.name.lower() in MANIFESTS]
            state = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in read if p.is_file()]
        except (OSError, AttractorError):
            return float("nan")
        return hashlib.sha256(repr((state, class_word)).encode()).hexdigest()

    @classmethod
    def execute(cls, folder, class_word, images=None):
        words, paths = _lines(class_word), _lines(folder)
        if images:
            flat = [image for batch in images for image in batch]
            photos = [photo_from_tensor(x, f"image_{i:02d}") for i, x in enumerate(flat)]
            subjects = [subject_set(photos, words[0] if words else "")]
        else:
            if len(words) > 1 and len(words) != len(paths):
                raise AttractorError(
                    f"class_word has {len(words)} lines and folder {len(paths)}: give one word for all folders, or one "
                    "for each, in the same order."
                )
            paths = [folders.subject_folder(line) for line in paths or [""]]
            subjects = [read_folder(path, words[i % len(words)] if words else "") for i, path in enumerate(paths)]
        return io.NodeOutput(subjects, [to_host(p.pixels[None]) for one in subjects for p in one.photos])


def _lines(given) -> list[str]:
    """The lines of a text, or of a list of them, that are not empty."""
    texts = given if isinstance(given, list | tuple) else [given]
    return [line.strip() for text in texts for line in str(text or "").splitlines() if line.strip()]


class Split(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Split",
            display_name="Split Subject",
            search_aliases=["hold out", "validation split", "near-duplicates", "test set"],
            category=CATEGORY,
            description="Put some photos aside for scoring. Near-duplicates (mirrored, shifted, cropped, resized or "
            "recompressed copies) always stay on one side; the certificate says so.",
            inputs=[
                SubjectSetType.Input("subject", tooltip="All photos of the subject, with masks or without."),
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
