"""From readings to figures: leak in excess of the floor, fidelity, gap, diversity, with cluster-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..judge import truth
from .cases import GRADES, Case
from .runs import border

SUBJECT_FACTORS = ("kind", "pattern", "colour", "colour2", "badge", "badge_colour")
MEASURES = ("leak", "leak_share", "subject", "prompt", "gap", "held_out", "diversity", "seconds", "steps")


@dataclass(frozen=True)
class Measured:
    """The figures of one run: subject (the cluster), training seed, and a number for every measure."""

    subject: int
    seed: int
    values: dict[str, float]


def measure(case: Case, result: dict, floor: dict, pictures: int) -> Measured:
    """All figures of a run. `leak` is the continuous shift, `leak_share` the count, both in excess of the floor.

    leak: slope of the least-squares line from the floor's border colours to the training photos' mean border, over
    all pictures; 0 stays at the floor, 1 goes all the way. `leak.<grade>` and `leak_share.<grade>` are by grade.
    subject: share of the six factors that the judge reads rightly (`subject.<factor>` each). prompt: share of pictures
    whose background is as asked, over the prompts that ask. gap: memorisation gap in the demo's own text-image
    encoder. diversity: mean cosine distance between the pictures of one prompt.
    """
    grade = np.repeat([p.grade for p in case.prompts], pictures)
    values: dict[str, float] = {}
    along, length = _shift(case, result, floor)
    mine, theirs = _on_training_background(case, result), _on_training_background(case, floor)
    values["leak"], values["leak_share"] = along.sum() / length.sum(), float((mine - theirs).mean())
    for name in GRADES:
        here = grade == name
        values[f"leak.{name}"] = along[here].sum() / length[here].sum()
        values[f"leak_share.{name}"] = float((mine - theirs)[here].mean())
    right = {name: np.asarray(result["read"][name]) == _truth(case)[name] for name in SUBJECT_FACTORS}
    values |= {f"subject.{name}": float(hits.mean()) for name, hits in right.items()}
    values["subject"] = float(np.mean([hits.mean() for hits in right.values()]))
    obeyed, asked = _obeyed(case, result, pictures)
    values["prompt"] = float(obeyed[asked].mean())
    values["prompt.full"] = float(obeyed[grade == "full"].mean())
    gap = np.mean(result["to_train"]) - np.mean(result["to_held_out"])
    values["gap"] = float(gap - np.mean(floor["to_train"]) + np.mean(floor["to_held_out"]))
    values["held_out"] = float(np.mean(result["to_held_out"]))
    values |= {name: float(result[name]) for name in ("diversity", "seconds", "steps", "mask_iou")}
    return Measured(case.number, result["seed"], values)


def _truth(case: Case) -> dict[str, str]:
    return truth(case.photos[0][0].scene)


def _shift(case: Case, result: dict, floor: dict) -> tuple[np.ndarray, np.ndarray]:
    photos = torch.stack([torch.from_numpy(p.image.copy()).permute(2, 0, 1).float() for p in case.photos[0]])
    target = border(photos).mean(0).numpy()
    start, now = np.asarray(floor["border"]), np.asarray(result["border"])
    way = target - start
    return ((now - start) * way).sum(1), (way * way).sum(1)


def _on_training_background(case: Case, result: dict) -> np.ndarray:
    seen = zip(result["read"]["background"], result["read"]["background_colour"], strict=True)
    return np.asarray([pair in case.backgrounds for pair in seen], dtype=float)


def _obeyed(case: Case, result: dict, pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each picture's background is as its prompt says, and whether the prompt says anything."""
    kind, colour = result["read"]["background"], result["read"]["background_colour"]
    prompts = [p for p in case.prompts for _ in range(pictures)]
    obeyed = [p.background in (None, k) and p.colour in (None, c)
              for p, k, c in zip(prompts, kind, colour, strict=True)]  # fmt: skip
    return np.asarray(obeyed), np.asarray([p.grade != "bare" for p in prompts])


class Bootstrap:
    """A cluster bootstrap: subjects are drawn with replacement, then training seeds within each.

    The same draws serve every method, so that differences and ratios are paired. Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.8.
    """

    def __init__(self, subjects: Sequence[int], seeds: Sequence[int], draws: int = 2000, seed: int = 0):
        rng = np.random.default_rng((seed, 71))
        self.subjects, self.seeds = list(subjects), list(seeds)
        count = (draws, len(self.subjects))
        self._subject = rng.integers(len(self.subjects), size=count)
        self._seed = rng.integers(len(self.seeds), size=(*count, len(self.seeds)))

    def table(self, runs: Sequence[Measured], measure: str) -> np.ndarray:
        """Values [subjects, seeds] of one measure. A method without seeds (the floor) counts for each."""
        found = np.full((len(self.subjects), len(self.seeds)), np.nan)
        for run in runs:
            found[self.subjects.index(run.subject), self.seeds.index(run.seed)] = run.values[measure]
        if np.isnan(found).any():
            raise ValueError(f"{measure}: {int(np.isnan(found).sum())} runs are missing")
        return found

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of every draw, [draws]."""
        return values[self._subject[..., None], self._seed].mean((1, 2))

    def interval(self, *tables: np.ndarray, of: Callable = lambda x: x) -> tuple[float, float, float]:
        """A statistic of one or more means, and its 95% percentile interval."""
        value = float(of(*(t.mean() for t in tables)))
        low, high = np.percentile(of(*(self.means(t) for t in tables)), [2.5, 97.5])
        return value, float(low), float(high)
