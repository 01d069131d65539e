"""The report in words: does it look like the subject, does it follow the prompt, does it copy, how sure are we.

The limits below are ours; docs/scoring.md says what each of them means and why it lies where it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .copies import share_of

if TYPE_CHECKING:
    from .report import Report
    from .scores import Score
    from .statistics import Difference

GRADES = ("good", "fair", "poor", "copies")  # from best to worst; or unknown
HALF_WAY = 0.5  # from floor to ceiling, from which on pictures look like the subject
LEAST_SPAN = 0.05  # of cosine similarity from floor to ceiling, below which the way between them is noise
LITTLE_WAY = 0.25  # of which the interval must fall short before pictures are said not to look like it
CERTAIN = 0.05  # p, corrected for all tests of the report
KEPT_WELL, KEPT = 0.8, 0.5  # of what the base model does for a prompt beyond chance
SOME, MANY = 0.05, 0.25  # of the pictures that look copied
FEW_PROMPTS, FEW_PHOTOS = 4, 2  # below which nothing general can be said
ENOUGH_PROMPTS = 8  # from which on an interval over prompts can be trusted
ENOUGH_PHOTOS = 3  # held out, from which on the mean over them is more than theirs


@dataclass(frozen=True)
class Answer:
    """One question, its answer, and a grade: good, fair, poor, for copying the worst of all: copies; or unknown."""

    question: str
    grade: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """grade: the worst of subject, prompt and copies, and not good where the subject's is unknown; headline: that in a
    sentence; answers: the four questions'.
    """

    grade: str
    headline: str
    answers: tuple[Answer, ...]


def judge(report: Report) -> Verdict:
    """The verdict of a report; the first encoder of a kind speaks for it."""
    image = next((s for s in report.scores if s.kind == "image" and s.region == "whole"), None)
    text = next((s for s in report.scores if s.kind == "text"), None)
    answers = (_subject(image), _prompt(text), _copies(image, report), _certainty(image, report))
    known = [a.grade for a in answers[:3] if a.grade != "unknown"]
    grade = max(known, key=GRADES.index) if known else "unknown"
    if grade == "good" and answers[0].grade == "unknown":
        grade = "unknown"  # nothing is good of which nobody knows whether it is the subject
    return Verdict(grade, _headline(answers, report.generations.class_word or "subject"), answers)


def _subject(s: Score | None) -> Answer:
    question = "Does it look like the subject?"
    if s is None or s.floor is None or s.over_floor is None or s.held_out is None:
        return Answer(question, "unknown", "Not known: it needs the base model's pictures. Connect base_generations.")
    over = s.over_floor
    way = None
    if s.ceiling is not None and s.ceiling > s.floor:
        way = (s.held_out - s.floor) / (s.ceiling - s.floor)
    place = ""
    if way is not None:
        share = "all" if way >= 1 else f"{max(0.0, way):.0%} of"
        place = f" It goes {share} the way from the base model's pictures to real photos of it."
    if over.low is None:
        more = f"{over.mean:+.3f} above the base model"
        return Answer(question, "unknown", f"One prompt is too few to say: {more}.{place}")
    high = over.high or 0.0
    furthest = high if way is None or s.ceiling is None else high / (s.ceiling - s.floor)
    if high <= 0:
        return Answer(question, "poor", f"Less than the base model does with the class word alone.{place}")
    if s.ceiling is not None and s.ceiling - s.floor < LEAST_SPAN:
        said = (f"Not known: to this encoder real photos of it are hardly more like one another ({s.ceiling:.3f}, the "
                f"ceiling) than the base model's pictures are like them ({s.floor:.3f}). Choose another.")  # fmt: skip
        return Answer(question, "unknown", said)
    if way is not None and furthest < LITTLE_WAY:
        return Answer(question, "poor", f"Hardly more than the base model does with the class word alone.{place}")
    if over.low <= 0:
        said = f"It cannot be told from the base model with the class word alone: {over}.{place}"
        return Answer(question, "unknown", said)
    if way is None or way < HALF_WAY:
        return Answer(question, "fair", f"More than the base model does, but it is not there.{place}")
    if (over.certain_p or 0) >= CERTAIN:
        said = f"More than the base model does, though {over.units} prompts are too few to be certain of it.{place}"
        return Answer(question, "fair", said)
    return Answer(question, "good", f"Clearly more than the base model does.{place}")


def _prompt(s: Score | None) -> Answer:
    question = "Does it follow the prompt?"
    if s is None or s.text is None:
        return Answer(question, "unknown", "Not measured: no text encoder was chosen.")
    if s.follows is None or s.follows_floor is None:
        missing = "the base model's pictures" if s.floor is None else "a second prompt"
        return Answer(question, "unknown", f"Not known: it needs {missing} to compare with.")
    base = s.follows_floor
    if base.low is None or base.low <= 0:
        return Answer(question, "unknown", "Not known: by this encoder the base model itself does not follow the "
                      "prompts for certain.")  # fmt: skip
    kept = s.follows.mean / base.mean
    what = f"It keeps {max(0.0, kept):.0%} of what the base model does for these prompts."
    grade = "good" if kept >= KEPT_WELL else "fair" if kept >= KEPT else "poor"
    return Answer(question, grade, {"good": "Yes. ", "fair": "In part. ", "poor": "Hardly. "}[grade] + what)


def _copies(s: Score | None, report: Report) -> Answer:
    question = "Does it copy its photos?"
    pixels = share_of(report.pixel_copies, len(report.generations.items))
    if s is None or s.copies is None:
        if pixels > SOME:
            grade, lead = ("copies", "Yes") if pixels > MANY else ("fair", "It leans on them")
            return Answer(question, grade, f"{lead}: {pixels:.0%} of the pictures hold a train photo's very pixels.")
        why = "no image encoder was chosen" if s is None else "there are too few photos to say what is near"
        return Answer(question, "unknown", f"Not known: {why}.")
    near, gap = s.copies.share, s.gap
    memorised = gap is not None and gap.low is not None and gap.low > 0
    if s.copies.basis.startswith("SSCD"):
        said = [f"SSCD calls {near:.0%} of the pictures copies"]
    else:
        said = [f"{near:.0%} of the pictures are nearer to a train photo than different photos of the subject are to "
                "one another"]  # fmt: skip
    if report.pixel_copies is None:
        said.append("they are too small to look for a photo's pixels in them")
    else:
        said.append(f"{pixels:.0%} hold a train photo's very pixels" if pixels else "none holds a train photo's pixels")
    if gap is not None:
        more = "are nearer" if memorised else "are not surely nearer"
        said.append(f"they {more} to train photos than to held-out ones (gap {gap})")
    worst = max(near, pixels)
    grade = "copies" if worst > MANY else "fair" if worst > SOME or memorised else "good"
    lead = {"good": "No", "fair": "It leans on them", "copies": "Yes"}[grade]
    return Answer(question, grade, f"{lead}: {'; '.join(said)}.")


def _certainty(s: Score | None, report: Report) -> Answer:
    question = "How sure are we?"
    prompts = len({item.prompt for item in report.generations.items})
    photos = len(report.held_out)
    basis = (f"{len(report.generations.items)} pictures of {prompts} prompt{_s(prompts)} against {photos} held-out "
             f"photo{_s(photos)}, one subject")  # fmt: skip
    width = _width(s.over_floor) if s else None
    if prompts < FEW_PROMPTS or photos < FEW_PHOTOS or width is None:
        return Answer(question, "poor", f"Hardly: {basis}. Take {FEW_PROMPTS} prompts or more and {FEW_PHOTOS} "
                      "held-out photos or more.")  # fmt: skip
    distance = abs(s.over_floor.mean) if s and s.over_floor else 0.0
    interval = f"The similarity above the base model is known to {width / 2:.3f} either way"
    if width > 2 * distance or prompts < ENOUGH_PROMPTS:
        less = f"; {ENOUGH_PROMPTS} prompts would say more"
        if width > 2 * distance:
            less = ", which is more than it is itself"
        return Answer(question, "fair", f"Somewhat: {basis}. {interval}{less}.")
    of = "this subject" if photos >= ENOUGH_PHOTOS else "these held-out photos (more would speak for the subject)"
    said = f"Sure enough to speak of prompts like these and of {of}: {basis}. {interval}."
    return Answer(question, "good", said)


def _headline(answers: tuple[Answer, ...], word: str) -> str:
    subject, prompt, copies, sure = (a.grade for a in answers)
    parts = [
        {"good": f"Looks like this {word}", "fair": f"Looks somewhat like this {word}",
         "poor": f"Does not look like this {word}", "unknown": "Not known whether it looks like the subject"}[subject],
        {"good": "follows the prompt", "fair": "follows the prompt in part", "poor": "hardly follows the prompt"
         }.get(prompt, ""),
        {"good": "does not copy its photos", "fair": "leans on its photos", "copies": "copies its photos"
         }.get(copies, ""),
    ]  # fmt: skip
    certainty = "" if sure == "good" else " (little to go by)" if sure == "poor" else " (with little certainty)"
    return ", ".join(part for part in parts if part) + certainty + "."


def _width(found: Difference | None) -> float | None:
    if found is None or found.low is None or found.high is None:
        return None
    return found.high - found.low


def _s(count: int) -> str:
    return "" if count == 1 else "s"
