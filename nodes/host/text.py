"""The host's text encoders, with vectors in the place of words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.sd1_clip import gen_empty_tokens
from torch import Tensor

from ...attractor.errors import AttractorError
from ...attractor.prompts import SUBJECT
from ...training.contexts import add_bypass, norm_inputs
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
            folders = tokenizer.embedding_directory
            patched.append((tokenizer, folders))
            tokenizer.embedding_directory = []
            names_found = len(tokenizer._try_get_embedding("none")) == 3  # so newer hosts have it
            tokenizer._try_get_embedding = _lookup(tokenizer._try_get_embedding, names, key, names_found)
            tokenizer.embedding_directory = [] if folders is None else folders
        yield
    finally:
        for tokenizer, folders in patched:
            tokenizer.__dict__.pop("_try_get_embedding", None)
            tokenizer.embedding_directory = folders


def _lookup(host_lookup: Any, names: Mapping[str, Embedding], key: str, names_found: bool) -> Any:
    """The host's lookup with these names in it: vectors, the name where the host wants it, and what follows it."""

    def lookup(embedding_name: str) -> tuple:
        name, _, leftover = embedding_name.strip().partition(" ")
        if name not in names:
            return host_lookup(embedding_name)
        return (names[name][key], name, leftover) if names_found else (names[name][key], leftover)

    return lookup


def encode(
    clip: Any, prompts: Sequence[str], embedded: Sequence[Mapping[str, Embedding]],
    bypass: Sequence[Embedding] | None = None,
) -> Context:  # fmt: skip
    """Encode prompts of equally many chunks of 75 tokens in one batch; see DiffusionModel.

    Words in brackets weigh more or less, as the host has it. The gradient reaches the vectors and the bypass.
    """
    tokens = [tokenise(clip, prompt, vectors) for prompt, vectors in zip(prompts, embedded, strict=True)]
    model = clip.cond_stage_model
    model.reset_clip_options()
    if clip.layer_idx is not None:
        model.set_clip_options({"layer": clip.layer_idx})
    if all(hasattr(encoder, "execution_device") for encoder in encoders(clip).values()):
        model.set_clip_options({"execution_device": clip.patcher.load_device})  # newer hosts keep weights elsewhere
    hidden, pooled, values = {}, {}, {}
    for key, encoder in encoders(clip).items():
        chunks = [chunk for one in tokens for chunk in one[key]]
        norm = encoder.transformer.text_model.final_layer_norm
        with norm_inputs(norm) as seen:
            state, output = encoder.encode([[t for t, _ in chunk] for chunk in chunks])[:2]
        pooled[key] = None if output is None else output.unflatten(0, (len(prompts), -1))[:, 0]
        hidden[key] = _joined(_weighted(encoder, state, chunks), len(prompts))
        if bypass is not None:
            place = torch.tensor([[_is_of(t, one[SUBJECT][key]) for t, _ in chunk]
                                  for one, by_key in zip(embedded, tokens, strict=True) for chunk in by_key[key]])
            each = torch.stack([one[key] for one in bypass]).to(state.device)
            each = each.repeat_interleave(len(chunks) // len(prompts), dim=0)
            moved = add_bypass(state, seen, norm, place.to(state.device), each)
            values[key] = _joined(_weighted(encoder, moved, chunks), len(prompts))
    order = [k for k in ("l", "h", "g") if k in hidden]
    length = min(h.shape[1] for h in hidden.values())

    def across(states: dict[str, Tensor]) -> Tensor:
        return torch.cat([states[k][:, :length] for k in order], dim=-1)

    return Context(across(hidden), pooled[order[-1]], across(values) if values else None)


def _joined(state: Tensor, prompts: int) -> Tensor:
    """[prompts * chunks, T, D] to [prompts, chunks * T, D]."""
    return state.unflatten(0, (prompts, -1)).flatten(1, 2)


def _weighted(encoder: Any, state: Tensor, chunks: list[list[tuple]]) -> Tensor:
    """Each token's state moved away from that of an empty prompt by its weight, as the host does it."""
    weights = torch.tensor([[weight for _, weight in chunk] for chunk in chunks], device=state.device)
    if (weights == 1).all():
        return state
    empty = encoder.encode([gen_empty_tokens(encoder.special_tokens, weights.shape[1])])[0]
    return torch.where((weights == 1)[..., None], state, (state - empty) * weights[..., None] + empty)


def _is_of(token: Any, vectors: Tensor) -> bool:
    """Whether a token is one of these vectors, by where its numbers lie."""
    return torch.is_tensor(token) and token.data_ptr() in {row.data_ptr() for row in vectors}
