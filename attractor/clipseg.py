"""Masks for a text by CLIPSeg (Lüddecke and Ecker, CVPR 2022), through transformers, from a local folder."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import AttractorError

FOLDER_NAME = "clipseg"
SOURCE = (
    "the files of https://huggingface.co/CIDAS/clipseg-rd64-refined (config.json, model.safetensors, vocab.json, "
    "merges.txt, tokenizer_config.json; 603 MB, Apache-2.0)"
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TextSegmenter:
    """CLIPSeg from a folder in transformers' layout; `module` is the torch module.

    Raises AttractorError when the folder, one of its files or transformers is missing, or they hold another model.
    """

    def __init__(self, folder: Path):
        if not (folder / "config.json").is_file():
            raise AttractorError(
                f"The back end 'text' needs CLIPSeg in the folder {folder}: it is not there. Put {SOURCE} into it, or "
                "choose another back end."
            )
        try:
            from transformers import AutoConfig
        except ImportError as error:
            raise AttractorError("The back end 'text' needs transformers: pip install transformers.") from error
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if config.model_type != "clipseg":
                raise AttractorError(f"{folder}: holds a {config.model_type} model, not CLIPSeg. Put {SOURCE} there.")
        except AttractorError:
            raise
        except Exception as error:  # transformers raises what it likes for damaged files
            raise self._unusable(folder, error) from error
        self.folder, self._side = folder, _published_side(folder)
        self.cells = self._side // int(config.vision_config.patch_size)

    @staticmethod
    def _unusable(folder: Path, error: Exception) -> AttractorError:
        return AttractorError(f"{folder}: not a usable CLIPSeg model ({error}). Put {SOURCE} there anew.")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Tokenizer and module, read when it first looks, for what was seen before is kept."""
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            module: Any = CLIPSegForImageSegmentation.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True
            )
        except Exception as error:  # transformers and safetensors raise what they like for damaged files
            raise self._unusable(self.folder, error) from error
        return tokenizer, module.eval().requires_grad_(False)

    @property
    def module(self) -> Any:
        """The torch module."""
        return self._loaded[1]

    @torch.no_grad()
    def raw(self, pixels: Tensor, text: str) -> tuple[Tensor, float]:
        """Where the text is in a photo [3, H, W]: probability [S, S], and its highest value."""
        device = next(self.module.parameters()).device
        small = F.interpolate(pixels[None], (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = torch.tensor(_MEAN).view(1, 3, 1, 1), torch.tensor(_STD).view(1, 3, 1, 1)
        tokens = self._loaded[0]([text], return_tensors="pt", truncation=True)
        logits = self.module(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device),
            pixel_values=((small - mean) / std).to(device),
        ).logits  # fmt: skip
        probability = logits.float().sigmoid().cpu().view(logits.shape[-2:])
        return probability, float(probability.max())


def _published_side(folder: Path) -> int:
    """Side of the pictures that the model was trained with: its preprocessor says so, CLIPSeg's own is 352."""
    try:
        size = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))["size"]
        return int(size["height"] if isinstance(size, dict) else size)
    except (OSError, ValueError, KeyError, TypeError):
        return 352
