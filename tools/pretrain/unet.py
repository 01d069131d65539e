"""The painter: the host's own U-Net and a text encoder, trained together by v-prediction.

Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022 (v = a n - s x0).
Captions are short, so most of the training sees a short context in which the last padding token counts
for all those it stands for; the last stage of the training sees all 77 positions, as the host does.
"""

import argparse
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..world import caption
from .cache import SHARD, load_pictures, scene_of, shard_path
from .common import cosine, host, initialise, save_atomic
from .team import Team
from .team import run as run_team
from .text import CONFIG, POSITIONS, TextEncoder, Vocabulary
from .vae import load, to_tensor

CAPTION_DROPOUT = 0.1
FULL_CAPTIONS = 0.4  # share of captions that leave nothing out, beside those that happen not to
ITEM_WEIGHT = 5.0  # a cell of the item counts 1 + this: its parts and colours are few cells of the picture
SHORTEST, LONGEST = 17, 22  # of the context before the last stage; 16 and 64 are the self-attentions' own


def unet_config(latent_channels: int, channels: int = 64) -> dict:
    """Keyword arguments of the host's UNetModel, as `supported_models` keeps them."""
    return {
        "image_size": 8, "in_channels": latent_channels, "out_channels": latent_channels,
        "model_channels": channels, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1,
        "num_heads": 4, "use_spatial_transformer": True, "use_linear_in_transformer": False,
        "context_dim": CONFIG["hidden_size"], "adm_in_channels": None, "use_temporal_attention": False,
        "legacy": False, "use_checkpoint": False,
    }


def make_unet(config: dict) -> nn.Module:
    """A freshly initialised U-Net of the host's class; each residual branch starts at zero."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    initialise(unet)
    for name, layer in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return unet


def schedule(steps: int = 1000, start: float = 0.00085,
             end: float = 0.012) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal a and noise s of every timestep, [steps] each, a^2 + s^2 = 1; the host's SD1 schedule."""
    beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    signal = torch.cumprod(1.0 - beta, dim=0)
    return signal.sqrt().float(), (1.0 - signal).sqrt().float()


def padding_attention(length: int):
    """An attention override for contexts of `length` whose last token stands for all the padding after it."""
    bias = torch.zeros(length)
    bias[-1] = math.log(POSITIONS - length + 1)

    def attention(func, q, k, v, heads, *args, **kwargs):
        cross = k.shape[1] == length
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        mask = bias.expand(q.shape[2], length) if cross else None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    return attention


class Painter(nn.Module):
    """U-Net and text encoder."""

    def __init__(self, vocabulary: Vocabulary, latent_channels: int, channels: int):
        super().__init__()
        self.text = TextEncoder(len(vocabulary.token_ids))
        self.unet = make_unet(unet_config(latent_channels, channels))

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Predict v, [B, C, h, w], for noised latents x, timesteps [B] and caption rows [B, T]."""
        options = {"optimized_attention_override": padding_attention(rows.shape[1])}
        return self.unet(x, timesteps.float(), context=self.text(rows), transformer_options=options)

    def tie_padding(self, length: int) -> None:
        """Give all positions from `length` on the position vector before it."""
        with torch.no_grad():
            table = self.text.position_embedding.weight
            table[length:] = table[length - 1]


@torch.no_grad()
def _encode(folder: Path, latent_channels: int, shard: int) -> torch.Tensor:
    torch.set_num_threads(1)
    codec, pictures = load(folder, latent_channels), np.load(shard_path(folder, shard))
    return torch.cat([codec.encode(to_tensor(part)) for part in np.split(pictures, 40)])


def latents(folder: Path, latent_channels: int, limit: int | None = None, workers: int = 1) -> torch.Tensor:
    """Latents of the cached pictures, float32 [N, C, 8, 8]; encoded once and kept in `latents<C>.pt`."""
    path = folder / f"latents{latent_channels}.pt"
    done = torch.load(path, weights_only=True) if path.exists() else torch.zeros(0, latent_channels, 8, 8)
    shards, first = [], len(done) // SHARD
    while shard_path(folder, first).exists() and (limit is None or first * SHARD < limit):
        shards.append(first)
        first += 1
    if shards:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            count = len(shards)
            done = torch.cat([done, *pool.map(_encode, [folder] * count, [latent_channels] * count, shards)])
        save_atomic(path, done)
    return done[:limit]


def item_weights(folder: Path, count: int) -> torch.Tensor:
    """Loss weights [count, 1, 8, 8] of mean one in every picture, larger where the item is."""
    masks = torch.from_numpy(load_pictures(folder, count, "masks"))
    parts = [F.avg_pool2d(part[:, None].float().div_(255), 8) for part in masks.split(4000)]
    weight = 1 + ITEM_WEIGHT * torch.cat(parts)
    return weight / weight.mean((2, 3), keepdim=True)


class Captions:
    """Captions of the cached pictures, drawn anew at every visit."""

    def __init__(self, count: int, seed: int, vocabulary: Vocabulary):
        self.scenes = [scene_of(seed, i) for i in range(count)]
        self.vocabulary = vocabulary

    def draw(self, index: np.ndarray, rng: np.random.Generator, length: int) -> torch.Tensor:
        """Rows [B, length] for pictures `index`; some captions are dropped for classifier-free guidance."""
        drop, full = rng.random(len(index)) < CAPTION_DROPOUT, rng.random(len(index)) < FULL_CAPTIONS
        texts = ["" if d else caption(self.scenes[i], rng, bool(f)) for i, d, f in zip(index, drop, full, strict=True)]
        return self.vocabulary.rows(texts, length)


class Run:
    """A training run that can be cut off and taken up again."""

    def __init__(self, folder: Path, painter: Painter, lr: float):
        self.path = folder / "painter.pt"
        self.painter = painter
        self.ema = {k: v.detach().clone() for k, v in painter.state_dict().items()}
        self.optimiser = torch.optim.AdamW(painter.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.state = {"seconds": 0.0, "steps": 0, "samples": 0, "full_length": False}
        if self.path.exists():
            loaded = torch.load(self.path, weights_only=True)
            painter.load_state_dict(loaded["model"])
            self.ema = loaded["ema"]
            self.optimiser.load_state_dict(loaded["optimiser"])
            self.state = loaded["state"]

    def save(self) -> None:
        """Write everything that going on needs."""
        save_atomic(self.path, {"model": self.painter.state_dict(), "ema": self.ema,
                                "optimiser": self.optimiser.state_dict(), "state": self.state})

    def average(self) -> None:
        """Move the averaged weights toward the present ones."""
        decay = min(0.9985, (1 + self.state["steps"]) / (10 + self.state["steps"]))
        values = self.painter.state_dict()
        torch._foreach_lerp_(list(self.ema.values()), [values[k] for k in self.ema], 1 - decay)


def loss_on(painter: Painter, x0: torch.Tensor, weight: torch.Tensor, rows: torch.Tensor,
            levels: tuple[torch.Tensor, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Weighted squared error of v; timesteps are spread evenly over the batch with a random offset."""
    batch = len(x0)
    place = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = (place * 1000).long().clamp_max(999)
    a, s = (level[timesteps][:, None, None, None] for level in levels)
    noise = torch.randn(x0.shape, generator=generator)
    error = painter(a * x0 + s * noise, timesteps, rows) - (a * noise - s * x0)
    return (error.square() * weight).mean()


def train(team: Team, args: argparse.Namespace) -> None:
    """Train until `args.minutes` of training time have passed in all, saving as it goes."""
    vocabulary = Vocabulary(host(args.comfyui) / "comfy" / "sd1_tokenizer")
    torch.manual_seed(args.seed)
    painter = Painter(vocabulary, args.latent_channels, args.channels)
    run = Run(args.folder, painter, args.lr)
    data = torch.load(args.folder / f"latents{args.latent_channels}.pt", weights_only=True)[:args.pictures]
    weight = item_weights(args.folder, len(data))
    captions = Captions(len(data), args.seed, vocabulary)
    rng = np.random.default_rng((args.seed, team.rank, run.state["steps"]))
    generator = torch.Generator().manual_seed(args.seed + run.state["steps"] + 100_003 * team.rank)
    weights = list(painter.parameters())
    levels, begin, before, noted = schedule(), time.monotonic(), run.state["seconds"], time.monotonic()
    if team.leads:
        print(f"{sum(p.numel() for p in painter.parameters()):,} parameters, {len(data)} latents, "
              f"std {data.std():.3f}", flush=True)
    losses = []
    while run.state["seconds"] < args.minutes * 60:
        share = run.state["seconds"] / (args.minutes * 60)
        last_stage = share > 1 - args.full_length_share
        if last_stage and not run.state["full_length"]:
            painter.tie_padding(LONGEST)
        run.state["full_length"] = last_stage
        length = POSITIONS if run.state["full_length"] else int(rng.integers(SHORTEST, LONGEST + 1))
        for group in run.optimiser.param_groups:
            group["lr"] = args.lr * cosine(share, warmup=0.015, floor=0.01)
        index = rng.integers(len(data), size=args.batch)
        rows = captions.draw(index, rng, length)
        loss = loss_on(painter, data[index], weight[index], rows, levels, generator)
        run.optimiser.zero_grad()
        loss.backward()
        run.state["seconds"] = team.average(weights, before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(weights, 1.0)
        run.optimiser.step()
        run.average()
        losses.append(loss.item())
        run.state["steps"] += 1
        run.state["samples"] += args.batch * team.size
        if team.leads and time.monotonic() - noted > args.save_seconds:
            noted = time.monotonic()
            run.save()
            print(f"unet {run.state['seconds']:.0f} s, {run.state['steps']} steps, "
                  f"{run.state['samples']} samples, loss {np.mean(losses):.4f}", flush=True)
            losses = []
    if team.leads:
        run.save()


def arguments() -> argparse.ArgumentParser:
    """Settings of the U-Net stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--comfyui", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=90.0, help="in all, earlier runs included")
    parser.add_argument("--latent-channels", type=int, default=6)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=None, help="use only the first so many")
    parser.add_argument("--batch", type=int, default=24, help="samples a worker and step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--full-length-share", type=float, default=0.12)
    parser.add_argument("--save-seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Command line of the U-Net stage."""
    args = arguments().parse_args(argv)
    latents(args.folder, args.latent_channels, args.pictures, args.workers)
    run_team(train, args.workers, args)


if __name__ == "__main__":
    main()
