"""Masks for all photos of a subject set, by one of the back ends or by all of them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor

from . import raw_masks
from .clicks import Click, component_at, guess_about, in_box, overlap, parts_of
from .cosegment import Cosegmentation
from .errors import AttractorError
from .masks import Refinement, check_mask, feathered, shaped
from .raw_masks import Raw, Sources
from .verdicts import EMPTY, Evidence, is_empty, verdict

if TYPE_CHECKING:
    from ..training.photos import SubjectSet

BACK_ENDS = ("saliency", "external", "none", "auto", "attention", "text")
_MODELS = ("saliency", "attention", "text")  # back ends with a model of their own
_ALIKE = 0.8  # of the best match with the clicked object's colours, for a part of a photo without a click
_AGREED = 1.2  # confidence for the overlap of back ends: half is just enough
_NEIGHBOUR = 0.2  # size of a part at the frame, of the largest, below which it is another thing
_DIFFER = 0.5  # overlap of two back ends below which one of them is picked and not their mean


def mask_set(
    subject: SubjectSet, back_end: str, how: Refinement, given: Sequence[Tensor] | None = None,
    sources: Sources | None = None, clicks: Mapping[str, Click] | None = None, word: str = "",
) -> SubjectSet:  # fmt: skip
    """The set with a mask, a verdict and its evidence for every photo.

    given: the external masks [H, W], one a photo in order. clicks: by photo name, for the back ends that see several
    objects. word: what to look for, by default the class word. Raises AttractorError for a back end whose model is not
    there, for masks that are missing, too few or too many, of other proportions, all zero or not finite, and for a set
    whose photos show no subject.
    """
    if back_end not in BACK_ENDS:
        raise AttractorError(f"back_end is {back_end!r}: one of {', '.join(BACK_ENDS)}.")
    sources, clicks = sources or Sources(), clicks or {}
    if back_end == "none":
        whole = [replace(p, mask=torch.ones(p.pixels.shape[-2:]), verdict="whole photo") for p in subject.photos]
        return subject.with_photos(whole)
    if back_end == "external":
        masks = _given(subject, given)
        evidence = _evidence(subject, [m.numpy() for m in masks], [1.0] * len(masks), ("external",))
    else:
        word = " ".join((word or subject.class_word).split())
        found, confidence, used = _seen(subject, back_end, sources, clicks, word)
        found, cut = _without_neighbours(subject, found, clicks)
        masks = [raw_masks.to_size(m, (p.size[1], p.size[0])) for m, p in zip(found, subject.photos, strict=True)]
        evidence = [replace(own, left_out=part)
                    for own, part in zip(_evidence(subject, found, confidence, used), cut, strict=True)]  # fmt: skip
    photos, gone = [], []
    for photo, found, speaks in zip(subject.photos, masks, evidence, strict=True):
        sources.pulse()
        sharp = shaped(found, how, photo.pixels)
        mask = feathered(sharp, how)
        if is_empty(mask) and not is_empty(found):
            gone.append(photo.name)
        photos.append(replace(photo, mask=mask, verdict=verdict(mask, speaks, sharp), evidence=speaks))
    if gone:
        edges = f" and edges {how.edges:g}" if how.edges else ""
        raise AttractorError(
            f"grow {how.grow:g}, feather {how.feather:g} ({how.unit}){edges} leave nothing of the mask of "
            f"{', '.join(gone)}: shrink or soften it less{', or set edges to 0' if edges else ''}."
        )
    empty = [p.name for p in photos if p.verdict == EMPTY]
    if empty and back_end != "external":
        raise AttractorError(
            f"No subject was found in {', '.join(empty)}: the mask is empty. Click on the subject (clicks), take the "
            "photo out, choose another back end, or paint the mask and connect it (back end 'external')."
        )
    return subject.with_photos(photos)


def _seen(
    subject: SubjectSet, back_end: str, sources: Sources, clicks: Mapping[str, Click], word: str
) -> tuple[list[np.ndarray], list[float], tuple[str, ...]]:
    """Masks at the small size, how sure they are, and the back ends that made them."""
    there = {"saliency": sources.saliency, "attention": sources.model, "text": sources.text}
    names = [name for name in _MODELS if there[name] is not None] if back_end == "auto" else [back_end]
    if not names:
        raise AttractorError("The back end 'auto' has nothing to work with. " + " ".join(sources.missing.values()))
    looked_at = tuple((photo.sha256, clicks.get(photo.name)) for photo in subject.photos)
    state = tuple((name, raw_masks.state_of(name, sources)) for name in names)
    key = ("compared", back_end, word, looked_at, state)
    masks, confidence, used, missing = raw_masks.kept.get(
        key, lambda: _compared(names, subject, sources, clicks, word, back_end == "auto")
    )
    if missing:
        raw_masks.kept.drop(key)  # what was missing may be mended
    sources.missing.update(missing)
    return masks, confidence, used


def _compared(
    names: Sequence[str], subject: SubjectSet, sources: Sources, clicks: Mapping[str, Click], word: str, auto: bool
) -> tuple[list[np.ndarray], list[float], tuple[str, ...], dict[str, str]]:
    """As `_seen`, and which back ends could not see these photos."""
    raws, missing = _raws(names, subject, sources, clicks, word, auto)
    if not auto and "saliency" in raws and not clicks:
        return raws["saliency"].own, raws["saliency"].confidence, ("saliency",), missing
    together = Cosegmentation([raw_masks.small(photo.pixels) for photo in subject.photos])
    pointed = [clicks.get(photo.name) for photo in subject.photos]
    maps, confidence = _fused(raws, together, pointed, sources.pulse)
    clicked = [1.0 if click else 0.2 for click in pointed]
    trust = clicked if clicks else [max(c, 0.1) for c in confidence]
    weight = _colour_weight(max(raw.cells for raw in raws.values()))
    masks = together.masks(maps, weight, trust, sources.pulse)
    if clicks:
        if list(raws) == ["saliency"]:
            masks = _views_first(subject, masks, raws["saliency"], clicks)
        masks, nowhere = _chosen(masks, maps, pointed, together)
        confidence = [0.0 if lost else sure for sure, lost in zip(confidence, nowhere, strict=True)]
    return masks, confidence, tuple(raws), missing


def _views_first(
    subject: SubjectSet, masks: Sequence[np.ndarray], seen: raw_masks.Raw, clicks: Mapping[str, Click]
) -> list[np.ndarray]:
    """The masks, but of a photo with a point in it whose views agree what they agree on: fine enough by itself, and its
    neighbours often have its colours. With a box the colours mend what a box that is drawn too small cuts off.
    """
    points = {name for name, click in clicks.items() if click.box is None}
    agreed = [photo.name in points and sure > 0 for photo, sure in zip(subject.photos, seen.confidence, strict=True)]
    return [np.asarray(own) if one else mask for one, own, mask in zip(agreed, seen.maps, masks, strict=True)]


def _raws(
    names: Sequence[str], subject: SubjectSet, sources: Sources, clicks: Mapping[str, Click], word: str, auto: bool
) -> tuple[dict[str, Raw], dict[str, str]]:
    """What each back end sees; of "auto" one that cannot see these photos is left out, as long as another one can, and
    why.
    """
    raws: dict[str, Raw] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            raws[name] = _raw(name, subject, sources, clicks, word, auto)
        except AttractorError as error:
            if not auto or (not raws and name == names[-1]):
                raise
            missing[name] = str(error)
    return raws, missing


def _raw(
    name: str, subject: SubjectSet, sources: Sources, clicks: Mapping[str, Click], word: str, thorough: bool
) -> Raw:
    if name == "saliency":
        return raw_masks.saliency(subject, sources, clicks, thorough)
    found = (raw_masks.attention if name == "attention" else raw_masks.text)(subject, sources, word)
    if not clicks:
        return found
    names = [photo.name for photo in subject.photos]
    maps = [in_box(m, clicks[n]) if n in clicks else m for m, n in zip(found.maps, names, strict=True)]
    return replace(found, maps=maps)


def _colour_weight(cells: int) -> float:
    """What colours say beside a map with so many cells across: more, the coarser it is."""
    return float(np.clip(0.4 + 8.8 / cells, 0.4, 1.5))


def _fused(
    raws: Mapping[str, Raw], together: Cosegmentation, clicks: Sequence[Click | None], pulse: Callable[[], None]
) -> tuple[list[np.ndarray], list[float]]:
    """One map a photo, and how sure it is: the mean of the back ends, or one of them where they contradict.

    A back end counts by its own confidence and by how well what it masks in a photo fits what it masks in the others.
    At a click each counts with what it sees there, and not at all where it sees nothing there or only guesses.
    """
    names = list(raws)
    first = raws[names[0]]
    if len(names) == 1:
        return first.maps, first.confidence
    masks = {name: together.masks(raws[name].maps, _colour_weight(raws[name].cells), pulse=pulse) for name in names}
    seen = {name: list(raws[name].maps) for name in names}
    blind = set()
    for i, name in ((i, name) for i, click in enumerate(clicks) if click is not None for name in names):
        part = _at(masks[name][i], clicks[i])
        if part.any() and raws[name].confidence[i] > 0:
            masks[name][i], seen[name][i] = _only(part, masks[name][i]), _only(part, seen[name][i])
        else:
            blind.add((name, i))
    fits = {name: _recurrence(together, masks[name]) for name in names}
    maps, confidence = [], []
    for i in range(len(first.maps)):
        there = [name for name in names if (name, i) not in blind] or names[:1]
        weight = {name: raws[name].confidence[i] * fits[name][i][0] + 1e-6 for name in there}
        best = max(there, key=lambda name: weight[name])
        near = [name for name in there if name == best or overlap(masks[name][i], masks[best][i]) >= _DIFFER]
        total = sum(weight[name] for name in near)
        maps.append(np.asarray(sum(weight[name] / total * seen[name][i] for name in near)))
        agreed = [overlap(masks[name][i], masks[best][i]) for name in there if name != best]
        alone = 0.0 if (best, i) in blind else raws[best].confidence[i]
        confidence.append(min(1.0, _AGREED * float(np.mean(agreed))) if agreed else alone)
    return maps, confidence


def _at(mask: np.ndarray, click: Click | None) -> np.ndarray:
    """The part of a mask under a click, bool [h, w], which may be none."""
    return component_at(in_box(mask, click), click) if click is not None else mask > 0.5


def _only(part: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A map with what is not near a part of it pushed down, its soft edge kept."""
    return np.where(binary_dilation(part, iterations=2), mask, np.minimum(mask, 0.2))


def _recurrence(together: Cosegmentation, masks: Sequence[np.ndarray]) -> list[tuple[float, float]]:
    """For each photo, how much what is masked looks like the others' subject rather than like their background, and how
    much it looks like either: Bhattacharyya coefficients of colours. (1, 0) for a single photo.
    """
    if len(masks) < 2:
        return [(1.0, 0.0)] * len(masks)
    inside = [together.colours(i, mask) for i, mask in enumerate(masks)]
    outside = [together.colours(i, 1 - mask) for i, mask in enumerate(masks)]
    found = []
    for i, own in enumerate(inside):
        rest = [k for k in range(len(masks)) if k != i]
        subject = float(np.sqrt(own * np.mean([inside[k] for k in rest], 0)).sum())
        background = float(np.sqrt(own * np.mean([outside[k] for k in rest], 0)).sum())
        found.append((subject / max(subject + background, 1e-6), max(subject, background)))
    return found


def _chosen(
    masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], clicks: Sequence[Click | None], together: Cosegmentation
) -> tuple[list[np.ndarray], list[bool]]:
    """Of each clicked photo the part under the click; of the others the parts that look like it. And of which photos
    nothing was found at the click: what stays is a guess about the place.
    """
    kept, nowhere = list(masks), [False] * len(masks)
    for i, click in enumerate(clicks):
        if click is None:
            continue
        boxed = [in_box(one, click) for one in (masks[i], maps[i])]
        found = [(one, part) for one in boxed if (part := component_at(one, click)).any()]
        nowhere[i] = not found
        kept[i] = _only(found[0][1], found[0][0]) if found else guess_about(click, masks[i].shape)
    looks = [together.colours(i, kept[i] > 0.5) for i, click in enumerate(clicks) if click and not nowhere[i]]
    if looks:
        for i, click in enumerate(clicks):
            if click is None:
                kept[i] = _most_alike(kept[i], np.mean(looks, 0), i, together)
    return kept, nowhere


def _most_alike(mask: np.ndarray, looks: np.ndarray, index: int, together: Cosegmentation) -> np.ndarray:
    """The mask without those of its parts that look less like the clicked object than the best of them."""
    labels, count = parts_of(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    parts = [k + 1 for k in range(count) if sizes[k] >= 0.1 * sizes.max()] if count else []
    if len(parts) < 2:
        return mask
    likeness = {k: float(np.sqrt(together.colours(index, labels == k) * looks).sum()) for k in parts}
    wanted = [k for k in parts if likeness[k] >= _ALIKE * max(likeness.values())]
    return _only(np.isin(labels, wanted), mask)


def _without_neighbours(
    subject: SubjectSet, masks: Sequence[np.ndarray], clicks: Mapping[str, Click]
) -> tuple[list[np.ndarray], list[float]]:
    """The masks without small parts that the frame cuts off, and how much of each was taken away, of the largest part.

    What reaches in from the side is not what was photographed, unless it has the colours of the subject in the other
    photos as much as the largest part has. Clicked photos stay as they are.
    """
    together, inside = None, []
    if len(masks) > 1:
        together = Cosegmentation([raw_masks.small(photo.pixels) for photo in subject.photos], edges=False)
        inside = [together.colours(i, raw_masks.shrunk(m, subject.photos[i]) > 0.5) for i, m in enumerate(masks)]
    kept, shares = [], []
    for i, (mask, photo) in enumerate(zip(masks, subject.photos, strict=True)):
        labels, count = parts_of(mask)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        at_frame = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        small = [int(k) for k in at_frame if k and sizes[k - 1] < _NEIGHBOUR * sizes.max()]
        if together is not None and small:
            rest = np.mean([own for k, own in enumerate(inside) if k != i], 0)

            def alike(part: int, labels=labels, rest=rest, i=i, photo=photo, together=together) -> float:
                own = raw_masks.shrunk((labels == part).astype(np.float32), photo) > 0.5
                return float(np.sqrt(together.colours(i, own) * rest).sum())

            main = alike(int(sizes.argmax()) + 1)
            small = [part for part in small if alike(part) < _ALIKE * main]
        if photo.name in clicks or not small:
            kept.append(mask)
            shares.append(0.0)
            continue
        nearest: Any = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
        kept.append(np.where(np.isin(labels[tuple(nearest)], small), 0, mask))  # with the soft edge that belongs to it
        shares.append(float(np.isin(labels, small).sum() / sizes.max()))
    return kept, shares


def _evidence(
    subject: SubjectSet, masks: Sequence[np.ndarray], confidence: Sequence[float], used: tuple[str, ...]
) -> list[Evidence]:
    if len(masks) < 2:
        return [Evidence(c, sources=used) for c in confidence]
    together = Cosegmentation([raw_masks.small(photo.pixels) for photo in subject.photos], edges=False)
    small = [raw_masks.shrunk(mask, photo) for mask, photo in zip(masks, subject.photos, strict=True)]
    return [Evidence(sure, *recurs, used)
            for sure, recurs in zip(confidence, _recurrence(together, small), strict=True)]  # fmt: skip


def _given(subject: SubjectSet, given: Sequence[Tensor] | None) -> list[Tensor]:
    """The external masks, checked; without any, the photos' own transparency."""
    if given is not None and len(given) != len(subject):
        raise AttractorError(
            f"masks: {len(given)} mask{'s' if len(given) != 1 else ''} for {len(subject)} photos. Give one for each "
            "photo, in the order of the photos."
        )
    found = []
    for i, photo in enumerate(subject.photos):
        mask = given[i] if given is not None else photo.mask
        if mask is None:
            raise AttractorError(
                f"{photo.name}: back end 'external' needs the masks input (or a photo with transparency): connect a "
                "MASK for each photo."
            )
        found.append(check_mask(mask, photo.size, photo.name))
    return found
