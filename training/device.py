"""What a training asks of the device: kernels that give the same numbers twice, and word when memory has run out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels where there are any: sums of several threads would differ in the last bit each time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or on a CPU the machine, has no memory left."""
    # the second is what oneDNN says when it finds no room for a convolution's scratchpad
    words = ("can't allocate memory", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
