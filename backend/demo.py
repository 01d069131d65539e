"""The demo checkpoint as a diffusers pipeline."""

from __future__ import annotations

from typing import Any

import torch

from ..attractor.errors import AttractorError
from ..training import demo_assets


def pipeline(folder=demo_assets.ASSETS) -> Any:
    """A StableDiffusionPipeline with the demo weights. Raises AttractorError while there is no checkpoint file."""
    from diffusers import AutoencoderTiny, EulerDiscreteScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    config, weights = demo_assets.config(folder), demo_assets.weights(folder)
    if not weights["unet"]:
        raise AttractorError(f"The demo checkpoint is not in {folder}: install the pack again, or give another model.")
    text_encoder = CLIPTextModel(CLIPTextConfig(**config["clip"], vocab_size=config["clip_other_rows"]["vocab_size"]))
    _load_text_encoder(text_encoder, weights["clip"])
    channels = config["latent_channels"]
    vae: Any = AutoencoderTiny(
        latent_channels=channels, scaling_factor=config["latent_scale_factor"], upsampling_scaling_factor=2
    )
    vae.load_state_dict(demo_assets.padded(_tiny_names(weights["vae"]), vae.state_dict()))
    schedule = config["sampling_settings"]
    scheduler: Any = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",  # what the host calls linear: in the square root
        beta_start=schedule["linear_start"], beta_end=schedule["linear_end"],
        num_train_timesteps=schedule["timesteps"], prediction_type="v_prediction" if config["prediction"] == "v"
        else "epsilon", timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip
    nothing: Any = None
    return StableDiffusionPipeline(
        vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=_unet(config, weights["unet"]).eval(), scheduler=scheduler, safety_checker=nothing,
        feature_extractor=nothing, requires_safety_checker=False,
    )  # fmt: skip


def _unet(config: dict, state: dict[str, torch.Tensor]) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    host = config["unet"]
    widths = tuple(host["model_channels"] * m for m in host["channel_mult"])
    deepest = len(widths)
    unet = UNet2DConditionModel(
        sample_size=host["image_size"], in_channels=host["in_channels"], out_channels=host["out_channels"],
        block_out_channels=widths, layers_per_block=host["num_res_blocks"][0],
        down_block_types=("CrossAttnDownBlock2D",) * deepest, up_block_types=("CrossAttnUpBlock2D",) * deepest,
        cross_attention_dim=host["context_dim"], attention_head_dim=host["num_heads"],
    )  # fmt: skip
    named = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(named, dict(unet.config)))
    return unet


def _load_text_encoder(encoder: Any, state: dict[str, torch.Tensor]) -> None:
    """transformers 4 keeps the `text_model.` prefix of the weights' names, transformers 5 may not."""
    wanted = encoder.state_dict()
    short = {k.removeprefix("text_model."): v for k, v in state.items()}
    chosen = {name: short[name.removeprefix("text_model.")] for name in wanted if not name.endswith("position_ids")}
    encoder.load_state_dict(chosen, strict=False)


def _tiny_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """TAESD's names to AutoencoderTiny's, whose decoder does not count the clamp at its start."""
    renamed = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "taesd_encoder":
            renamed[f"encoder.layers.{rest}"] = value
        elif part == "taesd_decoder":
            index, _, tail = rest.partition(".")
            renamed[f"decoder.layers.{int(index) - 1}.{tail}"] = value
    return renamed
