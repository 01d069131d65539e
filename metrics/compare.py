"""Runs side by side, paired: the same prompts and seeds, scored on the same held-out photos by the same encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attractor.errors import AttractorError
from .report import number
from .statistics import Difference, family, fewest_units, paired, sign_flip, unit_means

if TYPE_CHECKING:
    from .people import People

# name of a picture's value, what it is called, whether more of it is better
_MEASURES = (("held_out", "similarity to held-out photos", True), ("excess", "nearer to train photos", False),
             ("text", "similarity to the prompt", True), ("leak", "leak", False))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measure: each run's mean, and how far the runs after the first differ from it.

    kind: of what is measured, by whatever encoder and region. values: by picture, [R, B]. region: of what is seen.
    """

    name: str
    kind: str
    more_is_better: bool
    means: tuple[float, ...]
    differences: tuple[Difference, ...]
    values: np.ndarray = field(repr=False, compare=False)
    region: str = "whole"

    def told(self, found: Difference) -> str:
        """better, worse, or "" where it cannot be told: by the interval, and by p in the family."""
        p = found.certain_p
        if p is None or p >= 0.05 or found.low is None or found.high is None or found.low <= 0 <= found.high:
            return ""
        return "better" if (found.mean > 0) == self.more_is_better else "worse"


@dataclass(frozen=True)
class Agreement:
    """How a measure ranks pairs of pictures beside people: Kendall's tau-b, p by prompts, and its weight in the
    hybrid.
    """

    name: str
    tau: float
    p: float
    pairs: int
    weight: float


@dataclass(frozen=True)
class Comparison:
    """names: of the runs, the first is what the others are compared with. grades: their verdicts'. keys: the pictures'
    (prompt, seed). people, agreement, hybrid: with a study of these runs; hybrid is the share of pairs that each wins.
    photos, concepts: SHA-256 of what the runs were made of.
    """

    names: tuple[str, ...]
    grades: tuple[str, ...]
    keys: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    people: People | None = None
    agreement: tuple[Agreement, ...] = ()
    hybrid: tuple[float, ...] = ()
    photos: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """For JSON."""
        rows = [{"name": r.name, "more_is_better": r.more_is_better, "means": list(r.means),
                 "differences": [asdict(d) for d in r.differences]} for r in self.rows]  # fmt: skip
        return {
            "format": 1, "names": list(self.names), "grades": list(self.grades), "pictures": len(self.keys),
            "rows": rows, "people": self.people.as_dict() if self.people else None,
            "photos": list(self.photos), "concepts": list(self.concepts),
            "agreement": [asdict(a) for a in self.agreement], "hybrid": list(self.hybrid),
        }  # fmt: skip

    @property
    def text(self) -> str:
        """The comparison in lines that a person can read."""
        prompts = len({prompt for prompt, _ in self.keys})
        lines = [f"{len(self.keys)} pictures each, {prompts} prompt{'' if prompts == 1 else 's'}, paired by prompt and "
                 f"seed; differences to {self.names[0]}"]  # fmt: skip
        lines += [f"  {name}: {grade}" for name, grade in zip(self.names, self.grades, strict=True)]
        tests = max((sum(len(row.differences) for row in own) for own in _families(self.rows)), default=0)
        if 1 < prompts < (needed := fewest_units(tests)):
            lines.append(f"{prompts} prompts cannot tell {tests} differences apart for certain, however large they "
                         f"are: take {needed} or more.")  # fmt: skip
        for row in self.rows:
            means = ", ".join(f"{name} {number(mean)}" for name, mean in zip(self.names, row.means, strict=True))
            lines.append(f"{row.name} ({'more' if row.more_is_better else 'less'} is better): {means}")
            for name, found in zip(self.names[1:], row.differences, strict=True):
                lines.append(f"  {name}: {_said(found, row)}")
        if self.people:
            lines += ["", self.people.text]
        for a in self.agreement:
            lines.append(f"  {a.name} agrees with people: tau {a.tau:+.2f} (p {a.p:.3f}, {a.pairs} pairs), weight "
                         f"{a.weight:.2f}")  # fmt: skip
        if self.hybrid:
            scores = ", ".join(f"{name} {value:.0%}" for name, value in zip(self.names, self.hybrid, strict=True))
            lines.append(f"pairs won by people's votes and the measures that agree with them: {scores}")
        return "\n".join(lines)


def compare_reports(
    reports: Sequence[dict], names: Sequence[str], people: People | None = None
) -> Comparison:
    """Compare runs by their reports as Report.as_dict gives them. people: what a study of the same runs found.

    Raises AttractorError for fewer than two reports, for names that are not as many and different, and for reports of
    other pictures, held-out photos or encoders, which cannot be paired.
    """
    if len(reports) < 2:
        raise AttractorError(f"{len(reports)} report is nothing to compare: connect two or more.")
    if len(names) != len(reports) or len(set(names)) < len(names):
        given = ", ".join(names) or "(none)"
        raise AttractorError(f"names: {given} for {len(reports)} reports: give each a name of its own.")
    first = reports[0]
    keys = _keys(first)
    for name, report in zip(names[1:], reports[1:], strict=True):
        if sorted(_keys(report)) != sorted(keys):
            raise AttractorError(
                f"{name} was painted with other prompts or seeds than {names[0]}: paint all runs with the same."
            )
        if sorted(report["held_out_photos"]) != sorted(first["held_out_photos"]):
            raise AttractorError(
                f"{name} was scored on other held-out photos than {names[0]}: score all runs with the same split."
            )
    rows = [row for row in (_row(reports, keys, *column) for column in _columns(reports)) if row is not None]
    if not rows:
        raise AttractorError("The reports have no encoder in common, so nothing can be compared: score all runs with "
                             "the same encoders.")
    rows = _corrected(rows)
    grades = tuple((report.get("verdict") or {}).get("grade", "unknown") for report in reports)
    photos = {p for report in reports for name in ("train_photos", "held_out_photos") for p in report.get(name) or []}
    concepts = {report["concept_sha256"] for report in reports if report.get("concept_sha256")}
    found = Comparison(tuple(names), grades, tuple(keys), tuple(rows), photos=tuple(sorted(photos)),
                       concepts=tuple(sorted(concepts)))  # fmt: skip
    return found if people is None else _with_people(found, people)


def _keys(report: dict) -> list[tuple[str, int]]:
    return [(item["prompt"], item["seed"]) for item in report["pictures"]]


def _columns(reports: Sequence[dict]) -> list[tuple[tuple, str, str, bool]]:
    """(encoder, region and kind), the value's name, what it is called, and whether more of it is better."""
    known = [_name_of(s) for s in reports[0]["scores"]]
    shared = [k for k in known if all(k in map(_name_of, r["scores"]) for r in reports[1:])]
    encoders = {k[0] for k in shared}
    found = []
    for key in dict.fromkeys(shared):
        where = "" if key[3] == "whole" else f", {key[3]} only"
        encoder = f" ({key[0]}{where})" if len(encoders) > 1 or where else ""
        for value, name, better in _MEASURES:
            found.append((key, value, name + encoder, better))
    return found


def _name_of(score: dict) -> tuple[str, str, str, str]:
    return score["stamp"]["encoder"], score["stamp"]["weights"], score["kind"], score.get("region", "whole")


def _row(
    reports: Sequence[dict], keys: list[tuple[str, int]], key: tuple, value: str, name: str, better: bool
) -> Row | None:
    values = []
    for report in reports:
        score = next(s for s in report["scores"] if _name_of(s) == key)
        by_key = {(row["prompt"], row["seed"]): _value(row, value) for row in score["pictures"]}
        values.append([by_key.get(k) for k in keys])
    if any(v is None for row in values for v in row):
        return None
    table = np.array(values, dtype=float)
    prompts = [prompt for prompt, _ in keys]
    differences = tuple(paired(table[i], table[0], prompts) for i in range(1, len(table)))
    means = tuple(float(unit_means(row, prompts).mean()) for row in table)
    return Row(name, value, better, means, differences, table, key[3])


def _value(row: dict, name: str) -> float | None:
    if name == "excess":
        return row["train"] - row["held_out"] if "train" in row else None
    return row.get(name)


def _families(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of whole pictures, and of the subject or background alone: each a family of tests."""
    parted = [[row for row in rows if (row.region == "whole") is whole] for whole in (True, False)]
    return [own for own in parted if own]


def _corrected(rows: list[Row]) -> list[Row]:
    found = {}
    for own in _families(rows):
        adjusted = iter(family([d for row in own for d in row.differences]))
        found |= {row.name: tuple(next(adjusted) for _ in row.differences) for row in own}
    return [replace(row, differences=found[row.name]) for row in rows]


def _said(found: Difference, row: Row) -> str:
    if found.low is None:
        return f"{found}; one prompt: how sure that is cannot be said"
    effect = "" if found.effect is None else f", effect {found.effect:+.2f}"
    return f"{row.told(found) or 'cannot be told apart'}: {found}{effect}"


def _with_people(found: Comparison, people: People) -> Comparison:
    """How well each measure agrees with people, and the hybrid.

    Within each pair of pictures a measure's difference is set beside the mean vote, both ways round, for which picture
    is called the first is chance: Kendall's tau-b (scipy). p is of no concordance, by flipping signs of prompts.
    The hybrid is the share of pairs that a run wins: each pair's vote is the mean of people's (weight 1, where there is
    one) and of each measure's (1 for the better picture), which weighs max(tau, 0) over the rows of its kind. A measure
    that people do not bear out has no say.
    """
    from scipy.stats import kendalltau

    missing = set(people.methods) ^ set(found.names)
    if missing:
        raise AttractorError(
            f"The study compares {', '.join(people.methods)}, the reports are of {', '.join(found.names)}: give the "
            "same names to both."
        )
    place = {key: i for i, key in enumerate(found.keys)}
    run = {name: i for i, name in enumerate(found.names)}
    votes = [v for v in people.pairs if v.key in place]
    if not votes:
        return replace(found, people=people)
    liked = np.array([v.mean for v in votes])
    a, b, k = (np.array(x) for x in zip(*((run[v.first], run[v.second], place[v.key]) for v in votes), strict=True))
    kinds = [row.kind for row in found.rows]
    agreement = []
    for row in found.rows:
        own = (row.values[a, k] - row.values[b, k]) * (1 if row.more_is_better else -1)
        rank: Any = kendalltau(np.concatenate([own, -own]), np.concatenate([liked, 1 - liked]))
        tau = float(rank[0]) if np.isfinite(rank[0]) else 0.0
        concordance = unit_means(np.sign(own) * (2 * liked - 1), [v.key[0] for v in votes])
        agreement.append(Agreement(row.name, tau, sign_flip(concordance), len(votes),
                                   max(tau, 0.0) / kinds.count(row.kind)))  # fmt: skip
    said = {(i, j, place_): mean for i, j, place_, mean in zip(a, b, k, liked, strict=True)}
    won = np.zeros(len(found.names))
    for i, j in combinations(range(len(found.names)), 2):
        total, weight = np.zeros(len(found.keys)), np.zeros(len(found.keys))
        for row, agrees in zip(found.rows, agreement, strict=True):
            better = np.sign(row.values[i] - row.values[j]) * (1 if row.more_is_better else -1)
            total, weight = total + agrees.weight * (1 + better) / 2, weight + agrees.weight
        for q in range(len(found.keys)):
            vote = said.get((i, j, q), 1 - said[j, i, q] if (j, i, q) in said else None)
            if vote is not None:
                total[q], weight[q] = total[q] + vote, weight[q] + 1
        known = weight > 0
        first = float((total[known] / weight[known]).mean())
        won += np.array([first if x == i else 1 - first if x == j else 0.0 for x in range(len(won))])
    shares = tuple(float(v) for v in won / (len(won) - 1))
    return replace(found, people=people, agreement=tuple(agreement), hybrid=shares)
