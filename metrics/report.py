"""All scores of one concept on one split: as data, as a table, and in words."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..attractor.errors import AttractorError
from ..attractor.files import read_json
from ..training.photos import SubjectSet
from ..training.rights import strictest
from .copies import PixelCopy
from .generations import Generations
from .verdict import Verdict, judge

if TYPE_CHECKING:
    from .scores import Score
    from .statistics import Difference

FORMAT = 2  # of report.json, described in docs/scoring.md
CSV_COLUMNS = ("prompt", "seed", "encoder", "region", "held_out", "train", "nearest_train_similarity",
               "nearest_train_photo", "leak", "text")  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All scores of one concept on one split, with what they were measured on.

    pixel_copies: pictures that hold a train photo's pixels; None where the pictures are too small to tell.
    """

    scores: list[Score]
    generations: Generations
    train: SubjectSet
    held_out: SubjectSet
    nearest_pair: dict
    base: Generations | None = None
    pixel_copies: list[PixelCopy] | None = None

    @property
    def stopped_by_held_out(self) -> bool:
        """True when these held-out photos chose the training step that was kept."""
        card = self.generations.concept.run_card if self.generations.concept else {}
        return bool({p.sha256 for p in self.held_out.photos} & set(card.get("held_out_photos") or []))

    @property
    def verdict(self) -> Verdict:
        """The answers that the page leads with."""
        return judge(self)

    def as_dict(self) -> dict:
        """Everything but the pictures, for report.json."""
        concept = self.generations.concept
        return {
            "format": FORMAT,
            "class_word": self.generations.class_word,
            "verdict": asdict(self.verdict),
            "concept_sha256": concept.sha256 if concept else None,
            "run_card": concept.run_card if concept else None,
            "train_photos": [p.sha256 for p in self.train.photos],
            "held_out_photos": [p.sha256 for p in self.held_out.photos],
            "split_certificate": self._certificate,
            "rights": {sha256: rights.as_dict() for sha256, rights in strictest(self.train.photos).items()},
            "nearest_pair_across_the_split": self.nearest_pair,
            "held_out_photos_chose_the_step": self.stopped_by_held_out,
            "prompt_token_replaced_by": self.generations.class_word,
            "pictures": [asdict(item) for item in self.generations.items],
            "pixel_copies": None if self.pixel_copies is None else [asdict(copy) for copy in self.pixel_copies],
            "scores": [asdict(score) for score in self.scores],
        }

    @property
    def _certificate(self) -> str | None:
        """Hash of the split certificate, where it is of these very photos."""
        certificate = self.train.certificate
        if certificate is None:
            return None
        parts = ((certificate.train, self.train), (certificate.held_out, self.held_out))
        fits = all(sorted(named) == sorted(p.sha256 for p in photos.photos) for named, photos in parts)
        return certificate.sha256 if fits else None

    def as_csv(self) -> str:
        """A row for each picture, encoder and region."""
        out = io.StringIO()
        writer = csv.DictWriter(out, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for s in self.scores:
            for row in s.pictures:
                writer.writerow({"encoder": s.stamp["encoder"], "region": s.region, **row})
        return out.getvalue()

    @property
    def sha256(self) -> str:
        """Hash of the report's figures."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def text(self) -> str:
        """The verdict and the figures in lines that a person can read."""
        lines = [self.verdict.headline, *(f"- {a.question} {a.text}" for a in self.verdict.answers), ""]
        for s in self.scores:
            part = "" if s.region == "whole" else f", {s.region} only"
            lines.append(f"{s.stamp['encoder']}{part} ({s.stamp['scale']}, weights {s.stamp['weights'][:12]})")
            lines += [f"  {line}" for line in (self._image_lines(s) if s.kind == "image" else self._text_lines(s))]
        if self.stopped_by_held_out:
            lines.append("The held-out photos also chose the step to keep; they were not trained on.")
        count = len(self.generations.items)
        lines.append(f"{count} pictures; {len(self.held_out)} held-out and {len(self.train)} train photos of one "
                     "subject: the figures speak of this subject only.")
        return "\n".join(lines)

    def _image_lines(self, s: Score) -> list[str]:
        lines = [f"similarity to held-out photos {number(s.held_out)} (floor {number(s.floor)}, ceiling "
                 f"{number(s.ceiling)}); to train photos {number(s.train)}; memorisation gap "
                 f"{number(s.memorisation_gap) if s.gap is None else sure(s.gap)}"]  # fmt: skip
        if s.over_floor is not None:
            lines.append(f"above the floor by {sure(s.over_floor)}")
        if s.leak is not None:
            lines.append(f"backgrounds moved toward the train photos' by {sure(s.leak)} (0 not at all, 1 all the way)")
        if s.copies is not None:
            lines.append(f"nearest train photo: {s.copies.mean:.3f} on average, 95th percentile {s.copies.upper:.3f}; "
                         f"{s.copies.share:.0%} above {s.copies.threshold:.3f} ({s.copies.basis})")  # fmt: skip
        if s.retrieval is not None:
            lines.append(f"among look-alikes: average precision {s.retrieval.average_precision:.3f} (chance "
                         f"{s.retrieval.chance:.3f}), recognised first in {s.retrieval.first:.0%}")  # fmt: skip
        if s.diversity is not None:
            lines.append(f"diversity between seeds {s.diversity:.3f} (base model {number(s.diversity_floor)})")
        return lines

    def _text_lines(self, s: Score) -> list[str]:
        word = self.generations.class_word
        lines = [f"similarity to the prompt, read with {word!r} for <subject>: {number(s.text)} (base model "
                 f"{number(s.floor)}); to the other prompts {number(s.chance)} ({number(s.chance_floor)})"]  # fmt: skip
        lines.append(f"as CLIPScore: {published(s.text)}")
        return lines if s.over_floor is None else [*lines, f"above the floor by {sure(s.over_floor)}"]


def read_report(path: Path) -> dict:
    """What report.json holds. Raises AttractorError, naming the file, when it is none, or of a newer version."""
    data = read_json(path)
    version = data.get("format")
    if not isinstance(version, int) or not isinstance(data.get("scores"), list):
        raise AttractorError(f"{path}: not a report. Give the report.json of a scored concept.")
    if version > FORMAT:
        raise AttractorError(f"{path}: written by a newer version (format {version}; this one reads up to {FORMAT}). "
                             "Update the pack.")
    return data


def sure(found: Difference) -> str:
    """A difference with its interval in words."""
    if found.low is None:
        return f"{found} (one prompt: how sure that is cannot be said)"
    return f"{found}, over {found.units} prompts"


def published(cosine: float | None) -> str:
    """A similarity to the prompt on the scales that papers use."""
    score = max(cosine or 0.0, 0.0)
    return f"{100 * score:.1f} (100 times the cosine, as torchmetrics), {2.5 * score:.3f} (2.5 times, Hessel et al.)"


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"
