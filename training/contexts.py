"""Prompts with a subject in them, encoded for every layer and timestep at which its words differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..attractor.prompts import SUBJECT
from .model import Context, Embedding
from .representations import Words

BYPASS = 0.2  # weight of NeTI's textual bypass, of the encoder output's own norm
Encode = Callable[[Sequence[str], Sequence[Mapping[str, Embedding]], "Sequence[Embedding] | None"], Context]


@dataclass(frozen=True)
class Row:
    """A prompt, and what the markers in it stand for, other than the subject's."""

    prompt: str
    beside: Mapping[str, Embedding] = field(default_factory=dict)


def encode_words(encode: Encode, rows: Sequence[Row], words: Words) -> Context:
    """Contexts of prompts, [R, T, D], or [R, L, T, D] where the layers get different ones.

    encode: a model's. Words of R timesteps belong to the rows in turn, those of one to all. The pooled output is the
    mean over layers.
    """
    return encode_together(encode, [(rows, words)])[0]


def encode_together(encode: Encode, many: Sequence[tuple[Sequence[Row], Words]]) -> list[Context]:
    """As `encode_words` for several subjects of the same representation, in one batch of the text encoder."""
    prompts, embedded, added, sizes = [], [], [], []
    for rows, words in many:
        steps, layers = next(iter(words.vectors.values())).shape[:2]
        places = [(row, at if steps > 1 else 0, layer) for at, row in enumerate(rows) for layer in range(layers)]
        prompts += [row.prompt for row, _, _ in places]
        embedded += [{SUBJECT: {k: v[s, n] for k, v in words.vectors.items()}, **row.beside} for row, s, n in places]
        if words.bypass is not None:
            added += [{k: v[s, n] for k, v in words.bypass.items()} for _, s, n in places]
        sizes.append((len(places), layers))
    found = encode(prompts, embedded, added or None)
    contexts, start = [], 0
    for count, layers in sizes:
        own = found.select(torch.arange(start, start + count, device=found.tokens.device)) if len(sizes) > 1 else found
        contexts.append(own if layers == 1 and not added else _by_layer(own, layers))
        start += count
    return contexts


def _by_layer(found: Context, layers: int) -> Context:
    pooled = None if found.pooled is None else found.pooled.unflatten(0, (-1, layers)).mean(1)
    values = None if found.values is None else found.values.unflatten(0, (-1, layers))
    return Context(found.tokens.unflatten(0, (-1, layers)), pooled, values)


@contextmanager
def norm_inputs(norm: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What a layer norm is given and gives, while the block runs."""
    seen: list[tuple[Tensor, Tensor]] = []

    def take(_module: nn.Module, given: Any, out: Any) -> None:
        seen.append((given[0], out))

    handle = norm.register_forward_hook(take)
    try:
        yield seen
    finally:
        handle.remove()


def add_bypass(
    state: Tensor, seen: Sequence[tuple[Tensor, Tensor]], norm: nn.Module, place: Tensor, bypass: Tensor
) -> Tensor:
    """The text encoder's output [R, T, D] with NeTI's bypass [R, D] at the places [R, T] of the subject's word.

    It is added in front of the final layer norm `norm` where the output has gone through that, as `seen` tells; of
    SDXL's encoders the output is used without it. h + .2 * b / |b| * |h|, Alaluf et al., arXiv 2305.15391, section 4.2.
    """
    before = next((given for given, out in seen if out.shape == state.shape and torch.equal(out.float(), state)), None)
    hidden = state if before is None else before.float()
    direction = bypass / bypass.norm(dim=-1, keepdim=True).clamp(min=1e-8)
    moved = hidden + BYPASS * direction[:, None] * hidden.norm(dim=-1, keepdim=True)
    if before is not None:
        moved = norm(moved.to(before.dtype)).float()
    return torch.where(place[..., None], moved, state)
