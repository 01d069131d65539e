"""Concept files, and prompts with a concept in them."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..attractor.errors import AttractorError
from ..attractor.prompts import SUBJECT
from ..training.concept import load_concept, save_concept
from .host import folders
from .host.sampling import prompted
from .types import CATEGORY, CLIP_TIP, MODEL_TIP, ConceptType, absent, rare, schema


class SaveConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_SaveConcept",
            display_name="Save Concept",
            search_aliases=["save embedding", "textual inversion"],
            category=CATEGORY,
            description="Write the concept into ComfyUI's embeddings folder, where embedding:name finds it, and so do "
            "other programs that read Textual Inversion files.",
            is_output_node=True,
            inputs=[
                ConceptType.Input("concept", tooltip="What Train Concept gave."),
                io.String.Input("name", default="my-subject", tooltip="Type embedding:name in any prompt to use it."),
                io.Combo.Input(
                    "when_exists", options=["refuse", "number", "overwrite"], default="refuse",
                    tooltip="If a concept of this name is there: stop with a message, save as name-2, or replace it.",
                ),
            ],
            outputs=[io.String.Output("token", display_name="embedding:name")],
        )  # fmt: skip

    @classmethod
    def execute(cls, concept, name, when_exists):
        path = save_concept(concept, folders.embeddings_folder(), name.strip(), when_exists)
        token = f"embedding:{path.stem}"
        return io.NodeOutput(token, ui=ui.PreviewText(f"{token}\n{path.name} in {path.parent}"))


class LoadConcept(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_LoadConcept",
            display_name="Load Concept",
            search_aliases=["load embedding", "textual inversion"],
            category=CATEGORY,
            description="Load a concept, or any Textual Inversion file in safetensors, from the embeddings folder.",
            inputs=[io.Combo.Input("file", options=folders.embedding_names(), tooltip="A file in models/embeddings.")],
            outputs=[ConceptType.Output("concept", display_name="concept")],
        )

    @classmethod
    def validate_inputs(cls, file=None):
        """Said when the graph is queued."""
        what = f"Put it into {folders.embeddings_folder()}, or save it with Save Concept first; then press R."
        return absent("file", file, folders.embedding_names(), what) or True

    @classmethod
    def fingerprint_inputs(cls, file):
        if not isinstance(file, str):
            return ""
        try:
            state = folders.embedding_path(file).stat()
        except (OSError, AttractorError):
            return float("nan")
        return f"{file} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    def execute(cls, file):
        return io.NodeOutput(load_concept(folders.embedding_path(file)))


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="Attractor_Prompt",
            display_name="Concept Prompt",
            search_aliases=["concept conditioning", "text encode embedding", "encode prompt"],
            category=CATEGORY,
            description=f"A prompt with the concept where it says {SUBJECT}, for any sampler.",
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TIP),
                io.Clip.Input("clip", tooltip=CLIP_TIP),
                ConceptType.Input("concept", tooltip="From Train Concept or Load Concept."),
                io.String.Input(
                    "prompt", multiline=True, default=f"a photo of a {SUBJECT} on a beach",
                    tooltip=f"The prompt; {SUBJECT} is where the learnt subject goes.",
                ),
                rare(io.Int.Input(
                    "truncation", default=0, min=0, max=127, optional=True,
                    tooltip="For NeTI concepts: how many of the 128 hidden units are used; 0 uses all. Fewer leave the "
                    "prompt more to say and keep less of the subject.",
                )),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="model"),
                io.Conditioning.Output("conditioning", display_name="conditioning"),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, clip, concept, prompt, truncation=0):
        if SUBJECT not in prompt:
            raise AttractorError(f"prompt has no {SUBJECT} in it, so the concept would do nothing. Write {SUBJECT} "
                                 "where the subject belongs.")
        return io.NodeOutput(*prompted(model, clip, prompt, concept, truncation=truncation))
