"""Runs side by side, paired: the same prompts and seeds, scored on the same held-out photos by the same encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..attractor.errors import AttractorError
from .report import number
from .statistics import Difference, holm, paired, unit_means

if TYPE_CHECKING:
    from .people import People

# name of a picture's value, what it is called, whether more of it is better
_MEASURES = (("held_out", "similarity to held-out photos", True), ("excess", "nearer to train photos", False),
             ("text", "similarity to the prompt", True), ("leak", "leak", False))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One measure: each run's mean, and how far the runs after the first differ from it. values: by picture, [R, B]."""

    name: str
    more_is_better: bool
    means: tuple[float, ...]
    differences: tuple[Difference, ...]
    values: np.ndarray = field(repr=False, compare=False)

    def told(self, found: Difference) -> str:
        """better, worse, or "" where it cannot be told: by the interval, and by p in the family."""
        p = found.p if found.adjusted is None else found.adjusted
        if p is None or p >= 0.05 or found.low is None or found.high is None or found.low <= 0 <= found.high:
            return ""
        return "better" if (found.mean > 0) == self.more_is_better else "worse"


@dataclass(frozen=True)
class Agreement:
    """How a measure ranks pairs of pictures beside people: Kendall's tau-b, its p, and its weight in the hybrid."""

    name: str
    tau: float
    p: float
    pairs: int
    weight: float


@dataclass(frozen=True)
class Comparison:
    """names: of the runs, the first is what the others are compared with. grades: their verdicts'. keys: the pictures'
    (prompt, seed). people, agreement, hybrid: with a study of these runs; hybrid is a score for each run.
    """

    names: tuple[str, ...]
    grades: tuple[str, ...]
    keys: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    people: People | None = None
    agreement: tuple[Agreement, ...] = ()
    hybrid: tuple[float, ...] = ()

    def as_dict(self) -> dict:
        """For JSON."""
        rows = [{"name": r.name, "more_is_better": r.more_is_better, "means": list(r.means),
                 "differences": [asdict(d) for d in r.differences]} for r in self.rows]  # fmt: skip
        return {
            "format": 1, "names": list(self.names), "grades": list(self.grades), "pictures": len(self.keys),
            "rows": rows, "people": self.people.as_dict() if self.people else None,
            "agreement": [asdict(a) for a in self.agreement], "hybrid": list(self.hybrid),
        }  # fmt: skip

    @property
    def text(self) -> str:
        """The comparison in lines that a person can read."""
        prompts = len({prompt for prompt, _ in self.keys})
        lines = [f"{len(self.keys)} pictures each, {prompts} prompt{'' if prompts == 1 else 's'}, paired by prompt and "
                 f"seed; differences to {self.names[0]}"]  # fmt: skip
        lines += [f"  {name}: {grade}" for name, grade in zip(self.names, self.grades, strict=True)]
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
            scores = ", ".join(f"{name} {value:+.2f}" for name, value in zip(self.names, self.hybrid, strict=True))
            lines.append(f"hybrid of people and measures, in standard deviations: {scores}")
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
        raise AttractorError(f"names: {given} for {len(reports)} reports: give each its own name, one a line.")
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
    rows = _one_family(rows)
    grades = tuple((report.get("verdict") or {}).get("grade", "unknown") for report in reports)
    found = Comparison(tuple(names), grades, tuple(keys), tuple(rows))
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
    return Row(name, better, means, differences, table)


def _value(row: dict, name: str) -> float | None:
    if name == "excess":
        return row["train"] - row["held_out"] if "train" in row else None
    return row.get(name)


def _one_family(rows: list[Row]) -> list[Row]:
    tested = [(i, j) for i, row in enumerate(rows) for j, d in enumerate(row.differences) if d.p is not None]
    adjusted = holm([rows[i].differences[j].p or 0.0 for i, j in tested])
    changed = [list(row.differences) for row in rows]
    for (i, j), p in zip(tested, adjusted, strict=True):
        changed[i][j] = replace(changed[i][j], adjusted=p)
    return [replace(row, differences=tuple(found)) for row, found in zip(rows, changed, strict=True)]


def _said(found: Difference, row: Row) -> str:
    if found.low is None or found.high is None or found.p is None:
        return f"{found.mean:+.3f}; one prompt: how sure that is cannot be said"
    p = found.p if found.adjusted is None else found.adjusted
    word = row.told(found) or "cannot be told apart"
    effect = "" if found.effect is None else f", effect {found.effect:+.2f}"
    return f"{word}: {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p {p:.3f} in this family{effect}"


def _with_people(found: Comparison, people: People) -> Comparison:
    """How well each measure agrees with people, and the hybrid.

    The measure's difference within a pair of pictures is set beside the mean vote on the pair (Kendall's tau-b). Each
    measure is then taken in standard deviations of its pictures, each weighs max(tau, 0), people's strengths weigh 1,
    and the hybrid is the weighted mean for each run. A measure that people do not bear out has no say.
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
    agreement = []
    for row in found.rows:
        sign = 1 if row.more_is_better else -1
        value = row.values * sign
        mine = [value[run[v.first], place[v.key]] - value[run[v.second], place[v.key]] for v in votes]
        found_tau: Any = kendalltau(mine, [v.mean for v in votes]) if len(votes) > 1 else (0.0, 1.0)
        tau, p = map(float, found_tau) if np.isfinite(found_tau[0]) else (0.0, 1.0)
        agreement.append(Agreement(row.name, tau, p, len(votes), max(tau, 0.0)))
    strengths = {s.method: s.value for s in people.strengths}
    total = np.array([strengths[name] for name in found.names], dtype=float)
    total = (total - total.mean()) / (total.std() or 1.0)
    weight = 1.0
    for row, agrees in zip(found.rows, agreement, strict=True):
        spread = float(row.values.std()) or 1.0
        scaled = (row.values.mean(1) - row.values.mean()) / spread * (1 if row.more_is_better else -1)
        total, weight = total + agrees.weight * scaled, weight + agrees.weight
    return replace(found, people=people, agreement=tuple(agreement), hybrid=tuple(float(v) for v in total / weight))
