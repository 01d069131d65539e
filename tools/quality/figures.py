"""From readings to figures: leak in excess of the floor, fidelity, gap, diversity, with cluster-bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...metrics.statistics import expanded_tail
from ..judge import truth
from .cases import GRADES, Case
from .runs import border

SUBJECT_FACTORS = ("kind", "pattern", "colour", "colour2", "badge", "badge_colour")
FLOOR_PICTURES = 12  # of each prompt: the first are paired with a method's, the next are the control, the last the rest
_CONTROL, _OTHERS = 4, 8


@dataclass(frozen=True)
class Measured:
    """The figures of one run: subject (the cluster), training seed, and (numerator, denominator) of every measure.

    Means over runs are taken of both before they are divided, so that a run whose denominator is small counts little.
    """

    subject: int
    seed: int
    values: dict[str, tuple[float, float]]

    def value(self, measure: str) -> float:
        """One measure of this run alone."""
        over, under = self.values[measure]
        return over / under


@dataclass(frozen=True)
class _Pictures:
    """What was read off pictures [prompts, seeds]: border colours [P, S, 3], labels, similarities."""

    border: np.ndarray
    read: dict[str, np.ndarray]
    to_train: np.ndarray
    to_held_out: np.ndarray

    @classmethod
    def of(cls, case: Case, result: dict, first: int, count: int | None) -> _Pictures:
        prompts, last = len(case.prompts), None if count is None else first + count

        def cut(values: list) -> np.ndarray:
            array = np.asarray(values)
            return array.reshape(prompts, -1, *array.shape[1:])[:, first:last]

        return cls(cut(result["border"]), {k: cut(v) for k, v in result["read"].items()}, cut(result["to_train"]),
                   cut(result["to_held_out"]))  # fmt: skip


def measure(case: Case, result: dict, floor: dict, is_floor: bool = False) -> Measured:
    """All figures of a run, given the floor's run with FLOOR_PICTURES of each prompt.

    `leak`: continuous shift of the border's colour toward the training photos' mean, in excess of the floor. Of every
    picture the change from the floor's picture of the same prompt and seed is projected on the way from the floor's
    other pictures of that prompt (other seeds, so that chance alone gives 0) to the training photos. 0 stays at the
    floor, 1 goes all the way. `leak_share`: pictures whose background the judge reads as one of the training photos',
    less the floor's. Both leave out prompts that themselves name a kind or a colour of the training backgrounds.
    subject: share of the six factors that the judge reads rightly (`subject.<factor>` each). prompt: share of pictures
    whose background is as asked, over the prompts that ask. gap: memorisation gap in the demo's own text-image encoder.
    is_floor: the run is the floor itself: its leak is that of other seeds against the paired ones, the control.
    """
    mine = _Pictures.of(case, result, 0, _CONTROL if is_floor else None)
    seeds = mine.border.shape[1]
    paired, others = _Pictures.of(case, floor, 0, seeds), _Pictures.of(case, floor, _OTHERS, None)
    moved = _Pictures.of(case, floor, _CONTROL, seeds) if is_floor else mine
    values = _leak(case, moved, paired, others)
    right = {name: float((mine.read[name] == _truth(case)[name]).mean()) for name in SUBJECT_FACTORS}
    obeyed, grade = _obeyed(case, mine), np.asarray([p.grade for p in case.prompts])
    gap = (mine.to_train - mine.to_held_out).mean() - (paired.to_train - paired.to_held_out).mean()
    plain = {
        **{f"subject.{name}": share for name, share in right.items()}, "subject": float(np.mean(list(right.values()))),
        "prompt": float(obeyed[grade != "bare"].mean()), "prompt.full": float(obeyed[grade == "full"].mean()),
        "gap": float(gap), "held_out": float(mine.to_held_out.mean()),
        **{name: float(result[name]) for name in ("diversity", "seconds", "steps", "mask_iou")},
    }  # fmt: skip
    values |= {name: (value, 1.0) for name, value in plain.items()}
    return Measured(case.number, result["seed"], values)


def _leak(case: Case, now: _Pictures, start: _Pictures, others: _Pictures) -> dict[str, tuple[float, float]]:
    photos = torch.stack([torch.from_numpy(p.image.copy()).permute(2, 0, 1).float() for p in case.photos[0]])
    target = border(photos).mean(0).numpy()
    way = target - others.border.mean(1, keepdims=True)
    along, length = ((now.border - start.border) * way).sum(-1), ((target - start.border) * way).sum(-1)
    excess = _on_training_background(case, now) - _on_training_background(case, start)
    counted = np.asarray([not _names_training(case, p.background, p.colour) for p in case.prompts])
    grade = np.asarray([p.grade for p in case.prompts])
    values = {}
    for name in ("", *GRADES):
        here = counted & (grade == name) if name else counted
        tail = f".{name}" if name else ""
        values[f"leak{tail}"] = float(along[here].sum()), float(length[here].sum())
        values[f"leak_share{tail}"] = float(excess[here].sum()), float(excess[here].size)
    return values


def _names_training(case: Case, kind: str | None, colour: str | None) -> bool:
    """A half-named background whose named half is a training background's: obeying it is no leak."""
    if (kind is None) == (colour is None):
        return False
    return any(kind == k or colour == c for k, c in case.backgrounds)


def _truth(case: Case) -> dict[str, str]:
    return truth(case.photos[0][0].scene)


def _on_training_background(case: Case, pictures: _Pictures) -> np.ndarray:
    kind, colour = pictures.read["background"], pictures.read["background_colour"]
    return np.any([(kind == k) & (colour == c) for k, c in case.backgrounds], axis=0).astype(float)


def _obeyed(case: Case, pictures: _Pictures) -> np.ndarray:
    """Whether each picture's background is as its prompt says, bool [prompts, seeds]."""
    kind, colour = pictures.read["background"], pictures.read["background_colour"]
    rows = []
    for i, prompt in enumerate(case.prompts):
        right = np.ones(kind.shape[1], dtype=bool)
        if prompt.background is not None:
            right &= kind[i] == prompt.background
        if prompt.colour is not None:
            right &= colour[i] == prompt.colour
        rows.append(right)
    return np.stack(rows)


class Bootstrap:
    """A cluster bootstrap: subjects are drawn with replacement, then training seeds within each.

    The same draws serve every method, so that differences and ratios are paired. Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, section 3.8.
    """

    def __init__(self, subjects: Sequence[int], seeds: Sequence[int], draws: int = 10_000, seed: int = 0):
        rng = np.random.default_rng((seed, 71))
        self.subjects, self.seeds = list(subjects), list(seeds)
        count = (draws, len(self.subjects))
        self._subject = rng.integers(len(self.subjects), size=count)
        self._seed = rng.integers(len(self.seeds), size=(*count, len(self.seeds)))

    def table(self, runs: Sequence[Measured], measure: str) -> np.ndarray:
        """Numerators and denominators of one measure, [2, subjects, seeds]. Raises ValueError for a missing run."""
        found = np.full((2, len(self.subjects), len(self.seeds)), np.nan)
        for run in runs:
            found[:, self.subjects.index(run.subject), self.seeds.index(run.seed)] = run.values[measure]
        if np.isnan(found).any():
            raise ValueError(f"{measure}: {int(np.isnan(found[0]).sum())} runs are missing")
        return found

    def draws(self, table: np.ndarray) -> np.ndarray:
        """The measure in every draw, [draws]."""
        over, under = table[:, self._subject[..., None], self._seed].mean((2, 3))
        return over / under

    def interval(self, *tables: np.ndarray, of: Callable = lambda x: x) -> tuple[float, float, float]:
        """A statistic of one or more measures, and its 95% interval: percentiles, expanded for few subjects.

        Those of 6 subjects would hold the truth seven times in eight. Hesterberg, "What Teachers Should Know About
        the Bootstrap", The American Statistician 69 (2015), section 3.4.
        """
        value = float(of(*(mean(t) for t in tables)))
        tail = expanded_tail(len(self.subjects)) if len(self.subjects) > 1 else 0.025  # one subject, as in --short
        low, high = np.quantile(of(*(self.draws(t) for t in tables)), [tail, 1 - tail])
        return value, float(low), float(high)


def mean(table: np.ndarray) -> float:
    """A measure over all runs."""
    over, under = table.mean((1, 2))
    return float(over / under)
