"""Encoders that papers report and that do not come with the pack: what each is, and how to fetch it when told to."""

from __future__ import annotations

import glob
import hashlib
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..attractor.errors import AttractorError

_TRANSFORMERS = ("config.json", "preprocessor_config.json", "model.safetensors")
_OPEN_CLIP = ("open_clip_model.safetensors",)
_CLIP = "Apache-2.0 (OpenAI's own release: MIT)"
_AT_ONCE = 1 << 20  # bytes
_PATIENCE = 20  # seconds without a byte after which a fetch is given up
_PART = ".part"
_STALE = 24 * 3600  # seconds after which what a killed fetch left is cleared


@dataclass(frozen=True)
class Weights:
    """An encoder on the Hugging Face hub. name: of its file or folder in models/attractor. files: of the repository.
    megabytes: of all of them. reads_text: whether it is a CLIP.
    """

    name: str
    repository: str
    files: tuple[str, ...]
    megabytes: int
    licence: str
    reads_text: bool = False

    @property
    def text(self) -> str:
        """Size, licence and where it comes from, in words."""
        return f"{self.megabytes} MB, licence {self.licence}, from huggingface.co/{self.repository}"

    @property
    def is_folder(self) -> bool:
        """Whether it is kept as a folder in transformers' layout."""
        return len(self.files) > 1

    def is_whole(self, path: Path) -> bool:
        """Whether all of it lies there."""
        return all((path / file).is_file() for file in self.files) if self.is_folder else path.is_file()


KNOWN = {
    weights.name: weights
    for weights in (
        Weights("ViT-B-32_openai.safetensors", "timm/vit_base_patch32_clip_224.openai", _OPEN_CLIP, 605, _CLIP, True),
        Weights("ViT-B-16_openai.safetensors", "timm/vit_base_patch16_clip_224.openai", _OPEN_CLIP, 599, _CLIP, True),
        Weights("dino-vits16", "facebook/dino-vits16", _TRANSFORMERS, 87, "Apache-2.0"),
        Weights("dinov2-small", "facebook/dinov2-small", _TRANSFORMERS, 88, "Apache-2.0"),
    )
}
"""By name."""


def in_hub_cache(name: str) -> Path | None:
    """Where the hub's own cache holds a known encoder, which another program may have fetched; None where it does not.
    """
    weights = KNOWN.get(name)
    if weights is None or find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(weights.repository, file) for file in weights.files]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(str(found[0])).parent if weights.is_folder else Path(str(found[0]))


def fetch(weights: Weights, folder: Path, watch: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Fetch an encoder into folder/<name>, whole or not at all; its path. What is there already is left as it is.

    watch: told how many megabytes of how many have come; what it raises ends the fetch. Follows HF_ENDPOINT (a mirror)
    and HF_HUB_OFFLINE. Raises AttractorError where the hub cannot be reached, or a file is not what the hub says it is.
    """
    target = folder / weights.name
    if weights.is_whole(target):
        return target
    if target.exists():
        raise AttractorError(f"{target} is there and is not whole: take it away, and it can be fetched.")
    watch(0, weights.megabytes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder, weights)
        with tempfile.TemporaryDirectory(prefix=f".{weights.name}.", suffix=_PART, dir=folder) as name:
            whole = Path(name) / "whole"
            whole.mkdir()
            files = _listed(weights)
            total, done = sum(file.size for file in files), 0
            for file in files:
                for more in _pieces(file, whole / file.name):
                    done += more
                    watch(min(done, total) >> 20, max(total >> 20, 1))
            try:
                os.replace(whole if weights.is_folder else whole / weights.files[0], target)
            except OSError:
                if not weights.is_whole(target):  # another program was faster
                    raise
    except urllib.error.URLError as error:
        raise AttractorError(_not_fetched(weights, error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise AttractorError(_not_fetched(weights, getattr(error, "strerror", None) or error)) from error
    return target


@dataclass(frozen=True)
class _File:
    name: str
    address: str
    size: int
    sha256: str  # empty where the hub does not say it


def _listed(weights: Weights) -> list[_File]:
    """What the hub says of the files."""
    if find_spec("huggingface_hub") is None:
        raise AttractorError(f"To fetch {weights.name} huggingface_hub is needed: run 'pip install huggingface_hub'.")
    from huggingface_hub import HfApi, hf_hub_url

    try:
        found = HfApi(token=False).model_info(weights.repository, files_metadata=True, timeout=_PATIENCE)
    except Exception as error:  # whichever HTTP library this version of the hub's client is made with
        raise AttractorError(_not_fetched(weights, " ".join(str(error).split())[:200])) from error
    there = {one.rfilename: one for one in found.siblings or ()}
    missing = [name for name in weights.files if name not in there]
    if missing:
        raise AttractorError(_not_fetched(weights, f"the repository has no {missing[0]}"))
    files = []
    for name in weights.files:
        large = there[name].lfs
        address = hf_hub_url(weights.repository, name, revision=found.sha)
        files.append(_File(name, address, there[name].size or 0, large.sha256 if large else ""))
    return files


def _pieces(file: _File, path: Path) -> Iterator[int]:
    """Fetch a file piece by piece; gives the bytes of each. Raises OSError where what came is not what was announced.
    """
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(file.address, timeout=_PATIENCE) as answer, path.open("wb") as out:  # noqa: S310
        while block := answer.read1(_AT_ONCE):  # what is there, so that a slow fetch can be cancelled too
            out.write(block)
            digest.update(block)
            size += len(block)
            yield len(block)
    if (file.size and size != file.size) or (file.sha256 and digest.hexdigest() != file.sha256):
        raise OSError(f"{file.name} came damaged: {size} of {file.size} bytes; try again")


def _tidy(folder: Path, weights: Weights) -> None:
    """Clear what a fetch left that was killed."""
    for path in folder.glob(f".{glob.escape(weights.name)}.*{_PART}"):
        if time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _not_fetched(weights: Weights, why: object) -> str:
    return (f"{weights.name} could not be fetched from huggingface.co/{weights.repository}: {why}. Nothing was kept. "
            "Try again, or get it by other means and put it into models/attractor.")  # fmt: skip
