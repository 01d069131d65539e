"""`make bench-masks`: masks against the truth on renders and on real photos, verdicts, speed, and the proposal.

Writes docs/benchmarks/masks.json, its section of docs/benchmarks.md, and sheets to look at.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...attractor.overlay import effective_weight, mask_picture
from ...training import demo_assets
from ...training.photos import SubjectSet
from ...training.views import centre_view
from .. import benchmarks
from ..quality.tables import seeds_in_words
from . import subjects
from .measure import BAD, FINE, Scored, mean, verdict_figures
from .proposal import proposal
from .speed import speed

PARTS = ("speed", "demo", "real", "sheet", "proposal")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the parts that are asked for and print them; `--write` keeps them, when all were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2, help="of the trainings that a proposal is compared with")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks; what was not run stays, dated")
    parser.add_argument("--sheets", type=Path, default=Path(".cache/masks"), help="folder for sheets to look at")
    parser.add_argument("--picture", type=Path, help="only write the README's picture there: the demo subject's masks")
    chosen = parser.parse_args(argv)
    if chosen.picture:
        Image.fromarray(_readme_picture()).save(chosen.picture, quality=88)
        return 0
    if chosen.write and not {"demo", "real"} <= set(chosen.parts):
        parser.error("--write lists every mask: have 'demo' and 'real' among the parts")
    figures: dict[str, float] = speed() if "speed" in chosen.parts else {}
    rows: list[Scored] = []
    if "demo" in chosen.parts:
        found, sets = subjects.demo(chosen.subjects)
        rows += found
        _sheets(sets, chosen.sheets / "demo", side=128)
        for back_end in ("saliency", "attention", "auto"):
            figures |= _both(found, f"demo.{back_end}", f"demo.{back_end}")
    if "real" in chosen.parts:
        found, sets = subjects.break_a_scene()
        rows += found
        _sheets(sets, chosen.sheets / "break_a_scene")
        for group, key in (("saliency", "saliency"), ("click", "auto"), ("box", "auto_box")):
            figures |= _both(found, f"break_a_scene.{group}", f"break_a_scene.{key}")
    if rows:
        _print(rows)
        figures |= verdict_figures(rows)
        auto = [row for row in rows if row.group in ("demo.auto", "break_a_scene.click", "break_a_scene.box")]
        figures |= {f"{k}_of_auto": v for k, v in verdict_figures(auto).items()}
    if "sheet" in chosen.parts:
        _sheets(subjects.dreambooth(), chosen.sheets / "dreambooth")
    if "proposal" in chosen.parts:
        figures |= proposal(chosen.subjects, chosen.seeds, chosen.workers)
    for name, value in figures.items():
        print(f"{name:36s} {value:.3f}")
    if chosen.write:
        _write(figures, rows, chosen)
    return 0


def _write(figures: dict[str, float], rows: Sequence[Scored], chosen: argparse.Namespace) -> None:
    """The record and its section of the page; figures of parts that were not run are those of the last record."""
    path = benchmarks.FOLDER / "masks.json"
    last = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"figures": {}}
    figures = {**last["figures"], **figures}
    now = f"{date.today().isoformat()}, commit {benchmarks.commit()}, {chosen.subjects} subjects"
    before = last.get("measured", {})
    measured = {part: now if part in chosen.parts else before.get(part, "not measured") for part in PARTS}
    benchmarks.write_record("masks", figures, seeds={"world": subjects.FIRST_SEED}, measured=measured)
    title = "Masks: overlap, boundaries, verdicts, cost, proposal"
    benchmarks.write_section("masks", title, _section(figures, rows, measured))


def _both(rows: Sequence[Scored], group: str, name: str) -> dict[str, float]:
    return {f"{name}_iou": mean(rows, group), f"{name}_boundary_f": mean(rows, group, "boundary")}


def _print(rows: Sequence[Scored]) -> None:
    for row in rows:
        doubtful = row.iou < BAD or (row.iou > FINE) != (row.verdict == "good")
        if row.group.startswith("break_a_scene") or doubtful:
            print(f"{row.group:24s} {row.name:18s} IoU {row.iou:.2f} boundary {row.boundary:.2f} "
                  f"sure {row.confidence:.2f} {row.verdict}")  # fmt: skip


def _readme_picture() -> np.ndarray:
    """Three of the demo subject's photos, a column for each back end."""
    photos = demo_assets.subject()
    three = photos.with_photos(photos.photos[i] for i in (0, 5, 7))
    columns = []
    for back_end in ("saliency", "attention", "auto"):
        masked = subjects.masked(three, back_end)
        columns.append(_column(masked, 256, back_end))
    return np.concatenate(columns, 1)


def _column(masked: SubjectSet, side: int, label: str = "") -> np.ndarray:
    """Every photo of a set with its mask, loss weight and verdict, one below the other: uint8 [H, W, 3]."""
    pictures = []
    for photo in masked.photos:
        mask = torch.ones(photo.pixels.shape[-2:]) if photo.mask is None else photo.mask
        weight, share = effective_weight(centre_view(mask), 1.0, 8 if max(mask.shape) <= 64 else 64)
        pictures.append(mask_picture(photo.pixels, mask, photo.verdict, weight, share, side, label or photo.name))
    height, width = (max(p.shape[d] for p in pictures) for d in (1, 2))
    canvas = torch.zeros(3, height * len(pictures), width)
    for i, picture in enumerate(pictures):
        canvas[:, i * height : i * height + picture.shape[1], : picture.shape[2]] = picture
    return (canvas.movedim(0, -1).numpy() * 255).round().astype(np.uint8)


def _sheets(sets: Sequence[tuple[SubjectSet, str]], folder: Path, side: int = 256) -> None:
    """One picture a set: every photo with its mask, loss weight and verdict."""
    folder.mkdir(parents=True, exist_ok=True)
    for masked, name in sets:
        safe = name.replace("/", "-").replace(", ", "-")
        Image.fromarray(_column(masked, side)).save(folder / f"{safe}.png")


def _section(figures: dict[str, float], rows: Sequence[Scored], measured: dict[str, str]) -> str:
    text = [
        f"`make bench-masks` on {measured['real']}, {benchmarks.machine()}. IoU is intersection over union at one "
        "half; boundary F is within .8% of the diagonal. Demo world: shadow, reflection and a second object always on. "
        "Break-A-Scene: 20 objects in 7 photos, on which the rules for clicks were also chosen (docs/notes.md), *auto* "
        "with one click on an object's inmost point, or with a box "
        "around it.",
        "| on | masks | IoU | boundary F |\n|---|---|---|---|",
    ]
    table = [("demo world", "saliency", "demo.saliency"), ("demo world", "attention", "demo.attention"),
             ("demo world", "auto", "demo.auto"), ("Break-A-Scene", "saliency", "break_a_scene.saliency"),
             ("Break-A-Scene", "auto, one click", "break_a_scene.auto"),
             ("Break-A-Scene", "auto, a box", "break_a_scene.auto_box")]  # fmt: skip
    text[-1] += "".join(f"\n| {on} | {what} | {figures[f'{key}_iou']:.3f} | {figures[f'{key}_boundary_f']:.3f} |"
                        for on, what, key in table)  # fmt: skip
    text.append(
        f"Verdicts, of all these masks: {figures['verdict.bad_flagged']:.0%} of the {figures['verdict.bad']:.0f} with "
        f"IoU under {BAD} are not called good (of auto's own {figures['verdict.bad_of_auto']:.0f}: "
        f"{figures['verdict.bad_flagged_of_auto']:.0%}); {figures['verdict.good_flagged']:.0%} of the "
        f"{figures['verdict.good']:.0f} above {FINE} are called anything else."
    )
    text.append(
        f"Time ({measured['speed']}): saliency takes {figures['saliency.seconds']:.3f} s a photo, plain onnxruntime "
        f"{figures['saliency.plain_seconds']:.3f} s ({figures['saliency.over_plain']:.2f} times); attention takes "
        f"{figures['attention.forwards_a_photo']:.0f} U-Net forwards a photo. The proposed strength "
        f"({measured['proposal']}) is within .05 of the best of a full sweep "
        f"({seeds_in_words(int(figures['proposal.seeds']))} of training, the photos of the quality benchmark), in leak "
        "and in subject fidelity, for "
        f"{figures['proposal.within_5pct']:.0f} of {figures['proposal.subjects']:.0f} subjects (strength 1 for all of "
        f"them: {figures['proposal.always_1_within_5pct']:.0f}), in "
        f"{figures['proposal.seconds']:.0f} s each."
    )
    listed = [row for row in rows if row.group.startswith("break_a_scene")]
    text.append("| object | masks | IoU | boundary F | verdict |\n|---|---|---|---|---|" + "".join(
        f"\n| {row.name} | {row.group.split('.')[1]} | {row.iou:.2f} | {row.boundary:.2f} | {row.verdict} |"
        for row in listed))  # fmt: skip
    return "\n\n".join(text)


if __name__ == "__main__":
    raise SystemExit(main())
