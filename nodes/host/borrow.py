"""Borrowing the host's models for training: gradients reach an embedding, and nothing is left changed.

The host loads weights and runs nodes under `torch.inference_mode()`, and autograd refuses to save such tensors.
A tensor over the same storage, made outside of it, may be saved: so for the time of the training each parameter is
replaced by an alias of itself. No weight is copied, and the host's own parameter objects go back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...attractor.errors import AttractorError


@contextmanager
def ordinary_weights(*modules: nn.Module) -> Iterator[None]:
    """Parameters and buffers that autograd may save, over the same memory; the original objects return after."""
    taken: list[tuple[Any, str, Tensor, Tensor]] = []
    try:
        for module in (m for root in modules for m in root.modules()):
            tables: tuple[Any, Any] = (module._parameters, module._buffers)
            for table in tables:
                for name, tensor in list(table.items()):
                    if tensor is not None and (tensor.is_inference() or is_between(tensor)):
                        table[name] = alias = ordinary(tensor)
                        taken.append((table, name, tensor, alias))
        yield
    finally:
        for table, name, tensor, alias in reversed(taken):
            # if the host has moved or patched the weight meanwhile, what it put there stays
            if table.get(name) is alias and alias.data_ptr() == tensor.data_ptr():
                table[name] = tensor


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No gradient for any weight; the flags return as they were."""
    flags = [(p, p.requires_grad) for m in modules for p in m.parameters()]
    try:
        for parameter, flag in flags:
            if flag:
                parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)


@contextmanager
def norms_keep_their_input(*modules: nn.Module) -> Iterator[None]:
    """Layer norms see a copy of their input: the host's CLIP layers add to that tensor in place right after."""
    handles = []
    try:
        for module in (m for root in modules for m in root.modules()):
            if isinstance(module, nn.LayerNorm):
                handles.append(module.register_forward_pre_hook(_copy_input))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_plain(tensor: Tensor) -> None:
    """Raise AttractorError for a weight that is packed in a tensor class of its own, of which no alias can be made."""
    if hasattr(tensor, "__tensor_flatten__"):
        raise AttractorError(
            f"This MODEL's weights are quantised ({type(tensor).__name__}), which gradients cannot pass here: connect "
            "a checkpoint in fp16, bf16, fp32 or plain fp8."
        )


def _copy_input(_module: nn.Module, args: tuple) -> tuple:
    return (args[0].clone(), *args[1:]) if torch.is_grad_enabled() else args


def is_between(tensor: Tensor) -> bool:
    """Whether a tensor was made under inference mode and moved to another device outside of it: not even views may be
    taken of such a one.
    """
    try:
        return not tensor.is_inference() and tensor._version < 0
    except RuntimeError:
        return True


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor over the same memory that autograd may save. Raises AttractorError for a packed one."""
    _check_plain(tensor)
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    alias = nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias
    for name, noted in vars(tensor).items():  # what newer hosts keep with a weight
        setattr(alias, name, noted)
    return alias


@contextmanager
def checkpointed(unet: nn.Module) -> Iterator[None]:
    """Residual blocks and spatial transformers keep their inputs only, and compute the rest anew in backward.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. The host's options change from layer
    to layer while a forward runs, so each block keeps a copy of them.
    """
    blocks = [m for m in unet.modules() if hasattr(m, "transformer_blocks") or hasattr(m, "emb_layers")]
    before = [block.__dict__.get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _Anew(block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward


class _Anew:
    """A forward that is run again in backward."""

    def __init__(self, forward: Any):
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        args = tuple(dict(one) if isinstance(one, dict) else one for one in args)
        kwargs = {name: dict(one) if isinstance(one, dict) else one for name, one in kwargs.items()}
        return checkpoint(self._forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


@contextmanager
def differentiable_linears(*modules: nn.Module) -> Iterator[None]:
    """Linears of `--fast fp8_matrix_mult` take their ordinary path, the only one with a backward."""
    import comfy.ops

    kind: Any = getattr(getattr(comfy.ops, "fp8_ops", None), "Linear", ())
    fast: list[Any] = [m for root in modules for m in root.modules() if isinstance(m, kind)]
    before = [(m.training, getattr(m, "weight_function", None)) for m in fast]
    try:
        for module, (_, functions) in zip(fast, before, strict=True):
            module.training = True
            if "weight_function" in kind.forward_comfy_cast_weights.__code__.co_names and not functions:
                module.weight_function = [_same]  # newer hosts look at this
        yield
    finally:
        for module, (training, functions) in zip(fast, before, strict=True):
            module.training = training
            if functions is not None:
                module.weight_function = functions


def _same(weight: Tensor) -> Tensor:
    return weight
