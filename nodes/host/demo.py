"""The demo checkpoint, built from the host's own classes, so that every stock node works on it."""

from __future__ import annotations

import logging
from inspect import signature
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.taesd.taesd
import folder_paths
import torch
from torch import Tensor

from ...attractor.errors import AttractorError
from ...training import demo_assets
from ...training.device import seeded


def load(folder: Path = demo_assets.ASSETS) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo checkpoint; seeded random weights while there is no checkpoint file."""
    config, weights = demo_assets.config(folder), demo_assets.weights(folder)
    if not weights["unet"]:
        logging.warning("Attractor: the demo checkpoint is not there, its model has random weights and paints noise.")
    with seeded(0):
        return _model(config, weights["unet"]), _clip(config, weights["clip"]), _vae(config, weights["vae"])


def _model(config: dict, weights: dict[str, Tensor]) -> Any:
    settings = {**config["unet"], "dtype": torch.float32}
    host_config = _demo_config(config["prediction"])(settings)
    host_config.sampling_settings = dict(config.get("sampling_settings", {}))
    host_config.latent_format = _DemoLatent(config["latent_channels"], config["latent_scale_factor"])
    kind = comfy.model_base.ModelType.V_PREDICTION if config["prediction"] == "v" else comfy.model_base.ModelType.EPS
    model = comfy.model_base.BaseModel(host_config, model_type=kind)
    _fill(model.diffusion_model, weights)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class _DemoLatent(comfy.latent_formats.LatentFormat):
    def __init__(self, channels: int, scale_factor: float):
        self.latent_channels, self.scale_factor = channels, scale_factor


def _demo_config(prediction: str) -> type:
    """A subclass of the host's SD1.5 that says of itself what the demo model is."""

    class AttractorDemo(comfy.supported_models.SD15):
        unet_extra_config: dict = {}  # SD1.5's would set its own number of heads
        attractor_side = demo_assets.SIDE

        def model_type(self, state_dict: dict, prefix: str = "") -> Any:
            kinds = comfy.model_base.ModelType
            return kinds.V_PREDICTION if prediction == "v" else kinds.EPS

    return AttractorDemo


def _clip(config: dict, weights: dict[str, Tensor]) -> Any:
    class Target:
        params: dict = {}
        clip = comfy.sd1_clip.SD1ClipModel
        tokenizer = comfy.sd1_clip.SD1Tokenizer

    # newer hosts would load it piece by piece, and could not make a copy for the training: it has no file of its own
    static = {"disable_dynamic": True} if "disable_dynamic" in signature(comfy.sd.CLIP.__init__).parameters else {}
    clip = comfy.sd.CLIP(
        Target(),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"clip_l_model_config": dict(config["clip"]), "dtype": torch.float32},
        **static,
    )
    encoder = clip.cond_stage_model.clip_l
    encoder.transformer.to(torch.float32)
    _fill(encoder.transformer, weights, optional=("text_projection.weight",))
    return clip


def _vae(config: dict, weights: dict[str, Tensor]) -> Any:
    module = comfy.taesd.taesd.TAESD(latent_channels=config["latent_channels"])
    if weights:
        state = demo_assets.padded(weights, module.state_dict())
    else:
        _fill(module.taesd_encoder, {})
        _fill(module.taesd_decoder, {})
        state = {name: value.clone() for name, value in module.state_dict().items()}
    return comfy.sd.VAE(sd=state, dtype=torch.float32)


@torch.no_grad()
def _fill(module: torch.nn.Module, weights: dict[str, Tensor], optional: tuple[str, ...] = ()) -> None:
    """Load the weights, or fill with seeded random ones where there are none."""
    if weights:
        missing, unexpected = module.load_state_dict(weights, strict=False)
        missing = [name for name in missing if name not in optional]
        if missing or unexpected:
            raise AttractorError(
                f"The demo checkpoint does not fit its config.json (missing {missing[:3]}, unexpected "
                f"{unexpected[:3]}): install the pack again."
            )
        return
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape) * (0.08 if "embedding" in name else fan_in**-0.5))
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
