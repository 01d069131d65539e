"""How a concept was made: settings, versions, hashes; never a photo or a path."""

from __future__ import annotations

import torch

from .concept import Concept
from .history import History
from .model import DiffusionModel
from .photos import SubjectSet
from .rights import card_of
from .settings import TrainSettings
from .views import VERSION as VIEWS

VERSION = "0.1.0"


def run_card(
    model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None,
    history: History, plain_loss: dict[str, float], seconds: float, start_from: Concept | None = None,
) -> dict:  # fmt: skip
    """The run card of a finished training. plain_loss: fixed losses of the concept and of its plain embedding."""
    return {
        "format": 1,
        **what_is_trained(model, subject, settings, held_out, start_from),
        "seconds": round(seconds, 2),
        "background_steps": history.background_steps,
        "best_step": history.best_step,
        "stopped": history.stopped,
        "notes": history.notes,
        "loss": {
            "background": _rounded(history.background),
            "train": _rounded(history.train),
            "held_out": _rounded(history.held_out),
            **{name: round(value, 6) for name, value in plain_loss.items()},
        },
    }


def what_is_trained(
    model: DiffusionModel, subject: SubjectSet, settings: TrainSettings, held_out: SubjectSet | None,
    start_from: Concept | None = None,
) -> dict:  # fmt: skip
    """All that a training follows from."""
    certificate = subject.certificate
    return {
        "representation": settings.representation,
        "settings": settings.card(),
        "base_model": model.identity,
        "prediction": model.prediction,
        "start_concept": start_from.sha256 if start_from else "",
        "photos_before": photos_behind(start_from) if start_from else [],
        "train_photos": [p.sha256 for p in subject.photos],
        "held_out_photos": [p.sha256 for p in held_out.photos] if held_out else [],
        "masks": "given" if subject.has_masks else "none",
        "split_certificate": certificate.sha256 if certificate else "",
        **card_of(subject, start_from.run_card if start_from else {}),
        "versions": {"attractor": VERSION, "views": VIEWS, "torch": torch.__version__},
    }


def photos_behind(concept: Concept) -> list[str]:
    """Hashes of all photos that a concept, and those that it started from, were trained on."""
    card = concept.run_card
    return sorted({str(one) for name in ("train_photos", "photos_before") for one in card.get(name) or []})


def photos_seen_by(concept: Concept) -> list[str]:
    """Those, and the photos that it was stopped by."""
    return sorted({*photos_behind(concept), *map(str, concept.run_card.get("held_out_photos") or [])})


def _rounded(points: list[tuple[int, float]]) -> list[list[float]]:
    return [[step, round(value, 6)] for step, value in points]
