"""Raw masks: what each back end sees in a photo, before the photos are compared and the edges drawn; kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attention_maps
from .clicks import Click, at_click, component_at, overlap
from .clipseg import TextSegmenter
from .errors import AttractorError
from .kept import Kept
from .saliency import SaliencyModel

if TYPE_CHECKING:
    from ..training.model import DiffusionModel
    from ..training.photos import Photo, SubjectSet

SIDE = 160  # of the longer side, at which photos are compared and cut out
_LOOK_AGAIN = 1.35  # window around what stands out, of its longer side, for a second look
_CHANCE = 0.6  # agreement of the two looks that says nothing
_FINE = 320  # cells of a saliency model's map
_KEPT = 256 * 2**20  # bytes of what was seen and compared


@dataclass(frozen=True)
class Sources:
    """The models that there are. missing: for those that are not, what the user would have to do.

    pulse: is called before every look at a photo, and may raise, as the host's Cancel does. lend: puts CLIPSeg on the
    device for a while.
    """

    saliency: SaliencyModel | None = None
    model: DiffusionModel | None = None
    text: TextSegmenter | None = None
    missing: dict[str, str] = field(default_factory=dict)
    pulse: Callable[[], None] = lambda: None
    lend: Callable[[TextSegmenter], AbstractContextManager[None]] = lambda _: nullcontext()

    def need(self, name: str) -> Any:
        """The model of a back end. Raises AttractorError, saying how to get it, where there is none."""
        found = {"saliency": self.saliency, "attention": self.model, "text": self.text}[name]
        if found is None:
            raise AttractorError(self.missing.get(name, f"The back end {name!r} has no model."))
        return found


def gather(back_end: str, makers: Mapping[str, Callable[[], Any]], **hooks: Any) -> Sources:
    """Make the model of a back end; for "auto" all that can be made, and why the others cannot.

    makers: for "saliency", "attention" and "text". hooks: pulse and lend of Sources. Raises what the maker of a back
    end that was asked for raises.
    """
    found: dict[str, Any] = {}
    missing = {}
    for name, make in makers.items():
        if back_end not in ("auto", name):
            continue
        try:
            found[name] = make()
        except AttractorError as error:
            if back_end != "auto":
                raise
            missing[name] = str(error)
    return Sources(found.get("saliency"), found.get("attention"), found.get("text"), missing, **hooks)


@dataclass(frozen=True)
class Raw:
    """What a back end sees. maps: [h, w] in [0, 1], one a photo, at the size of `small`. confidence: how sure it is of
    each, in [0, 1]. cells: side of its own grid. own: the maps as the back end gave them.
    """

    maps: list[np.ndarray]
    confidence: list[float]
    cells: int
    own: list[np.ndarray]


def small(pixels: Tensor) -> np.ndarray:
    """A photo [3, H, W] at the size at which photos are compared: [h, w, 3]."""
    return _resize(pixels, _small_size(pixels)).movedim(0, -1).numpy()


def saliency(subject: SubjectSet, sources: Sources, clicks: Mapping[str, Click], again: bool) -> Raw:
    """What stands out, or what stands out at the click; again: with a second, closer look at it."""

    model: SaliencyModel = sources.need("saliency")

    def look(photo: Photo) -> tuple[np.ndarray, float]:
        sources.pulse()
        click = clicks.get(photo.name)
        if click is not None:
            map_, sure = at_click(photo.pixels, click, model.mask)
            return shrunk(map_, photo).astype(np.float32), sure
        first = model.raw(photo.pixels)
        if not again:
            return first.numpy(), float((2 * first - 1).abs().mean())
        map_, sure = _look_again(photo.pixels, first, model)
        return shrunk(map_, photo).astype(np.float32), sure

    state = state_of("saliency", sources)
    found = [kept.get(("saliency", state, photo.sha256, clicks.get(photo.name), again), partial(look, photo))
             for photo in subject.photos]  # fmt: skip
    return _as_raw(subject, found, _FINE)


def attention(subject: SubjectSet, sources: Sources, word: str) -> Raw:
    """Where the model attends to the word. Photos that were looked at before under the same word are not again."""
    model: DiffusionModel = sources.need("attention")
    state = state_of("attention", sources)
    keys = [("attention", state, word, photo.sha256) for photo in subject.photos]
    new = {key: photo for key, photo in zip(keys, subject.photos, strict=True) if key not in kept}
    found = {key: kept.get(key, dict) for key in keys if key not in new}
    if new:
        maps = attention_maps(model, [photo.pixels for photo in new.values()], word, sources.pulse)
        found |= {key: kept.get(key, lambda made=made: made) for key, made in zip(new, maps, strict=True)}
    seen = [found[key] for key in keys]
    return _as_raw(subject, [(m, _contrast(m)) for m, _ in seen], max(side for _, side in seen))


def text(subject: SubjectSet, sources: Sources, word: str) -> Raw:
    """Where the text is, by CLIPSeg, each map stretched to its own range."""
    segmenter: TextSegmenter = sources.need("text")

    def look(photo: Photo) -> tuple[np.ndarray, float]:
        sources.pulse()
        probability, highest = segmenter.raw(photo.pixels, word)
        return (probability / max(highest, 1e-6)).numpy(), highest

    keys = [("text", state_of("text", sources), word, photo.sha256) for photo in subject.photos]
    with nullcontext() if all(key in kept for key in keys) else sources.lend(segmenter):
        found = [kept.get(key, partial(look, photo)) for key, photo in zip(keys, subject.photos, strict=True)]
    return _as_raw(subject, found, segmenter.cells)


def shrunk(mask: np.ndarray, photo: Photo) -> np.ndarray:
    """A mask of a photo at the size at which photos are compared."""
    tensor = torch.from_numpy(np.ascontiguousarray(mask)).float()
    return _resize(tensor[None], _small_size(photo.pixels))[0].double().numpy()


def to_size(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A mask [h, w] at another size (height, width), in [0, 1]."""
    large = F.interpolate(torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None], size, mode="bicubic")
    return large[0, 0].clamp(0, 1)


def _look_again(pixels: Tensor, first: Tensor, model: SaliencyModel) -> tuple[np.ndarray, float]:
    """The mean of two looks, the second at a window around what the first found, and how far they agree.

    A subject that is small in its frame is seen better through the window; where the looks differ, neither is sure.
    """
    height, width = pixels.shape[-2:]
    whole = F.interpolate(first[None, None], (height, width), mode="bilinear")[0, 0]
    rows, columns = np.nonzero(_largest(whole.numpy()))
    if not len(rows):
        return first.numpy(), 0.0
    side = _LOOK_AGAIN * max(np.ptp(rows) + 1, np.ptp(columns) + 1)
    tall, wide = (max(16, min(length, round(side))) for length in (height, width))
    top = int(np.clip((rows.min() + rows.max() - tall) // 2, 0, height - tall))
    left = int(np.clip((columns.min() + columns.max() - wide) // 2, 0, width - wide))
    closer = model.mask(pixels[:, top : top + tall, left : left + wide])
    window = whole[top : top + tall, left : left + wide].clone()
    agreed = max(0.0, (overlap(window.numpy(), closer.numpy()) - _CHANCE) / (1 - _CHANCE))
    whole[top : top + tall, left : left + wide] = (window + closer) / 2
    return whole.numpy(), agreed


def state_of(back_end: str, sources: Sources) -> tuple:
    """What tells a back end's model from another: the file that was put in its place, or the loaded weights."""
    model = sources.need(back_end)
    if back_end == "attention":
        return model.state_key
    return _file_state(model.path if back_end == "saliency" else model.folder / "model.safetensors")


def _file_state(path: Path) -> tuple:
    state = path.stat() if path.is_file() else None
    return (str(path), state.st_mtime_ns, state.st_size) if state else (str(path),)


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of mask > 0.5."""
    return component_at(mask, Click(0.5, 0.5, (0.0, 0.0, 1.0, 1.0)))


def _contrast(map_: np.ndarray) -> float:
    """How clearly a map parts into two: its variance between both sides of the middle over all of it (Otsu's)."""
    inside = map_ > 0.5
    if inside.all() or not inside.any():
        return 0.0
    share = inside.mean()
    between = share * (1 - share) * (map_[inside].mean() - map_[~inside].mean()) ** 2
    return float(between / max(map_.var(), 1e-9))


def _small_size(pixels: Tensor) -> tuple[int, int]:
    height, width = pixels.shape[-2:]
    scale = min(1.0, SIDE / max(height, width))
    return max(8, round(height * scale)), max(8, round(width * scale))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _as_raw(subject: SubjectSet, found: Sequence[tuple[np.ndarray, float]], cells: int) -> Raw:
    own = [map_ for map_, _ in found]
    return Raw([shrunk(m, p) for m, p in zip(own, subject.photos, strict=True)], [c for _, c in found], cells, own)


kept = Kept(_KEPT)
"""What back ends saw in photos, and what came of comparing them."""
