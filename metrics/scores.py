"""Scores on photos that training never saw, between a floor and a ceiling, with the train photos beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.prompts import spoken
from ..training.photos import SubjectSet
from .encoders import Encoder
from .generations import Generations
from .splits import check_disjoint
from .statistics import Difference, paired


@dataclass(frozen=True)
class Score:
    """What one encoder says. All figures are cosine similarities, averaged over the pictures.

    kind "image": held_out and train are similarities to those photos, memorisation_gap is (train - held_out) less
    the same difference for the base model, ceiling is the held-out photos against one another (None with fewer than
    two), floor the base model's pictures against the held-out photos (None without them).
    kind "text": text is the similarity of picture and prompt, with the class word in the subject's place, and floor
    the same for the base model.
    over_floor: what the pictures are above the base model's of the same prompts and seeds, with prompts as units.
    """

    kind: str
    stamp: dict[str, str]
    held_out: float | None = None
    train: float | None = None
    memorisation_gap: float | None = None
    ceiling: float | None = None
    floor: float | None = None
    text: float | None = None
    pictures: list[dict] = field(default_factory=list)
    over_floor: Difference | None = None


@dataclass(frozen=True)
class Report:
    """All scores of one concept on one split, with what they were measured on."""

    scores: list[Score]
    generations: Generations
    train: SubjectSet
    held_out: SubjectSet
    nearest_pair: dict
    base: Generations | None = None

    @property
    def stopped_by_held_out(self) -> bool:
        """True when these held-out photos chose the training step that was kept."""
        card = self.generations.concept.run_card if self.generations.concept else {}
        return bool({p.sha256 for p in self.held_out.photos} & set(card.get("held_out_photos") or []))

    def as_dict(self) -> dict:
        """Everything but the pictures, for report.json."""
        concept = self.generations.concept
        return {
            "format": 1,
            "class_word": self.generations.class_word,
            "concept_sha256": concept.sha256 if concept else None,
            "run_card": concept.run_card if concept else None,
            "train_photos": [p.sha256 for p in self.train.photos],
            "held_out_photos": [p.sha256 for p in self.held_out.photos],
            "split_certificate": self.train.certificate.sha256 if self.train.certificate else None,
            "nearest_pair_across_the_split": self.nearest_pair,
            "held_out_photos_chose_the_step": self.stopped_by_held_out,
            "prompt_token_replaced_by": self.generations.class_word,
            "pictures": [asdict(item) for item in self.generations.items],
            "scores": [asdict(score) for score in self.scores],
        }

    @property
    def sha256(self) -> str:
        """Hash of the report's figures."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def text(self) -> str:
        """The figures in lines that a person can read."""
        lines = []
        for s in self.scores:
            lines.append(f"{s.stamp['encoder']} ({s.stamp['scale']}, weights {s.stamp['weights'][:12]})")
            if s.kind == "image":
                lines.append(
                    f"  similarity to held-out photos {_number(s.held_out)} (floor {_number(s.floor)}, ceiling "
                    f"{_number(s.ceiling)}); to train photos {_number(s.train)}; memorisation gap "
                    f"{_number(s.memorisation_gap)}"
                )
            else:
                word = self.generations.class_word
                lines.append(
                    f"  similarity to the prompt, read with {word!r} for <subject>: {_number(s.text)} "
                    f"(base model {_number(s.floor)})"
                )
            if s.over_floor is not None:
                lines.append(f"  above the floor by {_sure(s.over_floor)}")
        if self.stopped_by_held_out:
            lines.append("The held-out photos also chose the step to keep; they were not trained on.")
        count = len(self.generations.items)
        lines.append(f"{count} pictures; {len(self.held_out)} held-out and {len(self.train)} train photos of one "
                     "subject: the figures speak of this subject only.")
        return "\n".join(lines)


def score(
    generations: Generations, base: Generations | None, train: SubjectSet, held_out: SubjectSet,
    encoders: Sequence[Encoder],
) -> Report:  # fmt: skip
    """Score pictures of a concept against held-out and train photos with every encoder.

    base: pictures of the same prompts and seeds without the concept. Raises AttractorError when a held-out photo is
    a near-duplicate of a train photo, when a set is empty, or when the two sets of pictures do not pair.
    """
    for name, photos in (("train", train), ("held_out", held_out)):
        if not len(photos):
            raise AttractorError(f"{name} has no photos: connect the {name.replace('_', '-')} set of Attractor_Split.")
    if base is not None:
        _check_pair(generations, base)
    _check_unseen(generations, held_out)
    nearest = check_disjoint(train, held_out)
    scores = []
    for encoder in encoders:
        scores.append(_image_score(encoder, generations, base, train, held_out))
        if encoder.has_text:
            scores.append(_text_score(encoder, generations, base))
    return Report(scores, generations, train, held_out, asdict(nearest) if nearest else {}, base)


def _check_unseen(generations: Generations, held_out: SubjectSet) -> None:
    """Raise AttractorError when the concept was trained on a held-out photo, by its own run card."""
    card = generations.concept.run_card if generations.concept else {}
    seen = {*(card.get("train_photos") or []), *(card.get("photos_before") or [])}
    trained = [photo.name for photo in held_out.photos if photo.sha256 in seen]
    if trained:
        raise AttractorError(
            f"The concept was trained on {', '.join(trained)}, which the held-out set holds: a score on it would be "
            "graded on the training data. Score with the split that the concept was trained with."
        )


def _check_pair(generations: Generations, base: Generations) -> None:
    """Raise AttractorError unless base is the same pictures without the concept."""
    if base.concept is not None:
        raise AttractorError(
            "base_generations was painted with a concept: connect an Attractor_SampleGrid without one there."
        )
    if sorted(base.keys) != sorted(generations.keys):
        raise AttractorError(
            "base_generations has other prompts or seeds than generations, so the two cannot be compared: give both "
            "Attractor_SampleGrid nodes the same prompts, seeds and sampler settings."
        )
    if base.items[0].settings != generations.items[0].settings or base.base_model != generations.base_model:
        raise AttractorError(
            "base_generations was painted with other sampler settings or another model than generations: give both "
            "Attractor_SampleGrid nodes the same MODEL, size, steps, cfg, sampler and scheduler."
        )


def _image_score(
    encoder: Encoder, generations: Generations, base: Generations | None, train: SubjectSet, held_out: SubjectSet
) -> Score:
    pictures = encoder.images(generations.images)
    seen, unseen = photo_features(encoder, train), photo_features(encoder, held_out)
    to_train, to_held = pictures @ seen.T, pictures @ unseen.T
    gap, floor, over = float(to_train.mean() - to_held.mean()), None, None
    if base is not None:
        base = _in_order_of(base, generations)
        plain = encoder.images(base.images)
        over = _over(to_held.mean(1), (plain @ unseen.T).mean(1), generations)
        floor = float((plain @ unseen.T).mean())
        gap -= float((plain @ seen.T).mean()) - floor
    rows = [
        {
            "prompt": item.prompt,
            "seed": item.seed,
            "held_out": round(float(to_held[i].mean()), 5),
            "train": round(float(to_train[i].mean()), 5),
            "nearest_train_photo": train.photos[int(to_train[i].argmax())].sha256,
            "nearest_train_similarity": round(float(to_train[i].max()), 5),
        }
        for i, item in enumerate(generations.items)
    ]
    return Score(
        "image", encoder.stamp, held_out=float(to_held.mean()), train=float(to_train.mean()),
        memorisation_gap=gap if base is not None else None, ceiling=_ceiling(unseen), floor=floor, pictures=rows,
        over_floor=over,
    )  # fmt: skip


def _text_score(encoder: Encoder, generations: Generations, base: Generations | None) -> Score:
    if not generations.class_word:
        raise AttractorError(
            "The concept does not say what it is, so a prompt with <subject> in it cannot be read: give class_word in "
            "Attractor_SampleGrid."
        )

    def similarity(shown: Generations) -> Tensor:
        prompts = [spoken(item.prompt, generations.class_word) for item in shown.items]
        distinct = list(dict.fromkeys(prompts))
        texts = encoder.texts(distinct)[torch.tensor([distinct.index(p) for p in prompts])]
        return (encoder.images(shown.images) * texts).sum(-1)

    values = similarity(generations)
    rows = [
        {"prompt": item.prompt, "seed": item.seed, "text": round(float(v), 5)}
        for item, v in zip(generations.items, values, strict=True)
    ]
    floor, over = None, None
    if base is not None:
        plain = similarity(_in_order_of(base, generations))
        floor, over = float(plain.mean()), _over(values, plain, generations)
    return Score("text", encoder.stamp, text=float(values.mean()), floor=floor, pictures=rows, over_floor=over)


def _in_order_of(base: Generations, generations: Generations) -> Generations:
    """The base model's pictures in the order of the same prompts and seeds."""
    place = {key: i for i, key in enumerate(base.keys)}
    order = [place[key] for key in generations.keys]
    return replace(base, images=base.images[order], items=tuple(base.items[i] for i in order))


def _over(values: Tensor, floor: Tensor, generations: Generations) -> Difference:
    return paired(values.tolist(), floor.tolist(), [item.prompt for item in generations.items])


def photo_features(encoder: Encoder, photos: SubjectSet) -> Tensor:
    """Features [N, D] of photos of any sizes."""
    return torch.cat([encoder.images(photo.pixels[None]) for photo in photos.photos])


def _ceiling(features: Tensor) -> float | None:
    count = len(features)
    if count < 2:
        return None
    return float(((features @ features.T).sum() - count) / (count * (count - 1)))


def _sure(found: Difference) -> str:
    """A difference with its interval in words."""
    if found.low is None or found.high is None or found.p is None:
        return f"{found.mean:+.3f} (one prompt: how sure that is cannot be said)"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {found.p:.3f}, over {found.units} prompts"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
