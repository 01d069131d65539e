"""Models that newer hosts load piece by piece ("dynamic VRAM"), which autograd cannot hold on to.

There each operation gets its weights in memory that is taken back right after it, and backward would read what lies
there by then. Such a model is trained on a copy that is loaded as a whole; the host makes it from the same file, with
the same patches, and the model in the graph stays as it is. The host's own training node does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from ...attractor.errors import AttractorError


def whole(patcher: Any) -> Any:
    """The patcher itself, or one of a copy that is loaded as a whole. Raises AttractorError where there is no file."""
    if not _is_dynamic(patcher):
        return patcher
    if getattr(patcher, "cached_patcher_init", None) is None:
        raise AttractorError(
            f"{type(patcher.model).__name__} is loaded piece by piece (ComfyUI's dynamic VRAM), and the node that "
            "loaded it does not say from which file a copy for the training could be made. Load it with ComfyUI's own "
            "Load Checkpoint, or start ComfyUI with --disable-dynamic-vram."
        )
    with torch.inference_mode(False):
        copy = patcher.clone(disable_dynamic=True)
    dtype = _compute_dtype(copy.model)
    if dtype is not None and any(p.is_floating_point() and p.dtype != dtype for p in copy.model.parameters()):
        copy.set_model_compute_dtype(dtype)  # the file's precision is kept in such a copy
    return copy


def whole_clip(clip: Any) -> Any:
    """The same of a CLIP."""
    if not _is_dynamic(clip.patcher):
        return clip
    copy = clip.clone()
    copy.patcher = whole(clip.patcher)
    copy.cond_stage_model = copy.patcher.model
    return copy


@contextmanager
def for_training() -> Iterator[None]:
    """Tell the host that gradients will flow: casts of weights get memory of their own, which is not used again.

    Newer hosts, which know of training, reuse a stream's buffer for the next layer's weights.
    """
    management: Any = comfy.model_management
    newer = hasattr(management, "in_training") or hasattr(management, "get_cast_buffer")
    wanted = {"NUM_STREAMS": 0, "in_training": True} if newer else {}
    before = {name: getattr(management, name) for name in wanted if hasattr(management, name)}
    for name in before:
        setattr(management, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(management, name, value)


def _is_dynamic(patcher: Any) -> bool:
    return bool(getattr(patcher, "is_dynamic", bool)())


def _compute_dtype(model: Any) -> torch.dtype | None:
    """In which a U-Net computes; None for a text encoder, which casts its weights itself."""
    if not hasattr(model, "get_dtype") or not hasattr(model, "manual_cast_dtype"):
        return None
    return model.manual_cast_dtype or model.get_dtype()
