"""A training at SD1.5's and SDXL's own size on a GPU, in bfloat16, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ...training import demo_assets
from ...training.loop import train
from ...training.settings import TrainSettings
from ..host import fetch
from . import rival, steps
from .memory import beyond_weights

SIZES = {"sd15": (512, 4), "sdxl": (1024, 1)}  # side in pixels, and batch
_NAMES = {"sd15": "SD1.5", "sdxl": "SDXL"}
_MATRIX = 8192


def sd15(kept: Path | None) -> dict[str, float]:
    """Rates, shares and memory of SD1.5, by name. kept: see full_size_host."""
    return _of("sd15", kept)


def sdxl(kept: Path | None) -> dict[str, float]:
    """The same of SDXL."""
    return _of("sdxl", kept)


def training(kept: Path | None) -> dict[str, float]:
    """Seconds of a training of SD1.5 with the node's own settings, photos encoded and measured, two held out."""
    resolution, batch = SIZES["sd15"]
    host, photos = _host("sd15", kept), demo_assets.subject()
    train_set, held_out = photos.with_photos(photos.photos[:5]), photos.with_photos(photos.photos[5:7])
    began = steps.now()
    _, history = train(host, train_set, TrainSettings(resolution=resolution, batch_size=batch), held_out)
    return {"gpu.sd15.training_seconds": steps.now() - began, "gpu.sd15.training_steps": float(len(history.losses))}


def _host(kind: str, kept: Path | None) -> Any:
    """Raises RuntimeError without a GPU."""
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA GPU here: run this part on a machine that has one.")
    import comfy.cli_args
    import comfy.model_management

    comfy.model_management.unload_all_models()
    torch.cuda.empty_cache()
    comfy.cli_args.args.bf16_unet = True
    return steps.full_size_host(kind, kept)


def section(figures: dict[str, float]) -> str:
    """The table of both kinds; nothing where they were not measured."""
    kinds = [kind for kind in SIZES if f"gpu.{kind}.seconds" in figures]
    if not kinds:
        return ""

    def row(what: str, name: str, form: str = "{:.2f}", of: Callable[[float], float] = float) -> str:
        cells = [figures.get(f"gpu.{kind}.{name}") for kind in kinds]
        return f"| {what} | " + " | ".join("–" if c is None else form.format(of(c)) for c in cells) + " |"

    rows = [
        "| | " + " | ".join(f"{_NAMES[kind]}, {SIZES[kind][0]} px, batch {SIZES[kind][1]}" for kind in kinds) + " |",
        "|---|" + "---|" * len(kinds),
        row("training steps a second", "seconds", "{:.1f}", lambda s: 1 / s),
        row("a step over the bare U-Net's forward and backward, same kernels", "over_bare"),
        row("the same with the measurements of 400 steps", "with_measuring"),
        row("a step over the bare one with any kernels, timed right after it", "over_bare_free"),
        row("TFLOP of the U-Net in a step", "tflop"),
        row("share of the attainable matrix rate, training", "share_of_attainable"),
        row("the same, bare U-Net", "bare_share_of_attainable"),
        row("steps a second over the diffusers script's, timed right after it", "steps_over_diffusers"),
        row("seconds of a training with the node's own settings, measurements and encoding included",
            "training_seconds", "{:.0f}"),
        row("steps of that training", "training_steps", "{:.0f}"),
        row("GiB of weights (U-Net and text encoders)", "weights_gib"),
        row("GiB beyond what lay in memory, a step of batch 1", "plain.beyond_gib"),
        row("the same with checkpointing", "checkpointed.beyond_gib"),
        row("NeTI picture over the stock one, 20 steps, encoding included", "neti_sampling.over_stock"),
        row("the next picture of the same prompt", "neti_sampling.next_over_stock"),
    ]  # fmt: skip
    head = (f"\n\nIn bfloat16 with random weights; the attainable rate is that of a product of {_MATRIX} x {_MATRIX} "
            f"matrices here, {figures[f'gpu.{kinds[0]}.attainable_tflops']:.0f} TFLOP/s.\n\n")  # fmt: skip
    return head + "\n".join(rows)


def attainable() -> float:
    """TFLOP/s of a large product of bfloat16 matrices."""
    a, b = (torch.randn(_MATRIX, _MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * _MATRIX**3 / _seconds(lambda: a @ b) / 1e12


def _of(kind: str, kept: Path | None) -> dict[str, float]:
    host, (resolution, batch), rate = _host(kind, kept), SIZES[kind], attainable()
    found = {"attainable_tflops": rate}
    found |= steps.step_over_bare(host, batch, resolution, 1000, 40)
    with torch.inference_mode(False), host.training(batch, resolution):
        bare = steps.bare(host, batch, resolution)
        found["bare_free_seconds"] = _seconds(bare)  # any kernels, not only those that give the same numbers twice
        with FlopCounterMode(display=False) as counted:
            bare()
    found["over_bare_free"] = found["seconds"] / found["bare_free_seconds"]
    found["tflop"] = counted.get_total_flops() / 1e12
    found["share_of_attainable"] = found["tflop"] / found["seconds"] / rate
    found["bare_share_of_attainable"] = found["tflop"] / found["bare_free_seconds"] / rate
    weights = [host.patcher.model, host.clip.cond_stage_model]
    found["weights_gib"] = sum(p.numel() * p.element_size() for m in weights for p in m.parameters()) / 2**30
    for name, checkpointing in (("plain", False), ("checkpointed", True)):
        found |= {f"{name}.{k}": v for k, v in beyond_weights(host, resolution, checkpointing).items()}
    if kind == "sd15":
        found |= {f"neti_sampling.{k}": v for k, v in steps.sampling_over_stock(host, 20, resolution, 3).items()}
        found["diffusers.seconds"] = _script_seconds(resolution, batch, host.device)
        found["steps_over_diffusers"] = found["diffusers.seconds"] / found["seconds"]
    return {f"gpu.{kind}.{name}": value for name, value in found.items()}


def _script_seconds(resolution: int, batch: int, device: torch.device) -> float:
    """A step of the diffusers script on networks of SD1.5's size."""
    photos = demo_assets.subject()
    with torch.inference_mode(False):
        script = rival.Script(_networks(device), photos.with_photos(photos.photos[:4]), batch, resolution, 5e-4)
        return _seconds(script.step)


def _networks(device: torch.device) -> Any:
    """U-Net and VAE in bfloat16, the text encoder in float32, as that script has them; random weights."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    unet: Any = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    vae: Any = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    ))  # fmt: skip
    scheduler: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return SimpleNamespace(
        unet=unet.to(device, torch.bfloat16), vae=vae.to(device, torch.bfloat16), text_encoder=text.to(device),
        tokenizer=CLIPTokenizer.from_pretrained(fetch() / "comfy" / "sd1_tokenizer"), scheduler=scheduler,
    )  # fmt: skip


def _seconds(step: Callable[[], object], turns: int = 6, each: int = 5) -> float:
    """Median over turns of the seconds of a step, after one turn that does not count."""
    taken = []
    for _ in range(turns + 1):
        began = steps.now()
        for _ in range(each):
            step()
        taken.append((steps.now() - began) / each)
    return float(np.median(taken[1:]))
