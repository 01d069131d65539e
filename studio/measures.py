"""What a policy can ask of a report: each measure is a number with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date

from ..metrics.verdict import LEAST_SPAN

GRADES = {"poor": 0.0, "fair": 1.0, "good": 2.0, "copies": -1.0}


@dataclass(frozen=True)
class Measured:
    """value: None where it could not be measured. said: in words. pictures: [prompt, seed] of those that count against.
    """

    value: float | None
    said: str
    pictures: list[list] = field(default_factory=list)


@dataclass(frozen=True)
class Evidence:
    """What is looked at. report: as report.json has it. rights: of the train photos by SHA-256, as the report has it or
    as a newer manifest says. people: a study's result; run: the name of this run there. day: on which is asked.
    """

    report: dict
    rights: dict[str, dict]
    day: date
    people: dict | None = None
    run: str = ""


def _images(evidence: Evidence) -> list[dict]:
    return [s for s in evidence.report["scores"] if s["kind"] == "image" and s["region"] == "whole"]


def _copy_share(evidence: Evidence) -> Measured:
    if unseen := _not_compared(evidence):
        return Measured(None, unseen)
    found = [s for s in _images(evidence) if s.get("copies")]
    if not found:
        return Measured(None, "no encoder could tell copies from other pictures: it takes three pairs of photos")
    worst = max(found, key=lambda s: s["copies"]["share"])
    near = [row for row in worst["pictures"] if row["nearest_train_similarity"] > worst["copies"]["threshold"]]
    said = f"{worst['copies']['share']:.0%} of the pictures are nearer to a train photo than {worst['copies']['basis']}"
    return Measured(worst["copies"]["share"], f"{said} ({worst['stamp']['encoder']})", _keys(near))


def _not_compared(evidence: Evidence) -> str:
    """Why the search for copies did not look at all photos that the concept was trained on; empty where it did."""
    others = _learnt_from(evidence.report) - set(evidence.report.get("train_photos") or [])
    if not others:
        return ""
    return f"{len(others)} photos that the concept was trained on, or one that it started from, were not compared"


def _learnt_from(report: dict) -> set[str]:
    card = report.get("run_card") or {}
    return {str(p) for name in ("train_photos", "photos_before") for p in card.get(name) or []}


def _pixel_copies(evidence: Evidence) -> Measured:
    copies = evidence.report["pixel_copies"]
    if copies is None:
        return Measured(None, "the pictures are too small to look for a photo's pixels in them")
    if unseen := _not_compared(evidence):
        return Measured(None, unseen)
    items = evidence.report["pictures"]
    places = sorted({copy["picture"] for copy in copies})
    return Measured(float(len(places)), f"{len(places)} pictures hold a train photo's pixels",
                    _keys([items[i] for i in places]))  # fmt: skip


def _gap(evidence: Evidence) -> Measured:
    """The largest estimate: the interval also holds which photos were held out, and few of them leave it wide."""
    return _largest([(s, s.get("gap")) for s in _images(evidence)], "memorisation gap", "mean")


def _leak(evidence: Evidence) -> Measured:
    found = [s for s in evidence.report["scores"] if s["kind"] == "image" and s["region"] == "background"]
    return _largest([(s, s.get("leak")) for s in found], "leak of backgrounds", "high")


def _largest(found: list[tuple[dict, dict | None]], name: str, of: str) -> Measured:
    """The largest estimate ("mean") or upper end ("high") of those that have an interval."""
    sure = [(s, d) for s, d in found if d is not None and d.get("high") is not None]
    if not sure:
        return Measured(None, f"{name}: not measured with an interval")
    s, d = max(sure, key=lambda pair: pair[1][of])
    said = f"{name} {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] ({s['stamp']['encoder']})"
    return Measured(d[of], said)


def _prompt(evidence: Evidence) -> Measured:
    found = [s for s in evidence.report["scores"] if s["kind"] == "text" and s["follows"] and s["follows_floor"]]
    texts = [s for s in evidence.report["scores"] if s["kind"] == "text"]
    if not found or len(found) < len(texts) or not all(
        s["follows"].get("low") is not None and (s["follows_floor"].get("low") or 0) > 0 for s in found
    ):
        needed = "it takes an interval, and a base model that certainly follows them"
        return Measured(None, f"how far prompts are followed cannot be said: {needed}")
    worst = min(found, key=lambda s: s["follows"]["low"] / s["follows_floor"]["high"])
    kept = worst["follows"]["mean"] / worst["follows_floor"]["mean"]
    low = worst["follows"]["low"] / worst["follows_floor"]["high"]
    weak = sorted((row for row in worst["pictures"]), key=lambda row: row["text"])[:3]
    said = f"keeps {kept:.0%} of what the base model does for its prompts, at least {low:.0%}"
    return Measured(low, f"{said} ({worst['stamp']['encoder']})", _keys(weak))


def _subject(evidence: Evidence) -> Measured:
    ways = []
    for s in _images(evidence):
        over, floor, ceiling = s.get("over_floor"), s.get("floor"), s.get("ceiling")
        if not over or over.get("low") is None or floor is None or ceiling is None or ceiling - floor < LEAST_SPAN:
            return Measured(None, f"how like the subject it is cannot be said by {s['stamp']['encoder']}: it takes an "
                            f"interval, and floor and ceiling at least {LEAST_SPAN:g} apart")  # fmt: skip
        ways.append((over["low"] / (ceiling - floor), over["mean"] / (ceiling - floor), s["stamp"]["encoder"]))
    if not ways:
        return Measured(None, "how like the subject it is was not measured: no image encoder was chosen")
    low, mean, encoder = min(ways)
    said = f"goes {mean:.0%} of the way from the base model to real photos, at least {low:.0%} ({encoder})"
    return Measured(low, said)


def _verdict(evidence: Evidence) -> Measured:
    verdict = evidence.report.get("verdict") or {}
    grade = verdict.get("grade", "unknown")
    return Measured(GRADES.get(grade), f"{grade}: {verdict.get('headline', 'the report has no verdict')}")


def _certificate(evidence: Evidence) -> Measured:
    report = evidence.report
    train, held_out = set(report.get("train_photos") or []), set(report.get("held_out_photos") or [])
    card, seen = report.get("run_card") or {}, _learnt_from(report)
    if not train or not held_out:
        return Measured(0.0, "the report names no train or no held-out photos")
    if (train | seen) & held_out:
        return Measured(0.0, f"{len((train | seen) & held_out)} held-out photos were trained on")
    if not report.get("split_certificate"):
        return Measured(0.0, "there is no split certificate of these very photos: split them with Attractor_Split")
    if not report.get("concept_sha256") or not card.get("train_photos"):
        return Measured(0.0, "the pictures' concept does not say which photos it was trained on")
    if set(card["train_photos"]) != train or card.get("split_certificate") != report["split_certificate"]:
        return Measured(0.0, "the concept was trained on another split than the one that was scored")
    return Measured(1.0, f"train and held-out photos are apart (certificate {report['split_certificate'][:12]})")


def _rights(evidence: Evidence) -> Measured:
    photos = set(evidence.report.get("train_photos") or []) | _learnt_from(evidence.report)
    wrong = {"in no manifest": 0, "not to be trained on": 0, "without a consent": 0, "of an expired consent": 0}
    for photo in photos:
        rights = evidence.rights.get(photo)
        if rights is None:
            wrong["in no manifest"] += 1
        elif not rights.get("training", True):
            wrong["not to be trained on"] += 1
        elif not rights.get("consent"):
            wrong["without a consent"] += 1
        elif rights.get("expires") and date.fromisoformat(rights["expires"]) < evidence.day:
            wrong["of an expired consent"] += 1
    bad = sum(wrong.values())
    if not photos:
        return Measured(None, "the report names no train photos")
    said = ", ".join(f"{count} {name}" for name, count in wrong.items() if count)
    return Measured(1 - bad / len(photos), f"of {len(photos)} train photos {said or 'all have a valid consent'}")


def _people(evidence: Evidence) -> Measured:
    asked = set((evidence.people or {}).get("concepts") or [])
    if asked and evidence.report.get("concept_sha256") not in asked:
        return Measured(None, "the study that is connected is of other concepts")
    painted_by = (evidence.people or {}).get("painted_by") or {}
    if painted_by.get(evidence.run, evidence.report.get("concept_sha256")) != evidence.report.get("concept_sha256"):
        return Measured(None, f"the run {evidence.run!r} of the study was painted by another concept")
    found = next((s for s in (evidence.people or {}).get("strengths", []) if s["method"] == evidence.run), None)
    if found is None or found.get("low") is None:
        return Measured(None, "no study with votes on this run: connect one, and say what the run is called there")
    said = f"people's preference {found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"
    return Measured(found["low"], f"{said} of {(evidence.people or {}).get('votes', 0)} votes")


def _count(what: str, of: Callable[[dict], int]) -> Callable[[Evidence], Measured]:
    return lambda evidence: Measured(float(of(evidence.report)), f"{of(evidence.report)} {what}")


def _keys(rows: list[dict]) -> list[list]:
    return [[row["prompt"], row["seed"]] for row in rows]


MEASURES: dict[str, Callable[[Evidence], Measured]] = {
    "copy_share": _copy_share,
    "pixel_copies": _pixel_copies,
    "memorisation_gap": _gap,
    "leak": _leak,
    "prompt_kept": _prompt,
    "subject_way": _subject,
    "verdict": _verdict,
    "certificate": _certificate,
    "rights": _rights,
    "people": _people,
    "pictures": _count("pictures were scored", lambda report: len(report["pictures"])),
    "prompts": _count("prompts were painted", lambda report: len({item["prompt"] for item in report["pictures"]})),
    "held_out_photos": _count("held-out photos", lambda report: len(report.get("held_out_photos") or [])),
}
"""By name, from a report to what was measured: docs/studio.md says what each is."""


def value_of(measured: Measured) -> float | None:
    """Rounded as records keep it; None too where it is no number, which JSON has no word for."""
    value = measured.value
    return None if value is None or not math.isfinite(value) else round(value, 6)
