"""The report as files: report.json, and report.html with all pictures in it, for someone new to the project."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..attractor.overlay import overlay
from ..training.concept import write_beside
from ..training.history import History
from .charts import loss_curve, score_chart
from .duplicates import Thresholds
from .generations import contact_sheet, to_picture

if TYPE_CHECKING:
    from ..training.photos import SubjectSet
    from .scores import Report


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write folder/report.json and folder/report.html; gives both paths."""
    data, page = folder / "report.json", folder / "report.html"
    text, html = json.dumps(report.as_dict(), indent=2, sort_keys=True), render(report)
    write_beside(data, _writer(text))
    write_beside(page, _writer(html))
    return data, page


def render(report: Report) -> str:
    """The page as HTML, pictures inside."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    concept = report.generations.concept
    history = _history(concept.run_card) if concept else None
    return environment.get_template("report.html.j2").render(
        word=report.generations.class_word,
        scores=report.scores,
        card=concept.run_card if concept else {},
        settings=(concept.run_card.get("settings") or {}) if concept else {},
        train=_photos(report.train),
        held_out=_photos(report.held_out),
        curve=_image(loss_curve(history)) if history and (history.train or history.losses) else "",
        chart=_image(score_chart(report)),
        sheet=_image(to_picture(contact_sheet(report.generations))),
        base_sheet=_image(to_picture(contact_sheet(report.base))) if report.base else "",
        nearest=report.nearest_pair,
        limits=Thresholds(),
        toy_subject=all(max(p.size) <= 64 for p in report.train.photos),
        certificate=report.train.certificate,
        suspects=_suspects(report),
        sampler=report.generations.items[0].settings if report.generations.items else {},
        stopped_by_held_out=report.stopped_by_held_out,
        sha256=report.sha256,
    )


def _photos(subject: SubjectSet) -> list[dict]:
    return [
        {
            "name": photo.name,
            "picture": _thumbnail(photo.pixels),
            "mask": _thumbnail(overlay(photo.pixels, photo.mask)) if photo.mask is not None else "",
            "verdict": photo.verdict,
        }
        for photo in subject.photos
    ]


def _suspects(report: Report) -> list[dict]:
    """The three pictures that come nearest to a train photo, beside that photo."""
    rows = next((s.pictures for s in report.scores if s.kind == "image"), [])
    by_hash = {photo.sha256: photo for photo in report.train.photos}
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["nearest_train_similarity"])[:3]
    return [
        {
            **rows[i],
            "picture": _thumbnail(report.generations.images[i]),
            "photo": _thumbnail(by_hash[rows[i]["nearest_train_photo"]].pixels),
        }
        for i in order
    ]


def _history(card: dict) -> History:
    """The curve that a run card keeps."""
    loss = card.get("loss") or {}

    def points(name: str) -> list[tuple[int, float]]:
        return [(int(step), float(value)) for step, value in loss.get(name, [])]

    return History(
        background=points("background"), train=points("train"), held_out=points("held_out"),
        best_step=int(card.get("best_step", 0)),
    )  # fmt: skip


def _thumbnail(image: Tensor, side: int = 224) -> str:
    height, width = image.shape[-2:]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
    return _image(to_picture(small))


def _image(picture) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG" if picture.width * picture.height < 600_000 else "JPEG", quality=88)
    kind = "png" if buffer.getvalue()[:4] == b"\x89PNG" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")

