"""A small self-supervised image encoder for scoring, saved as an ordinary transformers ViT folder.

Caron et al., Emerging Properties in Self-Supervised Vision Transformers, 2021: a student matches, from small
crops, what a slowly averaged teacher says of large crops of the same picture. No label is used.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .cache import load_pictures
from .common import cosine, save_atomic, stage_arguments
from .team import Team, run
from .vae import held_out, to_tensor

PROTOTYPES = 512
LARGE, SMALL, SMALL_CROPS = 64, 32, 2


def make_model():
    """A ViTModel of half a million parameters for 64-pixel pictures."""
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(hidden_size=96, intermediate_size=288, num_hidden_layers=4, num_attention_heads=4,
                              image_size=64, patch_size=8), add_pooling_layer=False)


class Learner(nn.Module):
    """Encoder and projection head: pictures [B, 3, H, W] in [-1, 1] to logits over prototypes [B, PROTOTYPES]."""

    def __init__(self):
        super().__init__()
        self.encoder = make_model()
        self.head = nn.Sequential(nn.Linear(96, 192), nn.GELU(), nn.Linear(192, 96))
        self.prototypes = nn.utils.parametrizations.weight_norm(nn.Linear(96, PROTOTYPES, bias=False))
        self.prototypes.parametrizations.weight.original0.data.fill_(1.0)
        self.prototypes.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.encoder(pixel_values=x, interpolate_pos_encoding=x.shape[-1] != LARGE).last_hidden_state[:, 0]
        return self.prototypes(F.normalize(self.head(features), dim=-1))


def crops(x: torch.Tensor, side: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """A random square crop of each picture, mirrored at random, with another brightness and colour cast.

    low, high: side of the crop as a share of the picture's. The cast is strong, for otherwise the background's
    colour alone tells which crops belong together, and nothing else is learnt.
    """
    count = len(x)
    share, dx, dy, mirror = (torch.rand(count, generator=generator) for _ in range(4))
    share = low + (high - low) * share
    flip = torch.where(mirror < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = share * flip, share
    theta[:, 0, 2], theta[:, 1, 2] = (2 * dx - 1) * (1 - share), (2 * dy - 1) * (1 - share)
    out = F.grid_sample(x, F.affine_grid(theta, [count, 3, side, side], align_corners=False), align_corners=False,
                        padding_mode="border")
    gain = 1 + 0.2 * torch.randn(count, 3, 1, 1, generator=generator)
    lift = 0.15 * torch.randn(count, 1, 1, 1, generator=generator)
    return (out * gain + lift).clamp(-1, 1)


@torch.no_grad()
def same_kind(encoder, seed: int, count: int = 400) -> float:
    """Share of unseen renders whose nearest neighbour has the item's kind or the background's, in [0, 1]."""
    from .cache import scene_of

    encoder.eval()
    features = F.normalize(encoder(pixel_values=held_out(count, seed) * 2 - 1).last_hidden_state[:, 0], dim=-1)
    encoder.train()
    similar = features @ features.T - 2 * torch.eye(count)
    scenes = [scene_of(seed + 9001, i) for i in range(count)]
    nearest = similar.argmax(1).tolist()
    return float(np.mean([scenes[i].item.kind == scenes[j].item.kind for i, j in enumerate(nearest)]))


def train(team: Team, args: argparse.Namespace) -> None:
    """Train for some minutes in all, or go on from the last save, and write the folder."""
    path, state = args.folder / "dino.pt", {"seconds": 0.0, "steps": 0}
    torch.manual_seed(args.seed)
    student = Learner().train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    centre = torch.zeros(PROTOTYPES)
    weights = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=args.lr, weight_decay=0.04)
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        student.load_state_dict(loaded["student"])
        teacher.load_state_dict(loaded["teacher"])
        optimiser.load_state_dict(loaded["optimiser"])
        centre, state = loaded["centre"], loaded["state"]
    pictures = load_pictures(args.folder)
    rng = np.random.default_rng((args.seed, 53, team.rank, state["steps"]))
    generator = torch.Generator().manual_seed(args.seed + state["steps"] + 100_003 * team.rank)
    begin, before, noted = time.monotonic(), state["seconds"], time.monotonic()

    def note(value: float) -> None:
        save_atomic(path, {"student": student.state_dict(), "teacher": teacher.state_dict(), "centre": centre,
                           "optimiser": optimiser.state_dict(), "state": state})
        print(f"dino {state['seconds']:.0f} s, {state['steps']} steps, loss {value:.3f}, "
              f"nearest neighbour of the same kind {same_kind(teacher.encoder, args.seed):.3f}", flush=True)

    loss = torch.zeros(())
    while state["seconds"] < args.minutes * 60:
        share = state["seconds"] / (args.minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(share, warmup=0.06, floor=0.01)
        x = to_tensor(pictures[rng.integers(len(pictures), size=args.batch)]) * 2 - 1
        large = [crops(x, LARGE, 0.72, 1.0, generator) for _ in range(2)]
        small = [crops(x, SMALL, 0.40, 0.65, generator) for _ in range(SMALL_CROPS)]
        with torch.no_grad():
            said = [teacher(view) for view in large]
            target = [((t - centre) / (0.04 + 0.02 * min(1, share * 4))).softmax(1) for t in said]
            centre = 0.9 * centre + 0.1 * torch.cat(said).mean(0)
        guess = [(student(view) / 0.1).log_softmax(1) for view in (*large, *small)]
        pairs = [(i, j) for i in range(2) for j in range(len(guess)) if i != j]
        loss = -sum((target[i] * guess[j]).sum(1).mean() for i, j in pairs) / len(pairs)
        optimiser.zero_grad()
        loss.backward()
        seconds = team.average(weights, before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(weights, 3.0)
        optimiser.step()
        keep = 1 - (1 - 0.992) * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        with torch.no_grad():
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - keep)
        state = {"seconds": seconds, "steps": state["steps"] + 1}
        if team.leads and time.monotonic() - noted > 60:
            noted = time.monotonic()
            note(loss.item())
    if team.leads:
        note(loss.item())
        write(teacher.encoder, args.out)


def write(encoder, out: Path) -> None:
    """Save model (half precision) and image processor."""
    from transformers import ViTImageProcessor

    half = make_model()
    half.load_state_dict(encoder.state_dict())
    half.eval().half().save_pretrained(out)
    size = {"height": 64, "width": 64}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(out)


def main(argv: list[str] | None = None) -> None:
    """Command line of the self-supervised stage."""
    parser = stage_arguments(__doc__, Path("assets/demo/dino"), minutes=10.0, batch=64, lr=1e-3)
    args = parser.parse_args(argv)
    run(train, args.workers, args)


if __name__ == "__main__":
    main()
