"""Which model it is: what tells the host's MODEL, CLIP and VAE, with all that nodes have put on them, from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ...training.model import fingerprint, sampled
from .borrow import is_between, ordinary

_DEPTH = 4  # of what a patch holds, to which it is looked at


def identity_of(model: Any, clip: Any, vae: Any) -> dict[str, str]:
    """Hashes over samples of the weights, with the names of the host's classes; and, where there are such, over weight
    patches such as LoRAs, the CLIP layer, another sampling, and patches of attention or guidance. Of these names,
    numbers and words count: what else they hold may change while they work.
    """
    layer = clip.layer_idx
    put_on = {
        "model_patches": _patches(model), "clip_patches": _patches(clip.patcher),
        "clip_layer": "" if layer is None else str(layer), "changes": _changes(model),
    }  # fmt: skip
    return {name: found for name, found in put_on.items() if found} | {
        "model": f"{type(model.model.model_config).__name__} {_own_weights(model, 'diffusion_model.')}",
        "clip": f"{type(clip.cond_stage_model).__name__} {_own_weights(clip.patcher)}",
        "vae": f"{type(vae.first_stage_model).__name__} {_own_weights(vae.patcher)}",
    }


def prediction_type(model: Any) -> str:
    """What the model predicts: "eps", "v", or the host's own name for it."""
    names = [base.__name__ for base in type(model.get_model_object("model_sampling")).__mro__]
    kind = next((n for n in names if n in ("V_PREDICTION", "EPS")), model.model.model_type.name)
    return str({"EPS": "eps", "V_PREDICTION": "v"}.get(kind, kind.lower()))


def _own_weights(patcher: Any, part: str = "") -> str:
    """Fingerprint of a model, or of a part of it, without what another clone of it has patched into its weights.

    All clones share one module, and the last one loaded leaves its patches there; the host keeps the originals.
    """
    module = patcher.model.get_submodule(part.rstrip("."))
    own = {name: kept.weight for name, kept in patcher.backup.items() if name.startswith(part)}
    readable = {name: ordinary(tensor) for name, tensor in module.state_dict().items() if is_between(tensor)}
    return fingerprint(module, readable | {name[len(part) :]: weight for name, weight in own.items()})


def _patches(patcher: Any) -> str:
    """Hash over the weight patches, such as LoRAs, that nodes have put on a model; empty without any."""
    digest = hashlib.sha256()
    for name, patches in sorted(patcher.patches.items()):
        digest.update(name.encode())
        for strength, patch, strength_model, *_ in patches:
            digest.update(f"{strength} {strength_model} {type(patch).__name__}".encode())
            for tensor in _tensors(patch):
                digest.update(sampled(tensor))
    return digest.hexdigest()[:16] if patcher.patches else ""


def _tensors(patch: Any) -> Iterator[Tensor]:
    """The tensors in a patch: a tensor, a tuple that begins with its kind, or one of the host's weight adapters."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, list | tuple):
        for part in patch:
            yield from _tensors(part)
    elif hasattr(patch, "weights"):
        yield from _tensors(patch.weights)


def _changes(patcher: Any) -> str:
    """Hash over a model's replaced objects and options; empty without any."""
    found = [*_described(getattr(patcher, "object_patches", {})), *_described(patcher.model_options)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] if found else ""


def _described(value: Any, path: str = "", depth: int = _DEPTH) -> Iterator[str]:
    """Lines for all that is in a value, none for what is empty, and the same in every process."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _described(value[key], f"{path}/{key}", depth)
    elif isinstance(value, set | frozenset):
        yield from sorted(line for one in value for line in _described(one, path, depth))
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            yield from _described(one, f"{path}/{i}", depth)
    elif isinstance(value, Tensor):
        yield f"{path} {hashlib.sha256(sampled(value)).hexdigest()}"
    elif value is None or isinstance(value, bool | int | float | str):
        yield f"{path} {value!r}"
    else:
        yield f"{path} {getattr(value, '__qualname__', type(value).__qualname__)}"
        if depth:
            yield from _described(_held_by(value), path, depth - 1)


def _held_by(value: Any) -> dict[str, Any]:
    """What a patch works with that stays as it is: numbers, words and functions of a closure, buffers of a module."""
    if hasattr(value, "named_buffers"):
        return dict(value.named_buffers())
    if hasattr(value, "__self__"):
        return {"of": type(value.__self__).__qualname__}
    code, cells, held = getattr(value, "__code__", None), getattr(value, "__closure__", None) or (), {}
    for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False):
        try:
            one = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if _is_plain(one) or hasattr(one, "__code__"):
            held[name] = one
    return held


def _is_plain(value: Any) -> bool:
    """A number, a word, or a collection of nothing else."""
    if isinstance(value, Mapping):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
