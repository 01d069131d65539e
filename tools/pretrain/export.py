"""Write what was trained as the pack's demo checkpoint: one safetensors file and its config.json."""

import argparse
import json
import platform
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors.torch import save_file

from .cache import load_pictures
from .common import host
from .text import CONFIG, TextEncoder, Vocabulary
from .unet import LONGEST, unet_config
from .vae import FULL, WIDTHS, exported, load, to_tensor


def config(latent_channels: int, channels: int, token_std: float, training: dict) -> dict:
    """All that building the three models from the host's classes needs (nodes/host/demo.py does it)."""
    return {
        "format": 1,
        "image_size": 64,
        "latent_channels": latent_channels,
        "latent_scale_factor": 1.0,
        "prediction": "v",
        "sampling_settings": {"beta_schedule": "linear", "linear_start": 0.00085, "linear_end": 0.012,
                              "timesteps": 1000},
        "unet": unet_config(latent_channels, channels),
        "clip": CONFIG,
        "clip_other_rows": {"vocab_size": 49408, "std": token_std, "seed": 0},
        "vae": {"widths": list(WIDTHS), "padded_width": FULL},
        "training": training,
    }


@torch.no_grad()
def preview_factors(folder: Path, latent_channels: int, count: int = 500) -> dict[str, list]:
    """Least-squares map from a latent cell to its mean colour in [-1, 1], for the host's previews."""
    pictures = to_tensor(load_pictures(folder, count)) * 2 - 1
    z = load(folder, latent_channels).encode(pictures / 2 + 0.5)
    z = z.permute(0, 2, 3, 1).reshape(-1, latent_channels)
    colour = torch.nn.functional.avg_pool2d(pictures, 8).permute(0, 2, 3, 1).reshape(-1, 3)
    found = torch.linalg.lstsq(torch.cat([z, torch.ones(len(z), 1)], dim=1), colour).solution
    factors = [[round(float(v), 4) for v in row] for row in found]
    return {"latent_rgb_factors": factors[:-1], "latent_rgb_factors_bias": factors[-1]}


def tensors(folder: Path, latent_channels: int, tokenizer: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The checkpoint's tensors in half precision, and the state of the training run."""
    run = torch.load(folder / "painter.pt", weights_only=True)
    vocabulary = Vocabulary(tokenizer)
    text = TextEncoder(len(vocabulary.token_ids))
    text.load_state_dict({k[5:]: v for k, v in run["ema"].items() if k.startswith("text.")})
    if not run["state"]["full_length"]:
        text.position_embedding.weight.data[LONGEST:] = text.position_embedding.weight.data[LONGEST - 1]
    out = {k: v for k, v in run["ema"].items() if k.startswith("unet.")}
    out |= {f"clip.{k}": v for k, v in text.host_state().items()}
    out["clip.text_projection.weight"] = torch.eye(CONFIG["hidden_size"])
    out["clip.token_embedding"] = text.token_embedding.weight.data
    out |= {f"vae.{k}": v for k, v in exported(load(folder, latent_channels)).items()}
    out = {k: v.detach().half().contiguous() for k, v in out.items()}
    out["clip.token_rows"] = torch.tensor(vocabulary.token_ids, dtype=torch.int32)
    _add_word(out, vocabulary, tokenizer, "the", "a")  # of the training's prompts, and not of the grammar
    return out, run["state"]


def _add_word(out: dict[str, torch.Tensor], vocabulary: Vocabulary, tokenizer: Path, word: str, like: str) -> None:
    """Give a word that the grammar lacks the row of one that it has."""
    with open(tokenizer / "vocab.json", encoding="utf-8") as file:
        token = json.load(file)[f"{word}</w>"]
    rows, table = out["clip.token_rows"], out["clip.token_embedding"]
    out["clip.token_rows"] = torch.cat([rows, torch.tensor([token], dtype=torch.int32)])
    row = vocabulary.row_of_word[like]
    out["clip.token_embedding"] = torch.cat([table, table[row : row + 1]])


def main(argv: list[str] | None = None) -> None:
    """Command line of the export stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/pretrain"))
    parser.add_argument("--out", type=Path, default=Path("assets/demo"))
    parser.add_argument("--comfyui", type=Path, default=None)
    parser.add_argument("--latent-channels", type=int, default=6)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    tokenizer = host(args.comfyui) / "comfy" / "sd1_tokenizer"
    state, run = tensors(args.folder, args.latent_channels, tokenizer)
    std = round(float(state["clip.token_embedding"].float().std()), 4)
    training = {
        "samples": run["samples"], "steps": run["steps"], "seconds": round(run["seconds"]), "seed": args.seed,
        "device": f"CPU, {platform.machine()}", "date": datetime.now(timezone.utc).date().isoformat(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(state, args.out / "checkpoint.safetensors", metadata={"format": "attractor-demo-1"})
    (args.out / "checkpoint.safetensors").chmod(0o644)
    facts = config(args.latent_channels, args.channels, std, training)
    facts |= preview_factors(args.folder, args.latent_channels)
    with open(args.out / "config.json", "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=2)
        file.write("\n")
    print(f"{sum(v.numel() for v in state.values()):,} numbers after {run['samples']:,} samples")


if __name__ == "__main__":
    main()
