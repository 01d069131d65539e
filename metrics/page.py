"""The report as files: report.json, report.csv, and report.html with all pictures in it, for someone new to this."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from ..attractor.overlay import overlay
from ..training.history import History
from .charts import comparison_chart_svg, loss_curve_svg, score_chart_svg
from .duplicates import Thresholds
from .generations import Generations, contact_sheet, to_picture
from .report import Report, published, read_report

if TYPE_CHECKING:
    from jinja2 import Template

    from ..training.photos import SubjectSet
    from .compare import Comparison


PAGES = ("report.html", "comparison.html")
_SUSPECTS = 6
_SHEET_PROMPTS, _SHEET_SEEDS = 24, 8


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write folder/report.json, report.csv and report.html; gives the paths of the first and the last."""
    data, page = folder / "report.json", folder / PAGES[0]
    text, html = json.dumps(report.as_dict(), indent=2, sort_keys=True), render(report)
    write_beside(data, _writer(text))
    write_beside(folder / "report.csv", _writer(report.as_csv()))
    write_beside(page, _writer(html))
    return data, page


def folder_for(report: Report, wanted: Path) -> Path:
    """The folder `wanted`, or wanted-2 and so on where a report of other photos lies already, which is kept."""
    photos = {photo.sha256 for part in (report.train, report.held_out) for photo in part.photos}
    folder, number = wanted, 1
    while not _is_free_for(photos, folder / "report.json"):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def _is_free_for(photos: set[str], data: Path) -> bool:
    if not data.exists():
        return True
    try:
        found = read_report(data)
    except AttractorError:
        return False
    return bool(photos & {*(found.get("train_photos") or ()), *(found.get("held_out_photos") or ())})


def write_comparison(comparison: Comparison, folder: Path, reports: Sequence[Report] = ()) -> tuple[Path, Path]:
    """Write folder/comparison.json and comparison.html, with the runs' pictures where they are given; both paths."""
    data, page = folder / "comparison.json", folder / PAGES[1]
    sheets = [(name, _sheet(report.generations)) for name, report in zip(comparison.names, reports, strict=False)]
    verdicts = list(zip(comparison.names, comparison.grades, strict=True))
    chart = vector(comparison_chart_svg(comparison))
    html = template("comparison.html.j2").render(found=comparison, verdicts=verdicts, chart=chart, sheets=sheets)
    write_beside(data, _writer(json.dumps(comparison.as_dict(), indent=2, sort_keys=True)))
    write_beside(page, _writer(html))
    return data, page


def template(name: str, folder: Path | None = None) -> Template:
    """A page's template, of the folder or of this one, which holds the style that all pages share."""
    from jinja2 import Environment, FileSystemLoader

    own = Path(__file__).parent
    return Environment(loader=FileSystemLoader([folder or own, own]), autoescape=True).get_template(name)


def render(report: Report) -> str:
    """The page as HTML, pictures inside."""
    concept = report.generations.concept
    history = _history(concept.run_card) if concept else None
    return template("report.html.j2").render(
        word=report.generations.class_word,
        photos=[photo.sha256 for photo in (*report.train.photos, *report.held_out.photos)],
        verdict=report.verdict,
        scores=report.scores,
        regions=any(s.region != "whole" for s in report.scores),
        limits_of=list(dict.fromkeys(f"{s.stamp['encoder']}: {s.copies.basis}" for s in report.scores if s.copies)),
        clip_scores=[f"{s.stamp['encoder']}: {published(s.text)}" for s in report.scores if s.kind == "text"],
        gallery=any(s.retrieval for s in report.scores),
        card=concept.run_card if concept else {},
        settings=(concept.run_card.get("settings") or {}) if concept else {},
        train=_photos(report.train),
        held_out=_photos(report.held_out),
        curve=vector(loss_curve_svg(history)) if history and (history.train or history.losses) else "",
        chart=vector(score_chart_svg(report)),
        sheet=_sheet(report.generations),
        base_sheet=_sheet(report.base) if report.base else "",
        left_out=len(report.generations.items) - len(_shown(report.generations)),
        nearest=report.nearest_pair,
        limits=Thresholds(),
        toy_subject=all(max(p.size) <= 64 for p in report.train.photos),
        certificate=report.train.certificate,
        suspects=_suspects(report),
        sampler=report.generations.items[0].settings if report.generations.items else {},
        stopped_by_held_out=report.stopped_by_held_out,
        sha256=report.sha256,
    )


def _shown(generations: Generations) -> list[int]:
    """Places of the pictures that a sheet shows: of the first prompts and seeds."""
    prompts = list(dict.fromkeys(item.prompt for item in generations.items))[:_SHEET_PROMPTS]
    seeds = list(dict.fromkeys(item.seed for item in generations.items))[:_SHEET_SEEDS]
    return [i for i, item in enumerate(generations.items) if item.prompt in prompts and item.seed in seeds]


def _sheet(generations: Generations) -> str:
    """The contact sheet of a run, or of its first prompts and seeds, in smaller cells the more there are."""
    places = _shown(generations)
    part = replace(generations, images=generations.images[places], items=tuple(generations.items[i] for i in places))
    return _image(to_picture(contact_sheet(part, 256 if len(places) <= 40 else 160)))


def _photos(subject: SubjectSet) -> list[dict]:
    return [
        {
            "name": photo.name,
            "picture": thumbnail(photo.pixels),
            "mask": thumbnail(overlay(photo.pixels, photo.mask)) if photo.mask is not None else "",
            "verdict": photo.verdict,
        }
        for photo in subject.photos
    ]


def _suspects(report: Report) -> list[dict]:
    """The pictures that come nearest to a train photo, beside that photo."""
    rows = next((s.pictures for s in report.scores if s.kind == "image"), [])
    by_hash = {photo.sha256: photo for photo in report.train.photos}
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["nearest_train_similarity"])[:_SUSPECTS]
    pixels = {copy.picture for copy in report.pixel_copies or ()}
    return [
        {
            **rows[i],
            "pixels": i in pixels,
            "picture": thumbnail(report.generations.images[i]),
            "photo": thumbnail(by_hash[rows[i]["nearest_train_photo"]].pixels),
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


def thumbnail(image: Tensor, side: int = 224) -> str:
    """An image [3, H, W] in [0, 1] as an address that holds it, `side` pixels at most."""
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


def vector(svg: bytes) -> str:
    """A chart as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _writer(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")
