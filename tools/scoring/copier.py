"""A generator that only copies its training photos beside one that does not: the field's score, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ...metrics.encoders import load_encoder
from ...metrics.generations import Generated, Generations
from ...metrics.scores import score
from ...metrics.splits import split_set
from ...training.photos import Photo, SubjectSet, read_folder

_PICTURES = 8
_LEAST = 5  # photos of a subject: two to train on, two held out, and one or more that only the honest one paints
_RANKS = ("good", "fair", "unknown", "poor", "copies")  # verdicts from best to worst
_COLOURS = {"good": "#2b7a4b", "fair": "#97660f", "poor": "#b3345a", "copies": "#6b1136", "unknown": "#5d6975"}


@dataclass(frozen=True)
class Found:
    """Of one subject and generator: the field's score (similarity to train photos), ours (to held-out ones), grade."""

    subject: str
    generator: str
    field: float
    held_out: float
    grade: str


def measure(folder: Path) -> list[Found]:
    """Both generators on each subject with five photos or more; the base model paints the next subject's photos."""
    encoder = load_encoder("efficientnet-lite0", [])
    sets = [read_folder(path, path.name.replace("_", " ")) for path in sorted(folder.iterdir()) if path.is_dir()]
    found = []
    for place, subject in enumerate(sets):
        if len(subject) < _LEAST:
            continue
        split = split_set(subject, 2, 0)
        train, unseen = split.train.with_photos(split.train.photos[:2]), split.train.photos[2:]
        base = paint(sets[(place + 1) % len(sets)].photos, subject)
        for generator, photos in (("copies its photos", train.photos), ("paints other photos", unseen)):
            report = score(paint(photos, subject), base, train, split.held_out, [encoder])
            whole = report.scores[0]
            name = subject.class_word
            found.append(Found(name, generator, whole.train or 0, whole.held_out or 0, report.verdict.grade))
            print(f"{name:20s} {generator:20s} CLIP-I {whole.train:.3f} held-out {whole.held_out:.3f} "
                  f"{report.verdict.headline}", flush=True)  # fmt: skip
    return found


def paint(photos: Sequence[Photo], subject: SubjectSet, side: int = 224) -> Generations:
    """A generator that gives these photos in turn, each time cut a little otherwise, for as many prompts."""
    images = torch.stack([_cut(photos[i % len(photos)].pixels, i, side) for i in range(_PICTURES)])
    items = tuple(Generated(f"a <subject>, {i}", 0, {}) for i in range(_PICTURES))
    return Generations(images, items, subject.class_word)


def _cut(pixels: Tensor, place: int, side: int) -> Tensor:
    height, width = pixels.shape[-2:]
    short = int(min(height, width) * (0.96 - 0.02 * (place % 4)))
    top = (height - short) * (1 + place % 3) // 4
    left = (width - short) * (1 + place % 2) // 3
    cut = pixels[None, :, top : top + short, left : left + short]
    return F.interpolate(cut, (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def figures(found: Sequence[Found]) -> dict[str, float]:
    """Shares of subjects: where the field's score prefers the copier, where the copier's verdict is worse."""
    pairs = list(zip(found[::2], found[1::2], strict=True))
    return {
        "copier.subjects": float(len(pairs)),
        "copier.field_prefers_it": sum(c.field > h.field for c, h in pairs) / len(pairs),
        "copier.verdict_is_worse": sum(_RANKS.index(c.grade) > _RANKS.index(h.grade) for c, h in pairs) / len(pairs),
        "copier.called_a_copier": sum(c.grade == "copies" for c, _ in pairs) / len(pairs),
        "copier.honest_called_a_copier": sum(h.grade == "copies" for _, h in pairs) / len(pairs),
        "copier.field_copier": sum(c.field for c, _ in pairs) / len(pairs),
        "copier.field_honest": sum(h.field for _, h in pairs) / len(pairs),
    }


def chart(found: Sequence[Found], path: Path) -> None:
    """The field's score as dots, the verdict as words."""
    pairs = list(zip(found[::2], found[1::2], strict=True))
    figure = Figure(figsize=(8.6, 1.3 + 0.3 * len(pairs)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    scores, words = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1.7))
    for i, (copier, honest) in enumerate(reversed(pairs)):
        scores.plot([honest.field, copier.field], [i, i], color="#cfd4d9", linewidth=2, zorder=1)
        scores.plot([copier.field], [i], "o", color="#6b1136", label="copies its photos" if i == 0 else None)
        scores.plot([honest.field], [i], "o", color="#1f6f8b", label="paints other photos" if i == 0 else None)
        for x, one in ((0, copier), (1, honest)):
            box = {"boxstyle": "round,pad=0.25", "facecolor": _COLOURS[one.grade], "edgecolor": "none"}
            words.text(x, i, one.grade, ha="center", va="center", color="white", fontsize=8, weight="bold", bbox=box)
    scores.set_yticks(range(len(pairs)), [copier.subject for copier, _ in reversed(pairs)], fontsize=8)
    scores.set_xlabel("the field's score: similarity to train photos", fontsize=9)
    scores.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.1), ncols=2)
    words.set_xticks([0, 1], ["copies\nits photos", "paints\nother photos"], fontsize=8)
    words.set_xlim(-0.6, 1.6)
    words.set_title("verdict here", fontsize=9)
    words.tick_params(length=0)
    for axes in (scores, words):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    words.spines[["left", "bottom"]].set_visible(False)
    figure.savefig(path)
