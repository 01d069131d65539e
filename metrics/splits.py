"""Train and held-out photos of a subject, with no near-duplicate across, and the certificate that proves it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ..attractor.errors import AttractorError
from ..training.photos import SubjectSet
from .duplicates import Match, Thresholds, find_matches


@dataclass(frozen=True)
class Certificate:
    """Proof of a disjoint split: hashes and evidence, never a photo or a path.

    train, held_out: SHA-256 of the photos. groups: photos (SHA-256) that had to stay together.
    nearest: the pair across the split with the strongest evidence of being one shot, and that evidence; empty where no
    pair of a large set came so far.
    """

    seed: int
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    thresholds: Thresholds
    nearest: dict
    format: int = 1

    def to_json(self) -> str:
        """The certificate as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, indent=2)

    @classmethod
    def of(cls, data: dict) -> Certificate:
        """From what to_json wrote. Raises AttractorError for anything else."""
        try:
            return cls(
                data["seed"], tuple(data["train"]), tuple(data["held_out"]), tuple(map(tuple, data["groups"])),
                Thresholds(**data["thresholds"]), data["nearest"], data["format"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            why = f"Not a split certificate of this version ({error}). Split the photos again."
            raise AttractorError(why) from error

    @property
    def sha256(self) -> str:
        """SHA-256 of the JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """The two parts, the groups by file name, what is worth a warning, and a text that says it."""

    train: SubjectSet
    held_out: SubjectSet
    certificate: Certificate
    groups: list[list[str]]
    warnings: list[dict]
    wanted: int

    @property
    def off(self) -> bool:
        """True when the groups did not allow the number of held-out photos that was asked for."""
        return self.wanted != len(self.held_out)

    @property
    def text(self) -> str:
        """The split in words."""
        lines = [
            f"train: {', '.join(self.train.names)}",
            f"held out: {', '.join(self.held_out.names)}",
            f"asked for {self.wanted}, but near-duplicates may not be torn apart" if self.off else "",
            *(f"kept together (near-duplicates): {', '.join(group)}" for group in self.groups),
            *(f"same shoot on both sides: {' and '.join(w['photos'])}" for w in self.warnings),
            _nearest_text(self.certificate.nearest),
            f"certificate sha256: {self.certificate.sha256}",
        ]
        return "\n".join(line for line in lines if line)


def split_set(subject: SubjectSet, held_out: float, seed: int, limits: Thresholds = Thresholds()) -> Split:
    """Split a subject set into train and held-out photos.

    held_out: a count when 1 or more, else a fraction of the photos (at least one is held out).
    Near-duplicates stay on one side. Raises AttractorError when no disjoint split exists, with the reason.
    """
    total = len(subject)
    if total < 2:
        raise AttractorError(
            f"The set has {total} photo{'s' if total != 1 else ''}: a split needs at least two. Add photos of the "
            "subject, best on other backgrounds, or train without a held-out set."
        )
    wanted = _wanted(held_out, total)
    matches = find_matches(subject.photos, limits)
    groups = _groups(subject, matches)
    if len(groups) < 2:
        raise AttractorError(
            "No disjoint split exists: these photos are near-duplicates of one another and belong together: "
            f"{', '.join(subject.names)}. Add at least one other photo of the subject."
        )
    chosen = _choose(groups, wanted, np.random.default_rng(seed))
    return _assemble(subject, chosen, groups, matches, seed, limits, wanted)


def check_disjoint(
    train: SubjectSet, held_out: SubjectSet, matches: Mapping[tuple[int, int], Match] | None = None
) -> Match | None:
    """The strongest pair across two sets, or None when one is empty.

    matches: what find_matches says of train and held-out photos in one row, where it is at hand. Raises AttractorError
    when a held-out photo is a near-duplicate of a train photo, naming both.
    """
    if matches is None:
        matches = find_matches((*train.photos, *held_out.photos))
    found = [match for (i, j), match in matches.items() if i < len(train) <= j]
    for match in found:
        if match.kind == "duplicate":
            raise AttractorError(
                f"Held-out photo {match.b} is a near-duplicate of train photo {match.a} "
                f"({match.inliers} matching points, correlation {match.correlation:.2f}): a score on it would be "
                "graded on the training data. Split the set with Attractor_Split, or take one of the two out."
            )
    return max(found, key=_strength, default=None)


def _wanted(held_out: float, total: int) -> int:
    if not held_out > 0:
        raise AttractorError(f"held_out is {held_out:g}: give a count of photos (1 or more) or a fraction (0 to 1).")
    count = round(held_out) if held_out >= 1 else max(1, round(held_out * total))
    if count >= total:
        raise AttractorError(
            f"held_out asks for {count} of {total} photos, which leaves none to train on. Ask for at most {total - 1}."
        )
    return count


def _groups(subject: SubjectSet, matches: Mapping[tuple[int, int], Match]) -> list[list[int]]:
    """Connected components of the duplicate relation, each a list of indices."""
    parent = list(range(len(subject)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for (i, j), match in matches.items():
        if match.kind == "duplicate":
            parent[root(j)] = root(i)
    members: dict[int, list[int]] = {}
    for i in range(len(subject)):
        members.setdefault(root(i), []).append(i)
    return list(members.values())


def _choose(groups: list[list[int]], wanted: int, rng: np.random.Generator) -> set[int]:
    """Indices to hold out: whole groups, in seeded order, whose sizes add up to `wanted` or come nearest to it."""
    order = [groups[i] for i in rng.permutation(len(groups))]
    reachable: dict[int, list[int]] = {0: []}
    for position, group in enumerate(order):
        for size, used in list(reachable.items()):
            reachable.setdefault(size + len(group), [*used, position])
    total = sum(map(len, groups))
    best = min((s for s in reachable if 0 < s < total), key=lambda s: (abs(s - wanted), s))
    return {i for position in reachable[best] for i in order[position]}


def _assemble(
    subject: SubjectSet, chosen: set[int], groups: list[list[int]], matches: Mapping[tuple[int, int], Match], seed: int,
    limits: Thresholds, wanted: int,
) -> Split:  # fmt: skip
    photos = subject.photos
    train = [p for i, p in enumerate(photos) if i not in chosen]
    held_out = [p for i, p in enumerate(photos) if i in chosen]
    across = [m for (i, j), m in matches.items() if (i in chosen) != (j in chosen)]
    nearest = max(across, key=_strength, default=None)
    sha = {p.name: p.sha256 for p in photos}
    together = [g for g in groups if len(g) > 1]
    certificate = Certificate(
        seed=seed,
        train=tuple(p.sha256 for p in train),
        held_out=tuple(p.sha256 for p in held_out),
        groups=tuple(tuple(photos[i].sha256 for i in g) for g in together),
        thresholds=limits,
        nearest={**_evidence(nearest), "pair": [sha[nearest.a], sha[nearest.b]]} if nearest else {},
    )
    return Split(
        train=subject.with_photos(train, role="train", certificate=certificate),
        held_out=subject.with_photos(held_out, role="held-out", certificate=certificate),
        certificate=certificate,
        groups=[[photos[i].name for i in g] for g in together],
        warnings=[{"photos": [m.a, m.b], **_evidence(m)} for m in across if m.kind == "same_shoot"],
        wanted=wanted,
    )


def _strength(match: Match) -> tuple[int, float]:
    return match.inliers, match.correlation


def _evidence(match: Match) -> dict:
    return {
        "kind": match.kind,
        "inliers": match.inliers,
        "correlation": round(match.correlation, 4),
        "overlap": round(match.overlap, 4),
        "coverage": round(match.coverage, 4),
        "mirrored": match.mirrored,
        "hash_distance": match.hash_distance,
    }


def _nearest_text(nearest: dict) -> str:
    if not nearest:
        return "no pair across the split shares enough local features to be compared"
    return (
        f"nearest pair across the split: {nearest['inliers']} matching points, correlation "
        f"{nearest['correlation']:.2f} over {nearest['overlap']:.0%} of the frame"
    )
