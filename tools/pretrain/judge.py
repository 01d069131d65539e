"""The judge's training: renders of its own, badges and held-back looks among them, softened as a VAE softens."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..judge import READS, WEIGHTS, Judge, truth
from ..world import Scene, render, sample_scene, sample_subject
from ..world.subjects import badge_for
from .cache import build, load_pictures
from .common import cosine, save_atomic, stage_arguments
from .team import Team, run
from .vae import to_tensor

SPLIT, TEST = 5_000_000, 6_000_000  # first picture of the training split and of the test


def scene_of(seed: int, index: int) -> Scene:
    """A scene of the judge's own: any look, every second one with a badge as a subject has it."""
    rng = np.random.default_rng((seed, index))
    if rng.random() < 0.5:
        return sample_scene(rng, held=bool(rng.random() < 0.5))
    subject = sample_subject(int(rng.integers(2**31)))
    look = sample_scene(rng, held=bool(rng.random() < 0.5)).item
    if subject.detail.colour in (look.colour, look.colour2):
        return sample_scene(rng, thing=subject.thing)
    badge = badge_for(look.kind, subject.detail.shape, subject.detail.colour)
    return sample_scene(rng, thing=replace(look, detail=badge))


def labels_of(first: int, count: int, seed: int) -> dict[str, torch.Tensor]:
    """Label indices int64 [count] of every factor."""
    facts = [truth(scene_of(seed, first + i)) for i in range(count)]
    return {name: torch.tensor([names.index(f[name]) for f in facts]) for name, names in READS.items()}


def softened(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Pictures as a small latent model leaves them: moved, bent, blurred, colours bleeding; some only a little.

    Outlines wobble by up to 3 pixels, the whole is blurred toward an eighth-size picture, colour more than light, and
    saturation and white balance vary as guidance varies them.
    """
    count = len(x)

    def draw(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape)).astype(np.float32))

    strength = (draw(-0.4, 1.0, 1, 1, 1)).clamp_min(0)  # more than a quarter of the pictures stay sharp
    bend = F.interpolate(draw(-1, 1, 2, 7, 7), (64, 64), mode="bicubic", align_corners=True)
    shift = draw(-3, 3, 2, 1, 1)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None] + (shift + 3 * strength * bend) / 32
    x = F.grid_sample(x, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    near = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    far = F.interpolate(F.avg_pool2d(x, 4), (64, 64), mode="bilinear")
    x = x + strength * draw(0, 1, 1, 1, 1) * (near - x)
    x = x + strength * draw(0, 0.5, 1, 1, 1) * (far - x)
    light, far_light = x.mean(1, keepdim=True), far.mean(1, keepdim=True)
    colour = x - light
    colour = colour + strength * draw(0, 0.8, 1, 1, 1) * (far - far_light - colour)
    x = light + colour * (1 + strength * draw(-0.1, 0.35, 1, 1, 1))
    gain, lift = draw(0.93, 1.07, 3, 1, 1), draw(-0.03, 0.03, 3, 1, 1)
    grain = torch.from_numpy(rng.normal(0, 0.02, x.shape).astype(np.float32))
    return (x * gain + lift + grain).clamp(0, 1)


@torch.no_grad()
def accuracy(judge: Judge, pictures: torch.Tensor, labels: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of pictures read rightly, by factor."""
    was = judge.training
    readings = judge.eval().read(pictures)
    judge.train(was)
    return {name: float((readings.probabilities[name].argmax(1) == labels[name]).float().mean()) for name in READS}


def train(team: Team, args: argparse.Namespace) -> None:
    """Train for some minutes in all, or go on from the last save, and write the weights."""
    path, state = args.folder / "judge.pt", {"seconds": 0.0, "steps": 0}
    torch.manual_seed(args.seed)
    judge = Judge().train()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.02)
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        judge.load_state_dict(loaded["model"])
        optimiser.load_state_dict(loaded["optimiser"])
        state = loaded["state"]
    pictures = load_pictures(args.folder / "judge")
    labels = labels_of(SPLIT, len(pictures), args.seed)
    test, test_labels = held_out(args.seed)
    rng = np.random.default_rng((args.seed, 41, team.rank, state["steps"]))
    begin, before, noted = time.monotonic(), state["seconds"], time.monotonic()

    def note() -> None:
        save_atomic(path, {"model": judge.state_dict(), "optimiser": optimiser.state_dict(), "state": state})
        found = accuracy(judge, test, test_labels)
        print(f"judge {state['seconds']:.0f} s, {state['steps']} steps, "
              + ", ".join(f"{k} {v:.3f}" for k, v in found.items()), flush=True)

    while state["seconds"] < args.minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(state["seconds"] / (args.minutes * 60), warmup=0.03, floor=0.01)
        index = rng.integers(len(pictures), size=args.batch)
        x = softened(to_tensor(pictures[index]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(x)
        loss = sum(F.cross_entropy(logits[name].float(), labels[name][index]) for name in READS)
        optimiser.zero_grad()
        loss.backward()
        seconds = team.average(judge.parameters(), before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimiser.step()
        state = {"seconds": seconds, "steps": state["steps"] + 1}
        if team.leads and time.monotonic() - noted > 60:
            noted = time.monotonic()
            note()
    if team.leads:
        note()
        write(judge, args.out)


def held_out(seed: int, count: int = 1000) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Renders that no training saw, [count, 3, 64, 64] in [0, 1], and their labels."""
    pictures = np.stack([render(scene_of(seed, TEST + i))[0] for i in range(count)])
    return to_tensor(pictures), labels_of(TEST, count, seed)


def write(judge: Judge, out: Path) -> None:
    """Save the weights in half precision."""
    from safetensors.torch import save_file

    state = {k: v.half().contiguous() for k, v in judge.state_dict().items() if not k.endswith("num_batches_tracked")}
    part = out.with_suffix(".part")
    save_file(state, part, metadata={"format": "attractor-judge-1"})
    part.chmod(0o644)
    part.replace(out)


def main(argv: list[str] | None = None) -> None:
    """Command line of the judge's stage."""
    parser = stage_arguments(__doc__, WEIGHTS, minutes=12.0, batch=64, lr=3e-3)
    parser.add_argument("--pictures", type=int, default=32000)
    parser.add_argument("--render-workers", type=int, default=2)
    args = parser.parse_args(argv)
    build(args.folder / "judge", args.pictures, args.seed, args.render_workers, scene_of, SPLIT)
    run(train, args.workers, args)


if __name__ == "__main__":
    main()
