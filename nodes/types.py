"""The pack's own socket types, and small bridges between the host's tensors and the library's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

SubjectSetType = io.Custom("SUBJECT_SET")
ConceptType = io.Custom("CONCEPT")
GenerationsType = io.Custom("GENERATIONS")
ReportType = io.Custom("REPORT")
StudyType = io.Custom("STUDY")

CATEGORY = "attractor"
MODEL_TIP = "The diffusion model as the host has loaded it; it is left as it was."
CLIP_TIP = "The model's text encoder."
VAE_TIP = "The model's VAE."


def schema(**given: Any) -> io.Schema:
    """io.Schema of what this host's knows; what newer ones add, such as search_aliases, is left out on older ones."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in given.items() if name in known})


def rare(given: Any) -> Any:
    """An input that most users leave alone: pages that know of such show it on demand only."""
    given.extra_dict = {**(getattr(given, "extra_dict", None) or {}), "advanced": True}
    return given


def to_host(images: Tensor) -> Tensor:
    """[B, 3, H, W] to the host's [B, H, W, 3]."""
    return images.movedim(1, -1).contiguous()


def names_of(text: str) -> list[str]:
    """Names written one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def absent(name: str, value: Any, there: Sequence[str], what: str) -> str:
    """What to say of a choice that is not there, before anything runs: empty where it is, or comes by a link."""
    if not isinstance(value, str) or value in there:
        return ""
    return f"{name} {value!r} is not there. {what} There are: {', '.join(there) or 'none'}."


def single(value: Any) -> Any:
    """The one value of an input of a node that takes lists; None stays None, and so does a link not yet followed."""
    if isinstance(value, list | tuple):
        return value[0] if value else None
    return value
