"""The pack's own socket types, and small bridges between the host's tensors and the library's."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

SubjectSetType = io.Custom("SUBJECT_SET")
ConceptType = io.Custom("CONCEPT")
GenerationsType = io.Custom("GENERATIONS")
ReportType = io.Custom("REPORT")
StudyType = io.Custom("STUDY")

CATEGORY = "attractor"


def to_host(images: Tensor) -> Tensor:
    """[B, 3, H, W] to the host's [B, H, W, 3]."""
    return images.movedim(1, -1).contiguous()


def names_of(text: str) -> list[str]:
    """Names written one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def single(value: Any) -> Any:
    """The one value of an input of a node that takes lists; None stays None, and so does a link not yet followed."""
    if isinstance(value, list | tuple):
        return value[0] if value else None
    return value
