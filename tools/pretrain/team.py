"""Data-parallel training on CPU cores: one single-threaded process a core, gradients averaged each step.

On a machine with other work this loses far less than one process with many threads, which waits at
every layer for its slowest thread.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


@dataclass(frozen=True)
class Team:
    """This process' place among the workers."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True for the one that saves and prints."""
        return self.rank == 0

    def average(self, parameters: Iterable[nn.Parameter], seconds: float) -> float:
        """Average all gradients over the team, in place; returns the mean of `seconds`, the same for all."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1:
            return seconds
        flat = torch.cat([g.flatten() for g in grads] + [torch.tensor([seconds])])
        dist.all_reduce(flat)
        flat /= self.size
        first = 0
        for grad in grads:
            grad.copy_(flat[first:first + grad.numel()].view_as(grad))
            first += grad.numel()
        return float(flat[-1])


def _member(rank: int, size: int, meeting: str, work: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        work(Team(rank, size), *args)
    finally:
        dist.destroy_process_group()


def run(work: Callable, workers: int, *args) -> None:
    """Call `work(team, *args)` in `workers` processes, or in this one if there is but one."""
    if workers == 1:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        work(Team(), *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, (workers, str(Path(folder) / "meeting"), work, args), nprocs=workers)
