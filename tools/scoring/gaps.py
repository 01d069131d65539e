"""How often a memorisation gap is found where there is none, and where there is nothing but one, on real photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...metrics.encoders import load_encoder
from ...metrics.scores import photo_features
from ...metrics.statistics import Difference, between_groups, paired
from ...training.photos import read_folder

LIMITS = (0.1, 0.15)  # of the policies
_SPLITS = 60  # of a subject's photos
_PROMPTS, _HELD_OUT, _LEAST = 8, 2, 5


def measure(folder: Path) -> dict[str, float]:
    """Shares of splits of each subject's photos, by EfficientNet-Lite0.

    Of each split, two photos (one where there are five) are what an honest generator paints, two are held out and the
    rest trained on, so that it makes no difference on which side a photo is; a copier paints those that were trained
    on. The base model paints other subjects' photos.
    """
    encoder = load_encoder("efficientnet-lite0", [])
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    features = [photo_features(encoder, read_folder(path, "thing").photos).numpy() for path in folders]
    generator = np.random.default_rng(0)
    found: dict[str, list[tuple[Difference, Difference]]] = {"honest": [], "copier": []}
    for place, photos in enumerate(features):
        if len(photos) < _LEAST:
            continue
        others = np.concatenate([own for i, own in enumerate(features) if i != place])
        for _ in range(_SPLITS):
            order = generator.permutation(len(photos))
            unseen, held_out, train = np.split(photos[order], np.cumsum([1 + (len(photos) > _LEAST), _HELD_OUT]))
            base = others[generator.choice(len(others), _PROMPTS)]
            for name, painted in (("honest", unseen), ("copier", train)):
                found[name].append(_gaps(np.resize(painted, (_PROMPTS, photos.shape[1])), base, train, held_out))
    figures = {"gap.splits": float(len(found["honest"]))}
    for name, gaps in found.items():
        figures |= {f"gap.{name}_certain": _share([gap for gap, _ in gaps]),
                    f"gap.{name}_certain_by_prompts_alone": _share([gap for _, gap in gaps])}  # fmt: skip
        figures |= {f"gap.{name}_above_{limit}": float(np.mean([gap.mean > limit for gap, _ in gaps]))
                    for limit in LIMITS}  # fmt: skip
        figures |= {f"gap.{name}_upper_end_above_{limit}": float(np.mean([(gap.high or 0) > limit for gap, _ in gaps]))
                    for limit in LIMITS}  # fmt: skip
    return figures


def _gaps(
    pictures: np.ndarray, base: np.ndarray, train: np.ndarray, held_out: np.ndarray
) -> tuple[Difference, Difference]:
    """The gap of pictures [P, D] as a report has it, and with prompts alone as units."""
    to_train, to_held_out = ((pictures - base) @ photos.T for photos in (train, held_out))
    prompts = range(len(pictures))
    return between_groups(to_train, to_held_out, prompts), paired(to_train.mean(1), to_held_out.mean(1), prompts)


def _share(gaps: Sequence[Difference]) -> float:
    return float(np.mean([(gap.low or 0) > 0 for gap in gaps]))
