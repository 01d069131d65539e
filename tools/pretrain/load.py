"""Paint a sheet of grammar prompts with the demo checkpoint and the host's own sampler."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..world import caption, sample_scene
from .common import host


@torch.inference_mode()
def paint(model, clip, vae, prompts: list[str], seed: int = 0, steps: int = 20,
          cfg: float = 4.0) -> np.ndarray:
    """One picture a prompt with the host's Euler sampler: uint8 [N, 64, 64, 3]; noise is seed + index."""
    import comfy.sample

    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    channels, pictures = model.model.latent_format.latent_channels, []
    for i, prompt in enumerate(prompts):
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = torch.zeros(1, channels, 8, 8)
        noise = comfy.sample.prepare_noise(latent, seed + i)
        latent = comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", positive, negative, latent,
                                     disable_pbar=True, seed=seed + i)
        pictures.append((vae.decode(latent)[0].clamp(0, 1) * 255 + 0.5).byte().cpu().numpy())
    return np.stack(pictures)


def sheet(pictures: np.ndarray, columns: int, scale: int = 2) -> Image.Image:
    """Lay pictures out in rows with a thin gap."""
    rows, side = -(-len(pictures) // columns), pictures.shape[1]
    out = np.full((rows * (side + 2), columns * (side + 2), 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (side + 2), i % columns * (side + 2)
        out[y:y + side, x:x + side] = picture
    return Image.fromarray(out).resize((out.shape[1] * scale, out.shape[0] * scale), Image.Resampling.NEAREST)


def grammar_prompts(count: int, seed: int) -> list[str]:
    """Full captions of scenes drawn anew."""
    rng = np.random.default_rng((seed, 77))
    return [caption(sample_scene(rng), full=True) for _ in range(count)]


def main(argv: list[str] | None = None) -> None:
    """Command line: paint a sheet of grammar prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("assets/demo"))
    parser.add_argument("--comfyui", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path(".cache/pretrain/grid.png"))
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    args = parser.parse_args(argv)
    host(args.comfyui)
    from ...nodes.host import demo

    prompts = grammar_prompts(args.count, args.seed)
    pictures = paint(*demo.load(args.demo), prompts, args.seed, args.steps, args.cfg)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures, args.columns).save(args.out)
    for i, prompt in enumerate(prompts):
        print(f"{i // args.columns + 1}.{i % args.columns + 1}  {prompt}")


if __name__ == "__main__":
    main()
