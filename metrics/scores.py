"""Scores on photos that nothing was learnt from, between a floor and a ceiling, with the train photos beside them.

Every formula, with its source, is in docs/scoring.md.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.prompts import spoken
from ..training.photos import Photo, SubjectSet
from ..training.run_card import photos_behind
from .copies import SMALLEST, Copies, copy_check, pixel_copies, real_pairs
from .duplicates import find_matches
from .encoders import Encoder
from .gallery import Retrieval, retrieve
from .generations import Generations
from .regions import REGIONS, Finder, mask_of, masks_of, only, shift
from .report import Report
from .splits import check_disjoint
from .statistics import Difference, between_groups, family, paired

_AT_ONCE = 32  # pictures that are prepared at a time


@dataclass(frozen=True)
class Score:
    """What one encoder says of one region. All similarities are cosines, averaged over the pictures.

    kind "image": held_out and train are similarities to those photos, memorisation_gap is (train - held_out) less the
    same difference for the base model and gap the same with its certainty over prompts and photos, ceiling is the held-
    out photos against one another (None with fewer than two), floor the base model's pictures against the held-out
    photos, diversity the mean of 1 - cosine between seeds of one prompt, leak (background only) how far backgrounds
    moved toward the train photos', copies the copy check, retrieval the ranks among look-alikes.
    kind "text": text is the similarity of picture and prompt, with the class word in the subject's place, floor the
    same for the base model, chance and chance_floor those of pictures and the other prompts, follows and follows_floor
    the differences of the two (None with one prompt); beyond_chance and beyond_chance_floor of each picture as well.
    over_floor: what the pictures are above the base model's of the same prompts and seeds, with prompts as units.
    What needs the base model's pictures is None without them.
    """

    kind: str
    stamp: dict[str, str]
    region: str = "whole"
    held_out: float | None = None
    train: float | None = None
    memorisation_gap: float | None = None
    ceiling: float | None = None
    floor: float | None = None
    text: float | None = None
    chance: float | None = None
    chance_floor: float | None = None
    follows: Difference | None = None
    follows_floor: Difference | None = None
    pictures: list[dict] = field(default_factory=list)
    over_floor: Difference | None = None
    gap: Difference | None = None
    leak: Difference | None = None
    diversity: float | None = None
    diversity_floor: float | None = None
    copies: Copies | None = None
    retrieval: Retrieval | None = None


@dataclass(frozen=True)
class _Seen:
    """Features of one region: pictures and base [B, D], train [N, D], held_out [M, D], others [K, D]."""

    pictures: Tensor
    base: Tensor | None
    train: Tensor
    held_out: Tensor
    others: Tensor | None


@dataclass(frozen=True)
class _Masks:
    """Of pictures and base [B, H, W], and of photos by SHA-256."""

    pictures: Tensor
    base: Tensor | None
    photos: dict[str, Tensor]


class _Looks:
    """Goes through pictures batch by batch, and tells `watch` how far it has come."""

    def __init__(self, watch: Callable[[int, int], None], total: int):
        self._watch, self._done, self._total = watch, 0, total

    def over(self, images: Tensor, look: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """What `look` gives for all batches of pictures [B, 3, H, W], in one tensor [B, ...]."""
        found = []
        for start in range(0, len(images), _AT_ONCE):
            self._watch(self._done, self._total)
            place = slice(start, start + _AT_ONCE)
            found.append(look(images[place], place))
            self._done += 1
        return torch.cat(found)


def score(
    generations: Generations, base: Generations | None, train: SubjectSet, held_out: SubjectSet,
    encoders: Sequence[Encoder], find: Finder | None = None, look_alikes: Sequence[Photo] = (),
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Report:  # fmt: skip
    """Score pictures of a concept against held-out and train photos with every encoder.

    base: pictures of the same prompts and seeds without the concept. find: sees the subject in a picture that came
    without a mask, for scores of the subject alone and of the background alone; without it all need masks, or none.
    look_alikes: photos of other things, for the retrieval rank.
    watch: told how many batches of pictures of how many have been looked at; what it raises ends the scoring.
    Raises AttractorError when a held-out photo is a near-duplicate of a train photo, when a set is empty, when the two
    sets of pictures do not pair, or when a look-alike is a photo of the subject.
    """
    for name, photos in (("train", train), ("held_out", held_out)):
        if not len(photos):
            raise AttractorError(f"{name} has no photos: connect the {name.replace('_', '-')} set of Attractor_Split.")
    if base is not None:
        _check_pair(generations, base)
        base = _in_order_of(base, generations)
    _check_unseen(generations, held_out)
    _check_others(look_alikes, train, held_out)
    matches = find_matches((*train.photos, *held_out.photos))
    nearest = check_disjoint(train, held_out, matches)
    parted = find is not None or generations.masks is not None
    regions = REGIONS if parted else REGIONS[:1]
    shown = 1 if base is None else 2
    batches = shown * -(-len(generations.images) // _AT_ONCE)
    looks = _Looks(watch, batches * (len(encoders) * len(regions) + parted))
    found = None if not parted else _Masks(
        _own_masks(generations, find, looks), _own_masks(base, find, looks) if base is not None else None,
        {photo.sha256: mask_of(photo, find) for photo in (*train.photos, *held_out.photos, *look_alikes)},
    )  # fmt: skip
    together = {pair: match.kind for pair, match in matches.items() if match.kind}
    scores, pixels, looked = [], None, False
    for encoder in encoders:
        for region in regions:
            seen = _look(encoder, region, generations, base, train, held_out, look_alikes, found, looks)
            scores.append(_image_score(encoder, region, seen, generations, train, together))
            if region == "whole" and encoder.has_text:
                scores.append(_text_score(encoder, seen, generations))
            if region == "whole" and not looked:
                pixels, looked = pixel_copies(generations.images, seen.pictures @ seen.train.T, train), True
    evidence = asdict(nearest) if nearest else {}
    return Report(_one_family(scores), generations, train, held_out, evidence, base, pixels)


def _own_masks(made: Generations, find: Finder | None, looks: _Looks) -> Tensor:
    """Those that came with the pictures, or what `find` sees."""
    if made.masks is not None:
        return made.masks
    if find is None:
        raise AttractorError(
            "base_masks is not connected, while picture_masks is: connect masks of base_generations too, or let "
            "saliency find what has none (regions)."
        )
    return looks.over(made.images, lambda part, _: masks_of(part, find))


def _look(
    encoder: Encoder, region: str, generations: Generations, base: Generations | None, train: SubjectSet,
    held_out: SubjectSet, others: Sequence[Photo], masks: _Masks | None, looks: _Looks,
) -> _Seen:  # fmt: skip
    of_photos = masks.photos if masks and region != "whole" else None

    def features(images: Tensor, own: Tensor | None) -> Tensor:
        def look(part: Tensor, place: slice) -> Tensor:
            return encoder.images(part if own is None or region == "whole" else only(region, part, own[place]))

        return looks.over(images, look)

    return _Seen(
        features(generations.images, masks.pictures if masks else None),
        features(base.images, masks.base if masks else None) if base is not None else None,
        photo_features(encoder, train.photos, region, of_photos),
        photo_features(encoder, held_out.photos, region, of_photos),
        photo_features(encoder, others, region, of_photos) if others and region != "background" else None,
    )


def photo_features(
    encoder: Encoder, photos: Sequence[Photo], region: str = "whole", masks: dict[str, Tensor] | None = None
) -> Tensor:
    """Features [N, D] of photos of any sizes; the last are kept, by photo, mask and encoder. masks: by SHA-256."""
    found = []
    for photo in photos:
        mask = masks[photo.sha256] if masks is not None else None
        shape = hashlib.sha256(mask.numpy().tobytes()).hexdigest() if mask is not None else ""
        key = (photo.sha256, photo.size, region, shape, *sorted(encoder.stamp.items()))
        if key not in _KEPT:
            image = photo.pixels[None] if mask is None else only(region, photo.pixels[None], mask[None])
            _KEPT[key] = encoder.images(image)
            while len(_KEPT) > _KEPT_PHOTOS:
                _KEPT.popitem(last=False)
        found.append(_KEPT[key])
    return torch.cat(found)


_KEPT: OrderedDict[tuple, Tensor] = OrderedDict()
_KEPT_PHOTOS = 4096


def _check_unseen(generations: Generations, held_out: SubjectSet) -> None:
    """Raise AttractorError when the concept was trained on a held-out photo, by its own run card."""
    seen = {*generations.trained_on, *(photos_behind(generations.concept) if generations.concept else ())}
    trained = [photo.name for photo in held_out.photos if photo.sha256 in seen]
    if trained:
        raise AttractorError(
            f"The concept was trained on {', '.join(trained)}, which the held-out set holds: a score on it would be "
            "graded on the training data. Score with the split that the concept was trained with."
        )


def _check_others(look_alikes: Sequence[Photo], train: SubjectSet, held_out: SubjectSet) -> None:
    if not look_alikes:
        return
    large = min(min(photo.size) for photo in look_alikes) >= SMALLEST  # small ones look alike to local features
    own, count = (*train.photos, *held_out.photos), len(look_alikes)
    matches = find_matches((*look_alikes, *own)) if large else {}
    copies = {i for (i, j), match in matches.items() if i < count <= j and match.kind == "duplicate"}
    known = {photo.pixels.numpy().tobytes() for photo in own}
    twice = [p.name for i, p in enumerate(look_alikes) if i in copies or p.pixels.numpy().tobytes() in known]
    if twice:
        raise AttractorError(f"look_alikes holds the subject itself: {', '.join(twice)}. Give photos of other things.")


def _check_pair(generations: Generations, base: Generations) -> None:
    """Raise AttractorError unless base is the same pictures without the concept."""
    if base.concept is not None:
        raise AttractorError(
            "base_generations was painted with a concept: connect an Attractor_SampleGrid without one there."
        )
    own, floor = (" ".join(one.class_word.lower().split()) for one in (generations, base))
    if generations.concept is not None and own and floor and own != floor:
        raise AttractorError(
            f"base_generations shows what the model makes of {floor!r}, and the concept is of {own!r}, so it is no "
            f"floor: write {own!r} into class_word of the Attractor_SampleGrid without a concept."
        )
    if sorted(base.keys) != sorted(generations.keys):
        raise AttractorError(
            "base_generations has other prompts or seeds than generations, so the two cannot be compared: give both "
            "Attractor_SampleGrid nodes the same prompts, seeds and sampler settings."
        )
    if base.items[0].settings != generations.items[0].settings or base.base_model != generations.base_model:
        raise AttractorError(
            "base_generations was painted with other sampler settings or another model than generations: give both "
            "Attractor_SampleGrid nodes the same MODEL, CLIP and VAE (with the same LoRAs and patches, or none), size, "
            "steps, cfg, sampler and scheduler."
        )


def _image_score(
    encoder: Encoder, region: str, seen: _Seen, generations: Generations, train: SubjectSet,
    together: dict[tuple[int, int], str],
) -> Score:  # fmt: skip
    to_train, to_held = seen.pictures @ seen.train.T, seen.pictures @ seen.held_out.T
    floor = over = gap = moved = None
    more = 0.0
    if seen.base is not None:
        base_train, base_held = seen.base @ seen.train.T, seen.base @ seen.held_out.T
        floor, over = float(base_held.mean()), _over(to_held.mean(1), base_held.mean(1), generations)
        nearer = to_train - base_train, to_held - base_held
        gap = between_groups(*(one.numpy() for one in nearer), units=[item.prompt for item in generations.items])
        more = float(nearer[0].mean() - nearer[1].mean())
        if region == "background":
            moved = shift(seen.pictures, seen.base, seen.train, [item.prompt for item in generations.items])
    rows = [
        {
            "prompt": item.prompt,
            "seed": item.seed,
            "held_out": round(float(to_held[i].mean()), 5),
            "train": round(float(to_train[i].mean()), 5),
            "nearest_train_photo": train.photos[int(to_train[i].argmax())].sha256,
            "nearest_train_similarity": round(float(to_train[i].max()), 5),
            **({"leak": round(float(moved[i]), 5)} if moved is not None else {}),
        }
        for i, item in enumerate(generations.items)
    ]
    copies = None
    if region == "whole":
        real = real_pairs(seen.train, seen.held_out, together)
        copies = copy_check(to_train.max(1).values, real, encoder.stamp["encoder"])
    return Score(
        "image", encoder.stamp, region, held_out=float(to_held.mean()), train=float(to_train.mean()),
        memorisation_gap=more if seen.base is not None else None,
        ceiling=_ceiling(seen.held_out), floor=floor, pictures=rows, over_floor=over, gap=gap,
        leak=_over(moved, torch.zeros_like(moved), generations) if moved is not None else None,
        diversity=_diversity(seen.pictures, generations),
        diversity_floor=_diversity(seen.base, generations) if seen.base is not None else None,
        copies=copies,
        retrieval=retrieve(seen.pictures, seen.held_out, seen.others) if seen.others is not None else None,
    )  # fmt: skip


def _text_score(encoder: Encoder, seen: _Seen, generations: Generations) -> Score:
    if not generations.class_word:
        raise AttractorError(
            "The concept does not say what it is, so a prompt with <subject> in it cannot be read: give class_word in "
            "Attractor_SampleGrid."
        )
    prompts = [spoken(item.prompt, generations.class_word) for item in generations.items]
    distinct = list(dict.fromkeys(prompts))
    own = torch.tensor([distinct.index(prompt) for prompt in prompts])
    texts = encoder.texts(distinct)
    values, others = _own_and_others(seen.pictures, texts, own)
    rows = [
        {"prompt": item.prompt, "seed": item.seed, "text": round(float(v), 5)}
        for item, v in zip(generations.items, values, strict=True)
    ]
    found = Score("text", encoder.stamp, text=float(values.mean()), pictures=rows)
    if others is not None:
        found = replace(found, chance=float(others.mean()), follows=_over(values, others, generations))
    if seen.base is None:
        return found
    plain, plain_others = _own_and_others(seen.base, texts, own)
    found = replace(found, floor=float(plain.mean()), over_floor=_over(values, plain, generations))
    if plain_others is None:
        return found
    if others is not None:
        for row, own_margin, floor in zip(rows, values - others, plain - plain_others, strict=True):
            row |= {"beyond_chance": round(float(own_margin), 5), "beyond_chance_floor": round(float(floor), 5)}
    return replace(found, chance_floor=float(plain_others.mean()),
                   follows_floor=_over(plain, plain_others, generations))  # fmt: skip


def _own_and_others(pictures: Tensor, texts: Tensor, own: Tensor) -> tuple[Tensor, Tensor | None]:
    """Similarity of each picture to its own prompt, and its mean to the others; None where there are none."""
    to_all = pictures @ texts.T
    values = to_all.gather(1, own[:, None])[:, 0]
    return values, (to_all.sum(1) - values) / (len(texts) - 1) if len(texts) > 1 else None


def _in_order_of(base: Generations, generations: Generations) -> Generations:
    """The base model's pictures in the order of the same prompts and seeds."""
    place = {key: i for i, key in enumerate(base.keys)}
    order = [place[key] for key in generations.keys]
    masks = base.masks[order] if base.masks is not None else None
    return replace(base, images=base.images[order], items=tuple(base.items[i] for i in order), masks=masks)


def _over(values: Tensor, floor: Tensor, generations: Generations) -> Difference:
    return paired(values.tolist(), floor.tolist(), [item.prompt for item in generations.items])


def _one_family(scores: list[Score]) -> list[Score]:
    """The scores with p adjusted for all tests of whole pictures, and for all of the subject or background alone, which
    are looked at beside them and must not cost them their certainty.
    """
    for whole in (True, False):
        places = [(i, name) for i, s in enumerate(scores) for name in ("over_floor", "gap", "leak")
                  if getattr(s, name) is not None and (s.region == "whole") is whole]  # fmt: skip
        for (i, name), found in zip(places, family([getattr(scores[i], name) for i, name in places]), strict=True):
            scores[i] = replace(scores[i], **{name: found})
    return scores


def _ceiling(features: Tensor) -> float | None:
    count = len(features)
    if count < 2:
        return None
    return float(((features @ features.T).sum() - count) / (count * (count - 1)))


def _diversity(features: Tensor, generations: Generations) -> float | None:
    """Mean over prompts of 1 - cosine between pictures of two seeds; None where no prompt has two."""
    found = []
    for prompt in dict.fromkeys(item.prompt for item in generations.items):
        own = features[[i for i, item in enumerate(generations.items) if item.prompt == prompt]]
        if (mean := _ceiling(own)) is not None:
            found.append(1 - mean)
    return sum(found) / len(found) if found else None
