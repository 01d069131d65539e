"""What people said in a study: strengths with intervals, how far raters agree, and who was not looking."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

_DRAWS = 1000
_PASSED = 0.75  # of the catch pairs that an attentive rater answers right
_ROUNDS = 2000
_LEAST_PROMPTS = 8
_TRACE = 0.05  # of a win, where none of the added ones was drawn


@dataclass(frozen=True)
class Vote:
    """One rater's answer: value is 1 where the first method won, 0 where the second, .5 for a tie.

    A catch pair has the same method twice: value 1 where the whole picture won over the spoilt one.
    """

    rater: str
    key: tuple[str, int]  # prompt and seed
    first: str
    second: str
    value: float
    catch: bool = False


@dataclass(frozen=True)
class Strength:
    """A method's Bradley-Terry strength, in logits with mean zero, with its 95% interval over prompts."""

    method: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pair:
    """The mean vote on one pair of pictures, 1 = first, and its raters."""

    key: tuple[str, int]
    first: str
    second: str
    mean: float
    raters: int


@dataclass(frozen=True)
class People:
    """raters: who counts, votes: theirs; left_out: raters who failed the catch pairs. alpha: Krippendorff's; agreed:
    the share of two raters' answers to one pair that are the same; None where no pair was answered twice. strengths:
    best first. concepts: SHA-256 of those that painted the runs, where known; painted_by: by the runs' names, empty for
    the class word alone.
    """

    question: str
    methods: tuple[str, ...]
    raters: tuple[str, ...]
    left_out: tuple[str, ...]
    votes: int
    ties: int
    alpha: float | None
    agreed: float | None
    strengths: tuple[Strength, ...]
    pairs: tuple[Pair, ...]
    concepts: tuple[str, ...] = ()
    painted_by: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """For JSON, without raters' names."""
        data = asdict(self)
        return data | {"raters": len(self.raters), "left_out": len(self.left_out)}

    @property
    def text(self) -> str:
        """The result in lines that a person can read."""
        lines = [f"People ({self.question}): {self.votes} votes of {len(self.raters)} raters, {self.ties} ties"]
        if self.left_out:
            lines.append(f"  {len(self.left_out)} left out, who failed more than a quarter of the catch pairs")
        if not self.votes:
            return "\n".join([*lines, "" if self.left_out else "  no votes yet: open the study's page"]).rstrip()
        for s in self.strengths:
            sure = "" if s.low is None or s.high is None else f" [{s.low:+.2f}, {s.high:+.2f}]"
            lines.append(f"  {s.method}: strength {s.value:+.2f}{sure}")
        return "\n".join([*lines, f"  {self.agreement_text}"])

    @property
    def agreement_text(self) -> str:
        """How far raters agree."""
        if self.agreed is None:
            return "No pair was answered by two people, so how far they agree cannot be said"
        alpha = "" if self.alpha is None else f", Krippendorff's alpha {self.alpha:.2f} (1: all agree, 0: as by chance)"
        return f"Two people gave the same answer to a pair in {self.agreed:.0%} of the cases{alpha}"


def count(votes: Sequence[Vote], methods: Sequence[str], question: str, seed: int = 0) -> People:
    """Strengths and agreement from all votes; raters who fail the catch pairs are left out."""
    caught = defaultdict(list)
    for vote in votes:
        if vote.catch:
            caught[vote.rater].append(vote.value == 1)
    left_out = {rater for rater, right in caught.items() if len(right) >= 2 and np.mean(right) < _PASSED}
    counted = [v for v in votes if not v.catch and v.rater not in left_out]
    raters = tuple(dict.fromkeys(v.rater for v in counted))
    pairs = _pairs(counted)
    return People(
        question, tuple(methods), raters, tuple(sorted(left_out)), len(counted), sum(v.value == 0.5 for v in counted),
        *_agreement(counted, raters), _strengths(counted, methods, seed), pairs,
    )  # fmt: skip


def bradley_terry(wins: np.ndarray, prior: float = 0.0) -> np.ndarray:
    """Strengths [..., M] in logits with mean zero from wins [..., M, M], wins[i, j] being how often i was preferred to
    j; a tie is half a win for both. prior: wins added to each pair both ways, which keeps strengths finite.

    Bradley and Terry, Biometrika 39 (1952), by the minorise-maximise steps of Hunter, Annals of Statistics 32 (2004).
    """
    wins = np.asarray(wins, dtype=float)
    wins = wins + prior * (1 - np.eye(wins.shape[-1]))
    games, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    strength = np.ones(won.shape)
    for _ in range(_ROUNDS):
        new = won / (games / (strength[..., :, None] + strength[..., None, :])).sum(-1)
        new = np.maximum(new, 1e-12)
        new = new / np.exp(np.log(new).mean(-1, keepdims=True))
        moved = np.abs(np.log(new) - np.log(strength)).max()
        strength = new
        if moved < 1e-12:
            break
    return np.log(strength)


def krippendorff_alpha(answers: np.ndarray) -> float | None:
    """Krippendorff's alpha for nominal answers [raters, pairs] of small integers, -1 where a rater gave none; None
    where nothing was answered twice or all answers are the same. Krippendorff, "Content Analysis", 2004, section 11.3.
    """
    values = np.unique(answers[answers >= 0])
    table = np.stack([(answers == v).sum(0) for v in values], 1) if len(values) else np.zeros((0, 0))  # [pairs, values]
    table = table[table.sum(1) >= 2].astype(float)
    total = table.sum()
    if not total or len(values) < 2:
        return None
    each = table.sum(1, keepdims=True)
    observed = ((table * (each - table)).sum(1) / (each[:, 0] - 1)).sum() / total
    share = table.sum(0)
    expected = (share * (total - share)).sum() / (total * (total - 1))
    return None if expected == 0 else float(1 - observed / expected)


def _strengths(votes: Sequence[Vote], methods: Sequence[str], seed: int) -> tuple[Strength, ...]:
    """With half a win added both ways, and intervals by drawing prompts anew, all votes of a prompt together.

    Two made-up prompts carry the added wins, one for each way round, and are drawn with the others: else votes that all
    go one way would be certain to all digits. Of fewer than eight prompts no interval is given.
    """
    place = {method: i for i, method in enumerate(methods)}
    by_prompt: dict[str, np.ndarray] = {}
    for vote in votes:
        wins = by_prompt.setdefault(vote.key[0], np.zeros((len(methods), len(methods))))
        i, j = place[vote.first], place[vote.second]
        wins[i, j] += vote.value
        wins[j, i] += 1 - vote.value
    if not by_prompt:
        return tuple(Strength(method, 0.0, None, None) for method in methods)
    upper = 0.5 * np.triu(np.ones((len(methods), len(methods))), 1)
    tables = np.stack([*by_prompt.values(), upper, upper.T])
    value = bradley_terry(tables.sum(0))
    low = high = [None] * len(methods)
    if len(by_prompt) >= _LEAST_PROMPTS:
        rng = np.random.default_rng((seed, len(tables)))
        drawn = bradley_terry(tables[rng.integers(len(tables), size=(_DRAWS, len(tables)))].sum(1), _TRACE)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0).tolist()
    found = [Strength(m, float(value[i]), low[i], high[i]) for m, i in place.items()]
    return tuple(sorted(found, key=lambda s: -s.value))


def _pairs(votes: Sequence[Vote]) -> tuple[Pair, ...]:
    by_pair = defaultdict(list)
    for vote in votes:
        by_pair[vote.key, vote.first, vote.second].append(vote.value)
    return tuple(Pair(key, first, second, float(np.mean(values)), len(values))
                 for (key, first, second), values in by_pair.items())  # fmt: skip


def _agreement(votes: Sequence[Vote], raters: Sequence[str]) -> tuple[float | None, float | None]:
    """Krippendorff's alpha and the raw agreement of two raters.

    Every other pair is turned round first: which of its pictures is called the first is chance, and where one method
    wins nearly always, all answers would be one and the same.
    """
    pairs = {where: i for i, where in enumerate(dict.fromkeys((v.key, v.first, v.second) for v in votes))}
    place = {rater: i for i, rater in enumerate(raters)}
    answers = np.full((len(raters), len(pairs)), -1)
    for vote in votes:
        i = pairs[vote.key, vote.first, vote.second]
        answers[place[vote.rater], i] = round(2 * (vote.value if i % 2 else 1 - vote.value))
    counts = np.stack([(answers == value).sum(0) for value in range(3)]) if len(raters) else np.zeros((3, 0))
    given = counts.sum(0)
    twice = (given * (given - 1)).sum()
    agreed = float((counts * (counts - 1)).sum() / twice) if twice else None
    return krippendorff_alpha(answers), agreed
