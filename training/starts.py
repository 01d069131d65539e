"""Where learnt vectors start, and what holds their length."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..attractor.prompts import SUBJECT
from .model import DiffusionModel, Embedding

STARTS = ("class word", "encoded word")
NORMS = ("free", "start", "vocabulary")
_SPREAD = 0.1  # of the vectors that share a word, in units of the embedding table


def word_vectors(model: DiffusionModel, text: str, how: str) -> Embedding:
    """Rows [m, D] for a text: those of the embedding table ("class word"), or what the text encoder makes of them in
    its last layer ("encoded word": Cross Initialization, Pang et al., arXiv 2312.15905).
    """
    rows = {key: value.to(model.device) for key, value in model.words(text).items()}
    if how == "class word":
        return rows
    before = "a photo of a "
    first = 1 + len(next(iter(model.words(before).values())))  # after the token of the beginning
    with torch.no_grad():
        tokens = model.encode([f"{before}{SUBJECT}"], [{SUBJECT: rows}]).tokens[0]
    found, column = {}, 0
    for key in (key for key in ("l", "h", "g") if key in rows):  # in which a context holds its encoders
        count, width = rows[key].shape
        found[key] = tokens[first : first + count, column : column + width].float().clone()
        column += width
    return found


def spread(rows: Embedding, count: int, scale: dict[str, float], generator: torch.Generator) -> Embedding:
    """So many vectors [count, D] from rows [m, D] in turn, those after the first m a little apart from them."""
    start = {}
    for key, own in rows.items():
        repeated = own[torch.arange(count) % len(own)].clone()
        noise = torch.randn(repeated.shape, generator=generator) * _SPREAD * scale[key]
        noise[: len(own)] = 0
        start[key] = (repeated.cpu() + noise).to(own.device)
    return start


def norms_of(how: str, start: Embedding, scale: dict[str, float]) -> Embedding | None:
    """Lengths [n, 1] at which vectors are held, so that only their direction is learnt; None where they are free.

    "start": of each vector's start. "vocabulary": the usual one of the table's rows, its standard deviation times the
    root of their width, in the manner of Directional Textual Inversion (arXiv 2512.13672), which holds it at the mean.
    """
    if how == "free":
        return None
    if how == "start":
        return {key: value.norm(dim=-1, keepdim=True) for key, value in start.items()}
    return {k: torch.full((len(v), 1), scale[k] * math.sqrt(v.shape[-1]), device=v.device) for k, v in start.items()}


@torch.no_grad()
def held(vectors: Tensor, norms: Tensor) -> Tensor:
    """The vectors [..., n, D] at these lengths [n, 1]."""
    return vectors * (norms / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-8))
