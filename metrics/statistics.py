"""How sure a score is: differences of paired pictures, with intervals and tests over prompts, not over pictures.

Pictures of one prompt resemble one another, so prompts are the units: what is said is said of prompts like these.
Where two groups of photos are compared, the photos are drawn as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

_DRAWS = 10_000
_BOOTSTRAP = 8  # units from which on a bootstrap is trusted
_EXACT = 12  # units up to which all sign flips are tried


@dataclass(frozen=True)
class Difference:
    """A mean paired difference over units. low, high: its 95% interval; p: of no difference; effect: mean over the
    units' standard deviation (Cohen's d_z); None where there are too few units to say. adjusted: p for a family of
    tests, where it is one of several.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    effect: float | None
    units: int
    adjusted: float | None = None

    @property
    def certain_p(self) -> float | None:
        """p in its family, or by itself where it is alone."""
        return self.p if self.adjusted is None else self.adjusted

    def __str__(self) -> str:
        """With interval and p, as far as they are known."""
        if self.low is None or self.high is None or self.certain_p is None:
            return f"{self.mean:+.3f}"
        name = "p" if self.adjusted is None else "corrected p"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], {name} {self.certain_p:.3f}"


def paired(first: Sequence[float], second: Sequence[float], units: Sequence[Hashable]) -> Difference:
    """What paired values [N] differ by, over units [N] such as prompts; each unit counts once."""
    means = unit_means(np.asarray(first, dtype=float) - np.asarray(second, dtype=float), units)
    count, value = len(means), float(means.mean())
    if count < 2:
        return Difference(value, None, None, None, None, count)
    low, high = interval(means)
    spread = float(means.std(ddof=1))
    return Difference(value, low, high, sign_flip(means), value / spread if spread > 0 else None, count)


def between_groups(first: np.ndarray, second: np.ndarray, units: Sequence[Hashable]) -> Difference:
    """By what values [B, N] of one group of photos exceed those [B, M] of another, B pictures in units such as prompts.

    Units and photos are both random: which photos came into which group moves the difference for all units alike. The
    variance is that of the units' means and that of the photos' (pooled over both groups, as they would be if it made
    no difference in which one a photo is), the interval and p Student's with degrees of freedom after Satterthwaite
    (Biometrics Bulletin 2, 1946). What units and photos have in common counts in both, so it errs toward caution. No
    interval with one photo in each group, one unit, or no spread at all.
    """
    from scipy.stats import t

    by_unit = unit_means(first.mean(1) - second.mean(1), units)
    photos = [np.stack([unit_means(column, units) for column in group.T]).mean(1) for group in (first, second)]
    count, own, freedom = len(by_unit), [len(group) for group in photos], sum(map(len, photos)) - 2
    value = float(by_unit.mean())
    if count < 2 or freedom < 1:
        return Difference(value, None, None, None, None, count)
    spread = float(by_unit.std(ddof=1))
    of_units = spread**2 / count
    of_photos = sum(float(((group - group.mean()) ** 2).sum()) for group in photos) / freedom * sum(1 / n for n in own)
    error = math.sqrt(of_units + of_photos)
    if error == 0:
        return Difference(value, None, None, None, None, count)
    degrees = error**4 / (of_units**2 / (count - 1) + of_photos**2 / freedom)
    half, p = float(t.ppf(0.975, degrees)) * error, float(2 * t.sf(abs(value) / error, degrees))
    return Difference(value, value - half, value + half, p, value / spread if spread > 0 else None, count)


def unit_means(values: np.ndarray, units: Sequence[Hashable]) -> np.ndarray:
    """The mean of each unit's values [U], in the order in which units first appear."""
    place = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    index = np.array([place[unit] for unit in units])
    return np.bincount(index, weights=values) / np.bincount(index)


def interval(means: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean of units [U], U of 2 or more; of fewer than eight, which a bootstrap cannot say
    much of, Student's.

    Percentiles, widened for few units to the length of Student's interval: the expanded percentile interval of
    Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015), section 3.4.
    """
    from scipy.stats import t

    count = len(means)
    if count < _BOOTSTRAP:
        half = float(t.ppf((1 + level) / 2, count - 1)) * float(means.std(ddof=1)) / math.sqrt(count)
        return float(means.mean()) - half, float(means.mean()) + half
    rng = np.random.default_rng((seed, count))
    drawn = means[rng.integers(count, size=(_DRAWS, count))].mean(1)
    tail = expanded_tail(count, level)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(units: int, level: float = 0.95) -> float:
    """The percentile of a bootstrap over so many units, 2 or more, at which an interval of that level ends."""
    from scipy.stats import norm, t

    return float(norm.cdf(math.sqrt(units / (units - 1)) * t.ppf((1 - level) / 2, units - 1)))


def sign_flip(means: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a mean of zero, by flipping the signs of units [U]: all ways of up to 12, 10,000 of more.

    Fisher, "The Design of Experiments", 1935, section 21.
    """
    count = len(means)
    if count <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
    else:
        flips = np.random.default_rng((seed, count)).choice((-1, 1), size=(_DRAWS, count))
        signs = np.concatenate([np.ones((1, count)), flips])
    sums = np.abs(signs @ means)
    return float((sums >= sums[0] * (1 - 1e-12)).mean())


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p of a family of tests (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def family(found: Sequence[Difference]) -> list[Difference]:
    """The differences with p adjusted for all of them as one family of tests."""
    adjusted = iter(holm([d.p for d in found if d.p is not None]))
    return [d if d.p is None else replace(d, adjusted=next(adjusted)) for d in found]


def fewest_units(tests: int, level: float = 0.05) -> int:
    """Units from which on the smallest p that sign flips can give, 2 / 2^n, is below the level for so many tests."""
    return next(n for n in range(2, 64) if tests * 2 / 2**n < level)


def coverage(units: int, worlds: int = 1000, seed: int = 0) -> float:
    """Share of simulated worlds whose true mean lies in the interval: skewed differences of a few pictures a unit."""
    rng, held = np.random.default_rng(seed), 0
    for world in range(worlds):
        centres = 0.1 + 0.05 * (rng.gamma(4.0, size=units) - 4.0)  # a mean of .1
        means = (centres[:, None] + 0.08 * rng.standard_normal((units, 3))).mean(1)
        low, high = interval(means, seed=world)
        held += low <= 0.1 <= high
    return held / worlds
