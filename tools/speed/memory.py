"""Memory that a training step takes beyond the weights that are loaded, as the operating system counts it."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...training import demo_assets
from ...training.device import deterministic
from ...training.run import TrainingRun
from ...training.settings import TrainSettings
from ...training.watcher import Silent

_GIB = 2**30


def beyond_weights(host: Any, resolution: int, checkpointing: bool) -> dict[str, float]:
    """GiB beyond what lay in memory before the first step, at its peak in one step of batch 1, with both tokens.

    On a GPU by torch's own count, on a CPU by the process's resident memory (Linux).
    """
    photos = demo_assets.subject()
    settings = TrainSettings(steps=1000, background_steps=0, batch_size=1, resolution=resolution, views=1)
    cuda = host.device.type == "cuda"
    with torch.inference_mode(False), deterministic():
        run = TrainingRun(host, photos.with_photos(photos.photos[:1]), settings, None, _One())
        with host.training(1, resolution, checkpointing) as anew, suppress(_Enough):
            if anew != checkpointing:
                raise RuntimeError(f"This device has no room for a step at {resolution} px without checkpointing.")
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if cuda else _reset()
            run.learn_subject()
    peak = torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")
    return {"before_gib": before / _GIB, "beyond_gib": (peak - before) / _GIB}


class _Enough(Exception):
    """One step has been taken."""


class _One(Silent):
    def step(self, done: int, total: int, value: float, phase: str) -> None:
        """The first is enough."""
        raise _Enough


def _reset() -> int:
    """Let the count of the peak begin anew; bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
