"""Rebuild the demo checkpoint in the host's classes, and paint a grid of prompts with the host's sampler.

Two things are left out of the file and restored here: the padding of the VAE to the host's width
(zeros) and the token rows that the grammar never uses (seeded normal numbers).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ..world import caption, sample_scene
from .common import host
from .vae import padded


def parts_of(folder: Path) -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    """config.json, and the tensors of "unet", "clip" and "vae" in float32 under the host's key names.

    The VAE is still narrow, and the token table is there as `token_rows` and `token_embedding`.
    """
    with open(folder / "config.json", encoding="utf-8") as file:
        config = json.load(file)
    parts: dict[str, dict[str, torch.Tensor]] = {"unet": {}, "clip": {}, "vae": {}}
    for key, value in load_file(folder / "checkpoint.safetensors").items():
        part, name = key.split(".", 1)
        parts[part][name] = value.float() if value.is_floating_point() else value
    return config, parts


def token_table(config: dict, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The whole token table [49408, D]: trained rows, elsewhere seeded normal numbers of the same spread."""
    other = config["clip_other_rows"]
    generator = torch.Generator().manual_seed(other["seed"])
    table = torch.randn(other["vocab_size"], values.shape[1], generator=generator) * other["std"]
    table[rows.long()] = values
    return table


def build_model(config: dict, state: dict[str, torch.Tensor]):
    """The host's MODEL: a ModelPatcher around BaseModel with v-prediction."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    class DemoLatent(comfy.latent_formats.LatentFormat):
        scale_factor = config["latent_scale_factor"]
        latent_channels = config["latent_channels"]
        latent_rgb_factors = config.get("latent_rgb_factors")
        latent_rgb_factors_bias = config.get("latent_rgb_factors_bias")

    class DemoModel(comfy.supported_models.SD15):
        unet_extra_config: dict = {}
        latent_format = DemoLatent

    settings = DemoModel({**config["unet"], "dtype": torch.float32})
    settings.sampling_settings = dict(config["sampling_settings"])
    model = comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.V_PREDICTION)
    model.diffusion_model.load_state_dict(state)
    return comfy.model_patcher.ModelPatcher(
        model.eval(), comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


def build_clip(config: dict, state: dict[str, torch.Tensor]):
    """The host's CLIP with the small text encoder under the real tokenizer."""
    import comfy.sd
    from comfy import sd1_clip, supported_models_base

    target = supported_models_base.ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel)
    options = {"clip_l_model_config": config["clip"], "dtype": torch.float32}
    clip = comfy.sd.CLIP(target, model_options=options)
    state = dict(state)
    table = token_table(config, state.pop("token_rows"), state.pop("token_embedding"))
    state["text_model.embeddings.token_embedding.weight"] = table
    missing, unexpected = clip.cond_stage_model.load_sd(state)
    if missing or unexpected:
        raise RuntimeError(f"text encoder: missing {missing}, unexpected {unexpected}")
    return clip


def build_vae(config: dict, state: dict[str, torch.Tensor]):
    """The host's VAE; the narrow weights lie in the corner of zero tensors of its own shapes."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    like = TAESD(latent_channels=config["latent_channels"]).state_dict()
    return comfy.sd.VAE(sd=padded(state, like), dtype=torch.float32)


def build(folder: Path):
    """MODEL, CLIP and VAE; the host must be importable (see common.host)."""
    config, parts = parts_of(folder)
    model = build_model(config, parts["unet"])
    return model, build_clip(config, parts["clip"]), build_vae(config, parts["vae"])


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
    prompts = grammar_prompts(args.count, args.seed)
    pictures = paint(*build(args.demo), prompts, args.seed, args.steps, args.cfg)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(pictures, args.columns).save(args.out)
    for i, prompt in enumerate(prompts):
        print(f"{i // args.columns + 1}.{i % args.columns + 1}  {prompt}")


if __name__ == "__main__":
    main()
