"""A picture codec of the TAESD architecture, trained narrow and padded to the full 64 channels.

A TAESD layer with unused channels computes exactly what a narrower one does: zero weights and biases
keep a channel at zero through convolution, ReLU and identity skip. So training runs on few channels
where pictures are large, and the host's own class loads the padded weights.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..world import render
from .cache import load_pictures, scene_of
from .common import cosine, save_atomic
from .team import Team, run

WIDTHS = (16, 32, 48, 64)  # channels at full, half, quarter and eighth size
FULL = 64
ITEM_WEIGHT = 2.0


def _conv(n_in: int, n_out: int, **kwargs) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, padding=1, **kwargs)


class _Clamp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU(),
                                  _conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x) + x)


def encoder(latent_channels: int, widths: tuple[int, int, int, int] = WIDTHS) -> nn.Sequential:
    """[B, 3, H, W] in [0, 1] to latents [B, latent_channels, H/8, W/8]; layers numbered as TAESD's."""
    layers: list[nn.Module] = [_conv(3, widths[0]), _Block(widths[0])]
    for before, width in zip(widths[:-1], widths[1:], strict=True):
        layers += [_conv(before, width, stride=2, bias=False), _Block(width), _Block(width), _Block(width)]
    return nn.Sequential(*layers, _conv(widths[-1], latent_channels))


def decoder(latent_channels: int, widths: tuple[int, int, int, int] = WIDTHS) -> nn.Sequential:
    """The way back; layers numbered as TAESD's."""
    layers: list[nn.Module] = [_Clamp(), _conv(latent_channels, widths[-1]), nn.ReLU()]
    for before, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [_Block(before), _Block(before), _Block(before), nn.Upsample(scale_factor=2),
                   _conv(before, width, bias=False)]
    return nn.Sequential(*layers, _Block(widths[0]), _conv(widths[0], 3))


class Codec(nn.Module):
    """Encoder, per-channel normalisation (folded into the encoder at export) and decoder."""

    def __init__(self, latent_channels: int, widths: tuple[int, int, int, int] = WIDTHS):
        super().__init__()
        self.latent_channels = latent_channels
        self.encoder, self.decoder = encoder(latent_channels, widths), decoder(latent_channels, widths)
        self.norm = nn.BatchNorm2d(latent_channels, affine=False, momentum=0.02)
        self._start()
        self.frozen = False  # keep the normalisation, and with it the meaning of latents, as it is

    def _start(self) -> None:
        """Keep the signal's size through the layers, and let every residual branch start small."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.modules():
            if isinstance(layer, _Block):
                layer.conv[4].weight.data.mul_(0.25)
        self.decoder[-1].weight.data.mul_(0.3)
        self.decoder[-1].bias.data.fill_(0.5)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [0, 1] to latents of about zero mean and unit variance, [B, C, H/8, W/8]."""
        self.norm.train(self.training and not self.frozen)
        return self.norm(self.encoder(x))

    def forward(self, x: torch.Tensor, noise: float = 0.0) -> torch.Tensor:
        z = self.encode(x)
        return self.decoder(z + noise * torch.randn_like(z))


def widened(state: dict[str, torch.Tensor], codec: Codec) -> dict[str, torch.Tensor]:
    """A trained codec's weights for one with more latents; the decoder ignores the new ones at first."""
    own = {k: v.clone() for k, v in codec.state_dict().items()}
    own["decoder.1.weight"].zero_()
    for key, value in state.items():
        own[key][tuple(slice(0, n) for n in value.shape)] = value
    return own


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255)


def loss_of(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Absolute and squared error, and the absolute error of differences between neighbours.

    weight [B, 1, H, W]: the item counts more than its share of the pixels, for its parts are small.
    """
    dx = (out[..., 1:] - out[..., :-1]) - (x[..., 1:] - x[..., :-1])
    dy = (out[..., 1:, :] - out[..., :-1, :]) - (x[..., 1:, :] - x[..., :-1, :])
    error = (out - x).abs() + 2.0 * (out - x).square()
    edges = (dx.abs() * weight[..., 1:]).mean() + (dy.abs() * weight[..., 1:, :]).mean()
    return (error * weight).mean() + 0.5 * edges


def held_out(count: int, seed: int) -> torch.Tensor:
    """Renders that no cache holds, [count, 3, 64, 64] in [0, 1]."""
    return to_tensor(np.stack([render(scene_of(seed + 9001, i))[0] for i in range(count)]))


@torch.no_grad()
def psnr(codec: Codec, x: torch.Tensor) -> float:
    """Mean peak signal-to-noise ratio over pictures, in dB."""
    codec.eval()
    out = torch.cat([codec(part).clamp(0, 1) for part in x.split(64)])
    codec.train()
    error = (out - x).square().mean(dim=(1, 2, 3)).clamp_min(1e-8)
    return float((-10 * error.log10()).mean())


def exported(codec: Codec) -> dict[str, torch.Tensor]:
    """The host's state dict without the padding: `taesd_encoder.*`, `taesd_decoder.*`, scale and shift."""
    state = {f"taesd_encoder.{k}": v.clone() for k, v in codec.encoder.state_dict().items()}
    last = len(codec.encoder) - 1
    std = (codec.norm.running_var + codec.norm.eps).sqrt()
    state[f"taesd_encoder.{last}.weight"] /= std[:, None, None, None]
    bias = f"taesd_encoder.{last}.bias"
    state[bias] = (state[bias] - codec.norm.running_mean) / std
    state |= {f"taesd_decoder.{k}": v.clone() for k, v in codec.decoder.state_dict().items()}
    return state | {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def restored(path: Path, args: argparse.Namespace) -> tuple[Codec, dict]:
    """The codec of the last save and its counts, or a new one, widened from a narrower one if asked."""
    torch.manual_seed(args.seed)
    codec, counts = Codec(args.latent_channels), {"seconds": 0.0, "decoder_seconds": 0.0, "steps": 0}
    if path.exists():
        loaded = torch.load(path, weights_only=True)
        codec.load_state_dict(loaded.pop("codec"))
        counts |= loaded
    elif args.widen_from:
        narrow = torch.load(args.folder / f"vae{args.widen_from}.pt", weights_only=True)
        codec.load_state_dict(widened(narrow["codec"], codec))
    if args.decoder_only:
        codec.encoder.requires_grad_(False)
        codec.frozen = True
    return codec, counts


def train(team: Team, args: argparse.Namespace) -> None:
    """Train until `args.minutes` have passed in all, going on from the last save; the rate falls with time.

    `args.decoder_only` keeps the encoder, and so the meaning of all latents, as it is; its time is
    counted apart.
    """
    path = args.folder / f"vae{args.latent_channels}.pt"
    codec, counts = restored(path, args)
    clock, budget = "decoder_seconds" if args.decoder_only else "seconds", args.minutes * 60
    weights = [p for p in codec.parameters() if p.requires_grad]
    pictures, test = load_pictures(args.folder), held_out(96, args.seed)
    masks = load_pictures(args.folder, what="masks")
    optimiser = torch.optim.AdamW(weights, lr=args.lr, weight_decay=1e-4)
    rng = np.random.default_rng((args.seed, team.rank, counts["steps"]))
    torch.manual_seed(args.seed + counts["steps"] + 100_003 * team.rank)
    begin, before, noted = time.monotonic(), counts[clock], time.monotonic()

    def note(word: str) -> None:
        save_atomic(path, {"codec": codec.state_dict(), **counts})
        print(f"vae {word} {counts[clock]:.0f} s, {counts['steps']} steps, psnr {psnr(codec, test):.2f} dB",
              flush=True)

    while counts[clock] < budget:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * cosine(counts[clock] / budget, warmup=0.02, floor=0.02)
        index = rng.integers(len(pictures), size=args.batch)
        x = to_tensor(pictures[index])
        weight = 1 + ITEM_WEIGHT * torch.from_numpy(masks[index])[:, None].float().div_(255)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            out = codec(x, noise=0.07)
        loss = loss_of(out.float(), x, weight)
        optimiser.zero_grad()
        loss.backward()
        counts[clock] = team.average(weights, before + time.monotonic() - begin)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        counts["steps"] += 1
        if team.leads and time.monotonic() - noted > 60:
            noted = time.monotonic()
            note("after")
    if team.leads:
        note("done after")


def load(folder: Path, latent_channels: int) -> Codec:
    """The codec as trained so far, in evaluation mode."""
    codec = Codec(latent_channels)
    codec.load_state_dict(torch.load(folder / f"vae{latent_channels}.pt", weights_only=True)["codec"])
    return codec.eval()


def main(argv: list[str] | None = None) -> None:
    """Command line of the VAE stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--minutes", type=float, default=12.0, help="in all, earlier runs included")
    parser.add_argument("--latent-channels", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="pictures a worker and step")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--widen-from", type=int, default=0, help="start from a codec of so few channels")
    parser.add_argument("--decoder-only", action="store_true")
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args(argv)
    run(train, args.workers, args)


if __name__ == "__main__":
    main()
