"""What a training step takes of a device's memory, and whether there is room for it beside the models.

Measured by `make bench-speed`: SD1.5 at 512 px and SDXL at 1024 px, batch of 1, bfloat16 on a GPU. float32 on a CPU
takes no more than that; float32 on a GPU was not measured and is taken for twice as much.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch

_MIB_A_CELL, _MIB_A_CELL_SDXL = 0.29, 0.49  # for each latent cell
_CHECKPOINTED = 0.52  # of it with checkpointing
_WITH_MEMORY = ("cuda", "xpu", "npu", "mlu")  # devices whose memory the host reads
_OTHERS = 0.1  # of a device, for what else lies on it


def of_a_step(cells: int, sdxl: bool, checkpointing: bool = False) -> int:
    """Bytes that a step on so many latent cells takes beyond the weights."""
    each = _MIB_A_CELL_SDXL if sdxl else _MIB_A_CELL
    return int(cells * each * (_CHECKPOINTED if checkpointing else 1) * 2**20)


def of_cast_weights(unet: torch.nn.Module, own: torch.dtype) -> int:
    """Bytes of a U-Net's weights that backward keeps in the precision `own` of the computation: those that are stored
    in another, and all where the host leaves them off the device (`--novram`).
    """
    offloaded = comfy.model_management.vram_state == comfy.model_management.VRAMState.NO_VRAM
    return sum(p.numel() for p in unet.parameters() if offloaded or p.dtype != own) * own.itemsize


def fits(total: float, weights: float, step: float) -> bool:
    """Whether a device of `total` bytes has room for a step beside the weights."""
    return step <= (1 - _OTHERS) * total - weights


def has_room(device: torch.device, patchers: list[Any], step: float) -> bool:
    """Whether a step is likely to find room beside the models; taken for granted where the host does not know how much
    memory of its own the device has.
    """
    if device.type not in _WITH_MEMORY:
        return True
    weights = sum(patcher.model_size() for patcher in patchers)
    return fits(comfy.model_management.get_total_memory(device), weights, step)
