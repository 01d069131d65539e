"""A concept, what training gives back, and its file, which ComfyUI, A1111 and diffusers read as an embedding."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from .model import Embedding
from .representations import Representation, TextualInversion, restore
from .settings import REPRESENTATIONS

_BY_WIDTH = {768: "l", 1024: "h", 1280: "g"}
_SDXL = {"l": "clip_l", "g": "clip_g"}
_METADATA_KEY = "attractor"
_STATE_KEY = "attractor_representation"  # a safetensors file in base64: other programs allow one tensor only
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(1, 10))}


@dataclass(frozen=True)
class Concept:
    """A learnt subject. vectors: text-encoder key to [n, D]; class_word: what it is; run_card: how it was made.

    kind: of the representation. For Textual Inversion the vectors are all; for the others they are the plain embedding
    that other programs read, and state holds the representation's own numbers.
    """

    vectors: Embedding
    class_word: str
    run_card: dict = field(default_factory=dict)
    kind: str = "TI"
    state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of the vectors and the representation's state."""
        digest = hashlib.sha256()
        for tensors in (self.vectors, self.state):
            for key in sorted(tensors):
                digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def representation(self) -> Representation:
        """The subject's words as a function of timestep and layer."""
        return restore(self.kind, self.state) if self.state else TextualInversion(self.vectors).requires_grad_(False)

    def check_fits(self, widths: dict[str, int], layers: int | None, where: str) -> None:
        """Raise AttractorError unless the concept fits text encoders of these widths and a U-Net of so many layers.

        layers: None where there is no U-Net to ask.
        """
        own = self.representation().layers
        if layers is not None and own not in (1, layers):
            raise AttractorError(
                f"This concept was trained for a U-Net with {own} layers of cross-attention, but {where} has {layers}. "
                "Load the checkpoint that it was trained on."
            )
        mine = {key: value.shape[-1] for key, value in self.vectors.items()}
        if mine != widths:
            raise AttractorError(
                f"This concept has vectors of width {_widths(mine)}, but {where} takes {_widths(widths)}: it was "
                "trained for another base model. Load the checkpoint that it was trained on."
            )


def check_name(name: str) -> str:
    """A concept's name, usable as a file name and as `embedding:name` in a prompt. Raises AttractorError."""
    name = name.removesuffix(".safetensors")
    if not name:
        raise AttractorError("name is empty: give the concept a name, such as 'my-dog'.")
    if not re.fullmatch(r"[\w][\w.\-]*", name) or name.endswith("."):
        raise AttractorError(
            f"name {name!r} cannot be used: letters of any script, digits, '-', '_' and '.' are allowed, no folders, "
            "no spaces and no commas, for the name is typed into prompts as embedding:name."
        )
    if name.split(".")[0].upper() in _RESERVED or len(name.encode()) > 200:
        raise AttractorError(f"name {name!r} cannot be a file name on every system. Choose another.")
    return name


def save_concept(concept: Concept, folder: Path, name: str, when_exists: str = "refuse") -> Path:
    """Write folder/name.safetensors; gives the path.

    when_exists: "refuse", "number" (name-2, name-3, ...) or "overwrite"; a file that holds these very vectors is left.
    The file is written beside its place and renamed, so that no half-written file is ever seen.
    """
    name = check_name(name)
    path = folder / f"{name}.safetensors"
    if path.exists() and when_exists != "overwrite":
        if _holds(path, concept):
            return path
        if when_exists == "number":
            numbered = (folder / f"{name}-{n}.safetensors" for n in range(2, 10**6))
            path = next(p for p in numbered if not p.exists() or _holds(p, concept))
            if path.exists():
                return path
        else:
            raise AttractorError(
                f"{path.name}: a concept of this name exists in {folder} and holds something else. Choose another "
                "name, or set when_exists to 'number' or 'overwrite'. The trained concept is not lost: change the "
                "setting and queue again."
            )
    keys = {key: _SDXL.get(key, path.stem) for key in concept.vectors} if len(concept.vectors) > 1 else None
    tensors = {keys[k] if keys else path.stem: v.float().contiguous() for k, v in concept.vectors.items()}
    card = {**concept.run_card, "class_word": concept.class_word, "encoders": _shape_card(concept.vectors),
            "representation": concept.kind}  # fmt: skip
    metadata = {_METADATA_KEY: json.dumps(card, sort_keys=True)}
    if concept.state:
        state = save({k: v.contiguous() for k, v in concept.state.items()})
        metadata[_STATE_KEY] = base64.b64encode(state).decode("ascii")
    data = save(tensors, metadata=metadata)
    write_beside(path, lambda file: file.write_bytes(data))
    return path


def load_concept(path: Path) -> Concept:
    """Read a concept file, or any Textual Inversion file in safetensors. Raises AttractorError, naming the file."""
    if path.suffix.lower() != ".safetensors":
        raise AttractorError(
            f"{path.name}: only .safetensors files are loaded; .pt, .bin and other pickles can run code when opened. "
            "Convert it to safetensors with a tool that you trust."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # the file is free to be replaced
    except FileNotFoundError as error:
        raise AttractorError(f"{path.name}: no such concept file in {path.parent}.") from error
    except (SafetensorError, OSError, struct.error, ValueError) as error:
        raise AttractorError(
            f"{path.name}: not a usable safetensors file; it is cut short, damaged or a pickle ({error}). "
            "Copy it again."
        ) from error
    try:
        card = json.loads(metadata.get(_METADATA_KEY, "{}"))
    except json.JSONDecodeError:
        card = {}
    card = card if isinstance(card, dict) else {}
    vectors = _read_vectors(tensors, card, path.name)
    kind, state = _read_state(metadata, card, path.name)
    return Concept(vectors, str(card.get("class_word", "")), card, kind, state)


def _read_vectors(tensors: dict[str, Tensor], card: dict, name: str) -> Embedding:
    if set(tensors) == set(_SDXL.values()):
        vectors = {key: tensors[stored] for key, stored in _SDXL.items()}
    elif len(tensors) == 1:
        tensor = next(iter(tensors.values()))
        keys = list(card.get("encoders", {}))
        width = tensor.shape[-1] if tensor.ndim else 0
        vectors = {keys[0] if len(keys) == 1 else _BY_WIDTH.get(width, "l"): tensor}
    else:
        raise AttractorError(
            f"{name}: not a concept or embedding file; it holds {', '.join(sorted(tensors)[:4]) or 'nothing'}"
            f"{' and more' if len(tensors) > 4 else ''}. One tensor [n, width], or clip_l and clip_g, are expected."
        )
    for key, tensor in vectors.items():
        if tensor.ndim == 1:
            vectors[key] = tensor = tensor[None]
        if tensor.ndim != 2 or not tensor.is_floating_point() or not 1 <= len(tensor) <= 75:
            raise AttractorError(
                f"{name}: holds a tensor of shape {tuple(tensor.shape)}, not vectors [n, width] with n up to 75: "
                "it is no embedding file."
            )
        if not torch.isfinite(tensor).all():
            raise AttractorError(f"{name}: its vectors have NaN or infinite values. Train the concept again.")
        vectors[key] = tensor.float()
    return vectors


def _read_state(metadata: dict[str, str], card: dict, name: str) -> tuple[str, dict[str, Tensor]]:
    """Kind and state of the representation; those of Textual Inversion where the file has none."""
    if _STATE_KEY not in metadata:
        return "TI", {}
    kind = card.get("representation")
    if kind not in REPRESENTATIONS:
        raise AttractorError(f"{name}: its representation {kind!r} is not known to this version. Update the pack.")
    try:
        state = load_bytes(base64.b64decode(metadata[_STATE_KEY], validate=True))
        restore(kind, state)
    except (SafetensorError, ValueError, AttractorError) as error:
        raise AttractorError(f"{name}: {error}. Copy the file again.") from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        raise AttractorError(f"{name}: its {kind} part has NaN or infinite values. Train the concept again.")
    return kind, state


def _holds(path: Path, concept: Concept) -> bool:
    try:
        return load_concept(path).sha256 == concept.sha256
    except AttractorError:
        return False


def _shape_card(vectors: Embedding) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in vectors.items()}


def _widths(widths: dict[str, int]) -> str:
    return ", ".join(f"{width} ({key})" for key, width in sorted(widths.items()))
