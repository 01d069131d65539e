"""Reading the photos of one subject into a subject set, whatever format, size and orientation they have."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, ImageSequence
from scipy.fft import dctn
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.verdicts import ADVICE, Evidence
from .rights import Rights, forbids_training, manifest_file, read_manifest

if TYPE_CHECKING:
    from ..metrics.splits import Certificate

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
MAX_SIDE = 16384  # pixels of a file that is read at all
STORED_SIDE = 2048  # pixels of the longer side that is kept


@dataclass(frozen=True)
class Photo:
    """One photo of the subject.

    name: file name without its folder. pixels: [3, H, W] float32 in [0, 1], sRGB, upright.
    sha256: of the file, or of the 8-bit pixels where the photo came as a tensor. phash: 64-bit DCT hash.
    mask: attractor mask [H, W] in [0, 1], 1 = subject, or None. verdict: what was found about the mask.
    evidence: what speaks for it. file_size: (width, height) of the upright file where it was larger than is kept.
    rights: what a manifest says of it. forbids: what its own file says against training, see rights.py.
    """

    name: str
    pixels: Tensor
    sha256: str
    phash: int
    mask: Tensor | None = None
    verdict: str = ""
    evidence: Evidence | None = None
    file_size: tuple[int, int] | None = None
    rights: Rights | None = None
    forbids: str = ""

    @cached_property
    def mirrored_phash(self) -> int:
        """The hash of its mirror image."""
        return perceptual_hash(torch.flip(self.pixels, (-1,)))

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of the upright file, as any viewer shows it."""
        return self.file_size or self.size

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[-1], self.pixels.shape[-2]

    def judgement(self) -> dict:
        """What was found about the mask, for JSON: verdict, what to do, share of the frame, evidence."""
        share = 1.0 if self.mask is None else float(self.mask.mean())
        evidence = self.evidence.as_dict() if self.evidence else {}
        advice = ADVICE.get(self.verdict, "")
        return {"verdict": self.verdict, "advice": advice, "share": round(share, 4), **evidence}


@dataclass(frozen=True)
class SubjectSet:
    """The photos of one subject, the class word that names its kind, and, after a split, the certificate."""

    photos: tuple[Photo, ...]
    class_word: str
    role: str = "all"  # all, train or held-out
    certificate: Certificate | None = None

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def names(self) -> list[str]:
        """File names in order."""
        return [photo.name for photo in self.photos]

    @property
    def has_masks(self) -> bool:
        """True when every photo has an attractor mask."""
        return all(photo.mask is not None for photo in self.photos)

    def _comfy_cache_tensors(self) -> list[Tensor]:
        """What ComfyUI's cache counts when memory is short; without this hook, a set would weigh nothing there."""
        return [tensor for photo in self.photos for tensor in (photo.pixels, photo.mask) if tensor is not None]

    def with_photos(self, photos: Iterable[Photo], **changes) -> SubjectSet:
        """The same set with other photos (or the same photos with masks)."""
        return replace(self, photos=tuple(photos), **changes)


def perceptual_hash(pixels: Tensor) -> int:
    """64-bit DCT hash (pHash) of an image [3, H, W] in [0, 1].

    Signs of the 8 x 8 lowest frequencies of the 32 x 32 grey thumbnail against their median, after Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    grey = pixels.mean(0, keepdim=True)[None]
    small = torch.nn.functional.interpolate(grey, (32, 32), mode="area")[0, 0].double().numpy()
    low = np.asarray(dctn(small, norm="ortho"))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def photo_from_tensor(image: Tensor, name: str) -> Photo:
    """A photo from a tensor [H, W, C] in [0, 1] with 1, 3 or 4 channels; alpha becomes the mask.

    Raises AttractorError when it is not such an image.
    """
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or min(image.shape[:2]) < 8:
        raise AttractorError(
            f"{name}: an image of shape {tuple(image.shape)} came in where [height, width, 3] of at least 8 x 8 "
            "pixels is needed. Connect an IMAGE."
        )
    image = image.detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(image).all():
        raise AttractorError(f"{name}: the image has NaN or infinite pixels. Check the node it comes from.")
    eight_bit = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return _photo(eight_bit.numpy(), name, hashlib.sha256(eight_bit.numpy().tobytes()).hexdigest())


def read_photo(path: Path) -> Photo:
    """Read one photo file: first frame, upright, sRGB, alpha kept as its mask, at most 2048 pixels a side.

    Raises AttractorError, naming the file, when it is empty, cut short, no image or too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AttractorError(f"{path.name}: cannot be read ({error.strerror}). Check the file.") from error
    if not data:
        raise AttractorError(f"{path.name}: the file is empty (0 bytes). Copy it again or remove it.")
    _register_heif()
    try:
        with Image.open(io.BytesIO(data)) as image:
            if max(image.size) > MAX_SIDE:
                raise AttractorError(
                    f"{path.name}: {image.width} x {image.height} pixels; at most {MAX_SIDE} a side are read. "
                    "Scale it down."
                )
            pixels = _to_eight_bit(image)
            xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            size = image.size[::-1] if turned else image.size
    except AttractorError:
        raise
    except Image.DecompressionBombError as error:
        raise AttractorError(f"{path.name}: too many pixels to read safely ({error}). Scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise AttractorError(f"{path.name}: not an image that can be read, whatever its name says. "
                             "Convert it to PNG or JPEG, or remove it.") from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:
        raise AttractorError(f"{path.name}: the image is damaged or cut short ({error}). "
                             "Copy it again or remove it.") from error
    photo = replace(_photo(pixels, path.name, hashlib.sha256(data).hexdigest()), forbids=forbids_training(data, xmp))
    return photo if size == photo.size else replace(photo, file_size=(size[0], size[1]))


def read_folder(folder: Path, class_word: str, manifest: Path | None = None) -> SubjectSet:
    """Read all photos of a folder, in the order of their names, with the rights that a manifest in it gives them, or
    `manifest`, which lies beside it; other files are left alone.

    Raises AttractorError when the folder is missing, empty, one of its photos cannot be read, or the manifest does not
    speak of all of them.
    """
    if not folder.is_dir():
        raise AttractorError(f"{folder}: no such folder. Give a folder that holds photos of one subject.")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise AttractorError(f"{folder}: no photos in this folder ({', '.join(s[1:] for s in SUFFIXES)} are read).")
    file = manifest_file(folder, manifest)
    rights = read_manifest(file) if file is not None else None
    if rights is not None and (missing := [path.name for path in files if path.name not in rights]):
        raise AttractorError(
            f"{folder}: its manifest says nothing of {', '.join(missing[:5])}{' and more' if missing[5:] else ''}. "
            "Add a row for each, or take the manifest out."
        )
    photos = [replace(read_photo(path), rights=(rights or {}).get(path.name)) for path in files]
    return subject_set(photos, class_word)


def subject_set(photos: Sequence[Photo], class_word: str) -> SubjectSet:
    """A subject set of these photos under a class word such as "dog". Raises AttractorError for an empty word."""
    word = " ".join(class_word.split())
    if not word:
        raise AttractorError("class_word is empty: say in a word or two what the subject is, such as 'dog'.")
    return SubjectSet(tuple(photos), word)


def _photo(array: np.ndarray, name: str, sha256: str) -> Photo:
    tensor = torch.from_numpy(np.ascontiguousarray(array)).float().div(255).permute(2, 0, 1)
    mask = None
    if tensor.shape[0] == 4:
        alpha = tensor[3]
        tensor = tensor[:3] * alpha + (1 - alpha)  # over white, as a viewer would show it
        mask = alpha.clone() if float(alpha.min()) < 0.5 else None
    pixels = tensor.expand(3, -1, -1).contiguous()
    return Photo(name, pixels, sha256, perceptual_hash(pixels), mask)


def _to_eight_bit(image: Image.Image) -> np.ndarray:
    """First frame of an opened image as uint8 [H, W, 3 or 4]."""
    frame = next(iter(ImageSequence.Iterator(image)))
    frame = ImageOps.exif_transpose(frame)
    profile = frame.info.get("icc_profile")
    if frame.mode.startswith("I;16") or frame.mode in ("I", "F"):
        values = np.asarray(frame, dtype=np.float32)
        top = 255.0 if values.max() <= 255 else 65535.0
        if frame.mode == "F" and values.max() <= 1:
            top = 1.0
        frame = Image.fromarray((np.clip(values / top, 0, 1) * 255).round().astype(np.uint8))
    elif "A" in frame.getbands() or "transparency" in frame.info:
        frame = frame.convert("RGBA")
    elif profile and frame.mode in ("CMYK", "RGB"):
        frame = _to_srgb(frame, profile)
    if frame.mode not in ("RGB", "RGBA"):
        frame = frame.convert("RGB")
    frame.thumbnail((STORED_SIDE, STORED_SIDE), Image.Resampling.LANCZOS)
    return np.array(frame)


def _to_srgb(frame: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(frame, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return frame.convert("RGB")
    return converted if converted is not None else frame


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()
