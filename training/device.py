"""What a training asks of the device: kernels that give the same numbers twice, and word when memory has run out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.deterministic
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_REPEATABLE = {  # cuDNN's is not
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
}


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels where there are any: sums of several threads would differ in the last bit each time.

    Operations that have no such kernel go on with the one they have.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill, attention = memory.fill_uninitialized_memory, F.scaled_dot_product_attention
    try:
        _leniently()
        memory.fill_uninitialized_memory = False
        if torch.cuda.is_available():
            F.scaled_dot_product_attention = functools.partial(_repeatable, attention)
        yield
    finally:
        F.scaled_dot_product_attention = attention
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill


def _repeatable(attention: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Attention whose backward gives the same numbers twice on a GPU.

    The fused kernels have such a backward, but take it only while nothing is let off with a warning; elsewhere that
    strictness can be an error (in older torch cuBLAS asks for an environment variable), so it lasts for this node of
    the graph; see `backward` for what happens when the node fails.
    """
    if not torch.is_grad_enabled():
        return attention(*args, **kwargs)
    allowed = [kernel for kernel, is_on in _REPEATABLE.items() if is_on()]  # a host may have switched some off
    with sdpa_kernel([*allowed, SDPBackend.MATH]):
        out = attention(*args, **kwargs)
    node: Any = out.grad_fn
    for _ in range(3):  # views of the result may lie in front of it
        if node is None or "DotProduct" in node.name():
            break
        node = node.next_functions[0][0] if node.next_functions else None
    if node is not None and "DotProduct" in node.name():
        node.register_prehook(_strictly)
        node.register_hook(_leniently)
    return out


def backward(value: Tensor) -> None:
    """Backward of a loss within `deterministic`; when it fails within attention, strictness ends there all the same."""
    try:
        value.backward()
    except BaseException:
        if torch.are_deterministic_algorithms_enabled():
            _leniently()
        raise


def _strictly(*_: Any) -> None:
    torch.use_deterministic_algorithms(True, warn_only=False)


def _leniently(*_: Any) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or on a CPU the machine, has no memory left."""
    # the second is what oneDNN says when it finds no room for a convolution's scratchpad
    words = ("can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Modules that are made inside begin with numbers from a seed. The global generator stays as it was, and so do
    those of all devices, which torch.manual_seed would seed as well.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
