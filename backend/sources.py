"""What attractor masks are made from without a host: files in folders, and the model that is trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..attractor.clipseg import FOLDER_NAME, TextSegmenter
from ..attractor.raw_masks import Sources, gather
from ..attractor.saliency import KINDS, SaliencyModel


def mask_sources(back_end: str, kind: str, folders: Sequence[Path], model: Callable[[], Any]) -> Sources:
    """The models of a back end, "auto" for all that are there. kind: of saliency.KINDS. model: gives a DiffusionModel.

    Raises AttractorError when the one that was asked for is missing.
    """
    return gather(back_end, {
        "saliency": lambda: SaliencyModel(in_folders(folders, KINDS[kind].file), kind),
        "attention": model,
        "text": lambda: TextSegmenter(in_folders(folders, FOLDER_NAME)),
    })  # fmt: skip


def in_folders(folders: Sequence[Path], name: str) -> Path:
    """The first that is there, or where it would be looked for first."""
    return next((folder / name for folder in folders if (folder / name).exists()), folders[0] / name)


def model_folders(given: str | None) -> list[Path]:
    """Where models are looked for, in this order."""
    if given:
        return [Path(given)]
    own = [Path(os.environ["ATTRACTOR_MODELS"])] if os.environ.get("ATTRACTOR_MODELS") else []
    return [*own, Path.cwd(), Path(__file__).parents[1] / ".host" / "models"]
