"""Full-size SD1.5 and SDXL checkpoints with random weights, built from the host's own classes, for tests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .host import fetch

_COMMON = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "in_channels": 4, "model_channels": 320, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
UNETS: dict[str, dict] = {
    "sd15": {
        **_COMMON, "adm_in_channels": None, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1] * 9 + [0] * 3,
        "transformer_depth_middle": 1, "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8,
        "num_head_channels": -1,
    },
    "sdxl": {
        **_COMMON, "num_classes": "sequential", "adm_in_channels": 2816, "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
        "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    },
}  # fmt: skip


def write(kind: str, path: Path) -> None:
    """Write a checkpoint in half precision that the stock CheckpointLoaderSimple takes for `kind`."""
    import_host()
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    with torch.inference_mode(False):
        state = _state(kind, torch.float16)
    save_file({k: v.to(torch.float16).contiguous() for k, v in state.items()}, path)


def _state(kind: str, dtype: Any) -> dict:
    import comfy.model_base
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    known = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[kind]
    config = known({**UNETS[kind], "dtype": dtype})
    model = (comfy.model_base.SDXL if kind == "sdxl" else comfy.model_base.BaseModel)(config)
    text = comfy.sd1_clip.SD1ClipModel if kind == "sd15" else comfy.sdxl_clip.SDXLClipModel
    encoder = text(dtype=dtype)
    vae = AutoencoderKL(
        embed_dim=4,
        ddconfig={"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
                  "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0},
    ).to(dtype)  # fmt: skip
    for module in (model.diffusion_model, encoder, vae):
        _fill(module, torch)
    return model.state_dict_for_saving(encoder.state_dict(), vae.state_dict(), None)


def _fill(module: Any, torch: Any) -> None:
    """Numbers of a sound size, so that nothing over- or underflows, and norms that let their input through."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if tensor.ndim > 1:
                scale = 0.014 if "embedding" in name else 0.7 * tensor[0].numel() ** -0.5
                tensor.copy_(torch.randn(tensor.shape, device=device) * scale)
            else:
                tensor.fill_(0.0)
        for child in module.modules():  # by type: the residual blocks' norms have no "norm" in their names
            if isinstance(child, torch.nn.GroupNorm | torch.nn.LayerNorm) and child.weight is not None:
                child.weight.fill_(1.0)


def import_host() -> None:
    """Make ComfyUI's modules importable in this process; on the CPU where there is no CUDA."""
    path = str(fetch())
    if path not in sys.path:
        sys.path.append(path)
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(UNETS))
    parser.add_argument("path", type=Path)
    chosen = parser.parse_args()
    write(chosen.kind, chosen.path)
