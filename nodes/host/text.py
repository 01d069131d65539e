"""The host's text encoders, with vectors in the place of words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...attractor.errors import AttractorError
from ...training.model import Context, Embedding

_ENCODER_NAMES = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}


def encoders(clip: Any) -> dict[str, Any]:
    """Text-encoder key to the host's SDClipModel. Raises AttractorError for a text encoder of another kind."""
    found = {}
    for key, name in _ENCODER_NAMES.items():
        module = getattr(clip.cond_stage_model, name, None)
        if module is not None:
            found[key] = module
    others = [n for n, _ in clip.cond_stage_model.named_children() if n not in _ENCODER_NAMES.values()]
    if not found or others:
        raise AttractorError(
            f"This CLIP ({type(clip.cond_stage_model).__name__}) is not of a kind that a concept can be trained for: "
            "connect the CLIP of an SD1.x, SD2.x or SDXL checkpoint."
        )
    return found


def table(encoder: Any) -> Tensor:
    """The embedding table [vocabulary, D] of a text encoder, as stored."""
    return encoder.transformer.get_input_embeddings().weight


def tokenise(clip: Any, prompt: str, embedded: Mapping[str, Embedding]) -> dict[str, list[list[tuple]]]:
    """The host's own tokens of a prompt, where each marker stands for its vectors.

    The markers go through the host's `embedding:` syntax, so that they come out as a saved file would.
    """
    names = {f"attractor-vectors-{i}": vectors for i, vectors in enumerate(embedded.values())}
    text = prompt
    for name, marker in zip(names, embedded, strict=True):
        text = text.replace(marker, f" embedding:{name} ")
    text = re.sub(r" {2,}", " ", text)
    with _embeddings_by_name(clip, names):
        tokens = clip.tokenize(text)
    return {key: value for key, value in tokens.items() if key in _ENCODER_NAMES}


@contextmanager
def _embeddings_by_name(clip: Any, names: Mapping[str, Embedding]) -> Iterator[None]:
    """Let the host's tokenizers find these vectors where they would look for a file."""
    patched = []
    try:
        for key, name in _ENCODER_NAMES.items():
            tokenizer = getattr(clip.tokenizer, name, None)
            if tokenizer is None:
                continue
            patched.append((tokenizer, tokenizer.embedding_directory))
            tokenizer._try_get_embedding = _lookup(tokenizer._try_get_embedding, names, key)
            if tokenizer.embedding_directory is None:
                tokenizer.embedding_directory = []
        yield
    finally:
        for tokenizer, folders in patched:
            tokenizer.__dict__.pop("_try_get_embedding", None)
            tokenizer.embedding_directory = folders


def _lookup(host_lookup: Any, names: Mapping[str, Embedding], key: str) -> Any:
    def lookup(embedding_name: str) -> tuple[Tensor | None, str]:
        name, _, leftover = embedding_name.strip().partition(" ")
        if name in names:
            return names[name][key], leftover
        return host_lookup(embedding_name)

    return lookup


def encode(clip: Any, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]]) -> Context:
    """Encode prompts of one chunk each in a batch; the gradient reaches the vectors."""
    tokens = [tokenise(clip, prompt, vectors) for prompt, vectors in zip(prompts, embedded, strict=True)]
    model = clip.cond_stage_model
    model.reset_clip_options()
    if clip.layer_idx is not None:
        model.set_clip_options({"layer": clip.layer_idx})
    hidden, pooled = {}, {}
    for key, encoder in encoders(clip).items():
        rows = [[t for t, _ in chunk] for one in tokens for chunk in one[key]]
        if len(rows) != len(prompts):
            raise AttractorError(
                "The training prompt with its vectors is longer than the text encoder's 75 tokens: use fewer vectors "
                "or fewer background vectors."
            )
        hidden[key], pooled[key] = encoder.encode(rows)[:2]
    order = [k for k in ("l", "h", "g") if k in hidden]
    length = min(h.shape[1] for h in hidden.values())
    joined = torch.cat([hidden[k][:, :length] for k in order], dim=-1)
    return Context(joined, pooled[order[-1]])
