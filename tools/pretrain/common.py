"""What the pre-training scripts share: the host on the import path, schedules, safe saving."""

import argparse
import math
import os
import sys
from pathlib import Path

import torch
from torch import nn


def host(path: str | Path | None = None) -> Path:
    """Make the host's packages importable, on the CPU; the path falls back to COMFYUI_PATH.

    Raises FileNotFoundError if there is no host.
    """
    root = Path(path or os.environ.get("COMFYUI_PATH", ".host/ComfyUI")).resolve()
    if not (root / "comfy").is_dir():
        raise FileNotFoundError(f"no ComfyUI in {root}: pass --comfyui or set COMFYUI_PATH")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True
    return root


def cosine(share: float, warmup: float, floor: float) -> float:
    """Learning-rate factor in [floor, 1] at a share of the run in [0, 1]: linear up, then half a cosine."""
    if share < warmup:
        return max(share / warmup, floor)
    done = min((share - warmup) / (1 - warmup), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def save_atomic(path: Path, state: dict) -> None:
    """torch.save that never leaves half a file."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def initialise(module: nn.Module) -> None:
    """Give every layer PyTorch's own start, which the host's layer classes leave out."""
    for layer in module.modules():
        for kind in (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)


def stage_arguments(about: str | None, out: Path, minutes: float, batch: int, lr: float) -> argparse.ArgumentParser:
    """The options that the stages for scoring share, with their own defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--minutes", type=float, default=minutes, help="training time in all")
    parser.add_argument("--batch", type=int, default=batch, help="pictures a worker and step")
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    return parser
