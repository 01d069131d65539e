"""A concept whose words differ by layer or timestep, in any sampler of the host: P+ and NeTI.

The CONDITIONING carries the plain embedding, so that it works by itself; the patched MODEL knows its rows in a batch by
the mark in it and by these very tokens, and gives each layer of cross-attention the context that belongs to it at the
present noise level. Tokens that another node has changed stay as they were made: the host hands the mark on with them
(ConditioningZeroOut, ConditioningAverage), and gives it to the negative of a prompt that has an area.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_left
from functools import partial
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attractor.prompts import SUBJECT
from ...training.concept import Concept
from ...training.contexts import Row, encode_words
from ...training.model import Context, joined
from ...training.representations import NeuralMapper
from . import text as host_text
from .model import count_layers

log = logging.getLogger(__name__)

_MARK = "attractor_layered"
_AT_ONCE = 64  # prompts in one batch of the text encoder


def layered(model: Any, clip: Any, prompt: str, concept: Concept, conditioning: list, truncation: int) -> tuple:
    """MODEL and CONDITIONING with a concept's own context in each layer; both as they were for Textual Inversion.

    conditioning: of the prompt with the plain embedding. truncation: of NeTI's hidden units, 0 for all.
    """
    if concept.kind == "TI" or SUBJECT not in prompt:
        return model, conditioning
    widths = {key: host_text.table(encoder).shape[-1] for key, encoder in host_text.encoders(clip).items()}
    concept.check_fits(widths, count_layers(model), "this MODEL")
    contexts = _LayeredPrompt(clip, prompt, concept, truncation, conditioning)
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, contexts.key, contexts.around_sampling)
    patched.set_model_attn2_patch(contexts.own_context)
    return patched, [[tokens, {**options, _MARK: contexts.key}] for tokens, options in conditioning]


class _LayeredPrompt:
    """Contexts of one prompt at the noise levels of a sampler: encoded in batches before it starts, then looked up."""

    def __init__(self, clip: Any, prompt: str, concept: Concept, truncation: int, plain: list):
        self._clip, self._prompt = clip, prompt
        (self._plain, options), *_ = plain
        self._plain_pooled = options.get("pooled_output")
        self._subject = concept.representation()
        if isinstance(self._subject, NeuralMapper):
            self._subject.truncation = truncation
        named = f"{concept.sha256} {truncation} {prompt}"
        self.key = f"attractor-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
        self._wanted: tuple[float, ...] = ()  # noise levels of the sampler that was last encoded for, ascending
        self._sigmas: tuple[float, ...] = ()  # those that the table has rows for
        self._table = Context(torch.empty(0))
        self._lengths: dict[Any, int] = {}  # tokens of each condition that is ours, by the host's id of it
        self._looked_up: tuple[Any, Context] | None = None
        self._found: dict[tuple, list[int]] = {}  # which chunks are ours of batches of these conditions

    def __deepcopy__(self, _memo: dict) -> _LayeredPrompt:
        """The host copies a MODEL's patches deeply whenever a node clones it; patch and wrapper are to stay one."""
        return self

    def around_sampling(self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor,
                        *args: Any, **kwargs: Any) -> Any:  # fmt: skip
        """The host's sampling, with the contexts of all its steps at hand."""
        guider = executor.class_obj
        marked = [cond for conds in guider.conds.values() for cond in conds if cond.get(_MARK) == self.key]
        mine = [cond for cond in marked if self._is_plain(cond["cross_attn"][0])]
        if mine:
            self._encode(guider.model_patcher.get_model_object("model_sampling"), sigmas)
        elif marked:
            log.warning("Concept Prompt: another node has changed its tokens, so its layers' own context is left out.")
        for cond in mine:
            if self._table.pooled is not None and _same(cond.get("pooled_output"), self._plain_pooled):
                cond["pooled_output"] = self._table.pooled.mean(0, keepdim=True)
        self._lengths = {cond["uuid"]: cond["cross_attn"].shape[1] for cond in mine}
        try:
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        finally:
            self._lengths, self._looked_up, self._found = {}, None, {}

    def _encode(self, sampling: Any, sigmas: Tensor) -> None:
        """Contexts at these noise levels; those of the same levels are kept from the last time."""
        wanted = tuple(sorted({float(s) for s in sigmas if s > 0}))
        if wanted == self._wanted:
            return
        timesteps = _timesteps(sampling, torch.tensor(wanted, device=sampling.sigmas.device)).float().cpu()
        self._clip.load_model()
        found = []
        with torch.inference_mode():
            for part in timesteps.split(max(1, _AT_ONCE // self._subject.layers)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                words = self._subject(part)
                rows = len(next(iter(words.vectors.values())))
                made = encode_words(partial(host_text.encode, self._clip), [Row(self._prompt)] * rows, words)
                found.append(made.to("cpu"))  # the host can't push out what lies beside its models, and keeps this long
                if rows < len(part):  # the same at all timesteps
                    break
        self._table = joined(found)
        self._wanted, self._sigmas = wanted, wanted[: len(self._table.tokens)]

    def own_context(self, n: Tensor, key: Tensor, value: Tensor, extra: dict) -> tuple[Tensor, Tensor, Tensor]:
        """The host's attn2 patch: keys and values of the rows that are ours, from the table."""
        ids = extra.get("uuids", [])
        mine = self._chunks(ids, key, extra)
        if not mine:
            return n, key, value
        context = self._at(extra["sigmas"], key)
        keys, values = context.layer(extra["transformer_index"])
        key, value, rows = key.clone(), value.clone(), len(key) // len(ids)
        for chunk in mine:
            whole = self._lengths[ids[chunk]]  # longer than ours when the host has joined another prompt to it
            for start in range(0, key.shape[1], whole):  # repeated when the other rows are longer
                place = slice(chunk * rows, (chunk + 1) * rows), slice(start, start + keys.shape[1])
                key[place], value[place] = keys, values
        return n, key, value

    def _chunks(self, ids: list, key: Tensor, extra: dict) -> list[int]:
        """Which of a batch's chunks are ours: those whose tokens the host has not made for another list."""
        if not any(one in self._lengths for one in ids):
            return []
        batch = (*ids, *extra.get("cond_or_uncond", ()))
        if batch not in self._found:
            starts = enumerate(range(0, len(key), len(key) // len(ids)))
            self._found[batch] = [chunk for chunk, start in starts
                                  if ids[chunk] in self._lengths and self._is_plain(key[start])]  # fmt: skip
        return self._found[batch]

    def _is_plain(self, tokens: Tensor) -> bool:
        """Whether tokens [T, D] begin with the plain embedding's, which were given with the mark."""
        own = self._plain[0]
        return len(tokens) >= len(own) and _same(tokens[: len(own)], own)

    def _at(self, sigmas: Tensor, like: Tensor) -> Context:
        """The contexts [1, L, T, D] at a noise level, between two of the table where it has none there."""
        if self._looked_up is not None and self._looked_up[0] is sigmas:
            return self._looked_up[1]
        level, known = float(sigmas[0]), self._sigmas
        above = min(bisect_left(known, level * (1 - 1e-5)), len(known) - 1)
        below = max(above - 1, 0)
        span = known[above] - known[below]
        share = min(max((known[above] - level) / span, 0.0), 1.0) if span > 0 and above else 0.0

        def between(table: Tensor) -> Tensor:
            found = table[above] if share < 1e-4 else torch.lerp(table[above], table[below], share)
            return found[None].to(like.device, like.dtype)

        values = self._table.values
        context = Context(between(self._table.tokens), None, None if values is None else between(values))
        self._looked_up = (sigmas, context)
        return context


def _same(found: Tensor | None, own: Tensor | None) -> bool:
    """Whether a tensor is our own, in its own precision and on its own device."""
    if found is None or own is None or found.shape != own.shape:
        return False
    return torch.equal(found, own.to(found.device, found.dtype))


def _timesteps(sampling: Any, sigmas: Tensor) -> Tensor:
    """Where noise levels [N] lie in the table of levels that training draws from.

    Continuous samplings (EDM's and the like) count their timesteps otherwise, so there it is the nearest level's place.
    """
    if hasattr(sampling, "num_timesteps"):
        return sampling.timestep(sigmas)
    levels = sampling.sigmas.to(sigmas.device).log()
    return (levels[None] - sigmas.log()[:, None]).abs().argmin(1)
